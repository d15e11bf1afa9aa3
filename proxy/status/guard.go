package status

import (
	"net/http"
	"net/netip"
	"strings"

	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/printable"
)

// guard keeps web pages away from the pages of s. The listener asks for no
// token, so a page that a browser on this machine shows could read them: by a
// name of the page's own that its DNS server has pointed here meanwhile (DNS
// rebinding), which the Host header gives away, or by a request to us that the
// browser marks as another site's.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !s.answersTo(r.Host) && isProbe(r):
			s.answerProbe(w, r)
		case !s.answersTo(r.Host):
			text(w, http.StatusForbidden, s.Names.Sprintf("the admin listener does not serve the host %s: use an IP address or localhost, or allow the host with %s",
				printable.Text(r.Host, printable.Name), hints.AdminHost))
		case fromOtherSite(r.Header):
			text(w, http.StatusForbidden, "the admin listener does not serve pages of other sites")
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// isProbe reports whether r asks for yes or no alone. A platform's probes may use
// any host name, and no setting can list them.
func isProbe(r *http.Request) bool {
	return (r.Method == http.MethodGet || r.Method == http.MethodHead) && (r.URL.Path == "/healthz" || r.URL.Path == "/readyz")
}

// answerProbe says yes or no, and not why, to a request by an unknown name.
func (s *Server) answerProbe(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/readyz" && s.Ready != nil && s.Ready() != nil {
		text(w, http.StatusServiceUnavailable, "not ready; request this page by IP address to see why")
		return
	}
	text(w, http.StatusOK, "ok")
}

// answersTo reports whether a Host header names us: a name that nobody else can
// point elsewhere. Browsers always send one. What proxies say of the Host that
// they were asked for (X-Forwarded-Host) counts for nothing.
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

// hostname is a Host header without its port, and whether it is an IP address.
// It is not split as leniently as by package net: what has another form than
// RFC 9110 gives it is no address, and equals no name.
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

// isPort reports whether s is nothing, or a colon and digits.
func isPort(s string) bool {
	return s == "" || s[0] == ':' && strings.Trim(s[1:], "0123456789") == ""
}

// fromOtherSite reports whether a browser sends the request for a page of
// another site. The page could not read the answer, but could have us gather
// metrics all day. A link that somebody clicks is fine.
func fromOtherSite(h http.Header) bool {
	switch h.Get("Sec-Fetch-Site") {
	case "cross-site", "same-site":
		return h.Get("Sec-Fetch-Dest") != "document"
	}
	return h["Origin"] != nil // which no browser sends along with a GET to its own site
}
