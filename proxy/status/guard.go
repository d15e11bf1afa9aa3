package status

import (
	"net/http"
	"net/netip"
	"strings"

	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/printable"
)

// guard refuses requests that a web page of another site makes in a browser on this machine. The
// listener requires no token, so such a page could read metrics in two ways. It can point its own
// host name at us (DNS rebinding), which the Host header shows. Or it can send requests to our
// address, which the browser marks with another site.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !s.answersTo(r.Host) && isProbe(r):
			s.answerProbe(w, r)
		case !s.answersTo(r.Host):
			text(w, http.StatusForbidden, s.Names.Sprintf("the admin listener does not serve the host %s: use an IP address or localhost, or allow the host with %s",
				printable.Text(r.Host, printable.Name), hints.AdminHost))
		case fromOtherSite(r):
			text(w, http.StatusForbidden, "the admin listener does not serve pages of other sites")
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// isProbe reports whether r asks for health or readiness only. A platform's probes may use any host
// name, such as a pod's, and no setting can list them.
func isProbe(r *http.Request) bool {
	return (r.Method == http.MethodGet || r.Method == http.MethodHead) && (r.URL.Path == "/healthz" || r.URL.Path == "/readyz")
}

// answerProbe answers a probe with an unknown host name. It does not say why the process is not
// ready: the reason names addresses.
func (s *Server) answerProbe(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/readyz" && s.Ready != nil && s.Ready() != nil {
		text(w, http.StatusServiceUnavailable, "not ready; request this page by IP address to see why")
		return
	}
	text(w, http.StatusOK, "ok")
}

// answersTo reports whether a Host header names us, by a name that no other site controls: an IP
// address, localhost, or one of Hosts. Browsers always send the header. X-Forwarded-Host is
// ignored, since any client can send it.
func (s *Server) answersTo(host string) bool {
	if host == "" {
		return true // HTTP/1.0, as in health checks of load balancers
	}
	name, literal := hostname(host)
	if literal || strings.EqualFold(name, "localhost") {
		return true
	}
	for _, own := range s.Hosts {
		if strings.EqualFold(name, strings.TrimSuffix(own, ".")) {
			return true
		}
	}
	return false
}

// hostname returns a Host header without its port, and whether it is an IP address. It is stricter
// than package net: a header that is not as in RFC 9110 section 7.2 is not an address, and equals
// no name.
func hostname(host string) (name string, literal bool) {
	if inner, ok := strings.CutPrefix(host, "["); ok {
		address, port, ok := strings.Cut(inner, "]")
		ip, err := netip.ParseAddr(address)
		return host, ok && isPort(port) && err == nil && ip.Is6()
	}
	name, port, found := strings.Cut(host, ":")
	if found && !isPort(":"+port) {
		return host, false
	}
	ip, err := netip.ParseAddr(name)
	return strings.TrimSuffix(name, "."), err == nil && ip.Is4()
}

// isPort reports whether s is empty, or a colon and digits.
func isPort(s string) bool {
	return s == "" || s[0] == ':' && strings.Trim(s[1:], "0123456789") == ""
}

// fromOtherSite reports whether a browser sends the request for a page of another site. The page
// could not read the response, but it could keep us busy gathering metrics. Following a link to us
// is fine.
func fromOtherSite(r *http.Request) bool {
	h := r.Header
	switch h.Get("Sec-Fetch-Site") {
	case "cross-site", "same-site":
		return h.Get("Sec-Fetch-Dest") != "document"
	case "same-origin":
		return false // also with Origin, which browsers send when our page loads its modules
	}
	// Browsers send no Sec-Fetch-Site to plain HTTP beyond loopback, nor do old ones. They send Origin
	// with a GET only to another site, and for our modules.
	return h["Origin"] != nil && !isOwnOrigin(h["Origin"], r.Host)
}

// isOwnOrigin reports whether an Origin header is that of a page of host, the Host header. The scheme
// may be another one where something in front of us speaks TLS.
func isOwnOrigin(origin []string, host string) bool {
	return len(origin) == 1 && host != "" && (strings.EqualFold(origin[0], "http://"+host) || strings.EqualFold(origin[0], "https://"+host))
}
