package doctor

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/culvert-proxy/culvert/proxy"
	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// An Ingress knows what to do where the way to a gateway ends before anything answers. The Ingress
// of a [tunnel.Dialer] may be one; then it is asked.
type Ingress interface {
	tunnel.Ingress

	// Remedy is what to do where a hop has failed: "name", "tcp", "tls" or "credentials". It stands
	// in place of what holds for any gateway; "" is nothing better.
	Remedy(hop string) string
}

// Gateway examines the way to one gateway, and what is behind it. dial makes dialers that differ in
// nothing but their transport; the Doctor closes them. transports are those to try, the preferred
// one first.
func (d *Doctor) Gateway(ctx context.Context, dial func(transport string) *tunnel.Dialer, transports []string) {
	g := &gateway{Doctor: d, dial: dial}
	if !g.reach(ctx) {
		return
	}
	dialer, welcome := g.hello(ctx, transports)
	if dialer == nil {
		return
	}
	g.paces(ctx, g.working)
	up := proxy.NewTunnel(dialer)
	defer dialer.Close()
	g.forwards(ctx, up)
	d.Brokers(ctx, up, welcome.Tickets)
}

// gateway is the way to one.
type gateway struct {
	*Doctor
	dial    func(transport string) *tunnel.Dialer
	tcp     net.Conn // what connect has dialled, for handshake: a connection that says nothing is logged
	working []string // the transports that answered a hello
}

// reach examines the hops below the tunnel, up to the first that fails.
func (g *gateway) reach(ctx context.Context) bool {
	dialer := g.dial(tunnel.TransportWS)
	defer dialer.Close()
	for _, mistake := range tunnel.ProxyMistakes(dialer.URL) {
		f := g.failure(ctx, mistake)
		f.Hop, f.Result = "proxy", Warn
		g.report(f)
	}
	defer func() {
		if g.tcp != nil {
			g.tcp.Close()
		}
	}()
	for _, hop := range []struct {
		name    string
		examine func(context.Context, *tunnel.Dialer) Finding
	}{{"name", g.name}, {"tcp", g.connect}, {"tls", g.handshake}, {"credentials", g.credentials}} {
		if !g.hop(ctx, hop.name, func(ctx context.Context) Finding { return advised(dialer, hop.name, hop.examine(ctx, dialer)) }) {
			return false
		}
	}
	return true
}

// advised is a finding with the remedy of the ingress, if it has one.
func advised(dialer *tunnel.Dialer, hop string, f Finding) Finding {
	if i, ok := dialer.Ingress.(Ingress); ok && f.Result == Fail {
		f.Remedy = cmp.Or(i.Remedy(hop), f.Remedy)
	}
	return f
}

// name looks the gateway up, unless the proxy does that.
func (g *gateway) name(ctx context.Context, dialer *tunnel.Dialer) Finding {
	host := dialer.URL.Hostname()
	through, err := tunnel.ProxyFromEnvironment(dialer.URL)
	if err != nil {
		return g.failure(ctx, err)
	}
	if through != nil {
		return ok("%s is looked up by the proxy %s", host, through.Host)
	}
	if net.ParseIP(host) != nil {
		return ok("%s needs no lookup", host)
	}
	addresses, err := dialer.Lookup(ctx)
	if err != nil {
		return g.failure(ctx, err)
	}
	return ok("%s is %s", host, strings.Join(addresses, ", "))
}

// connect dials TCP, through the proxy if there is one.
func (g *gateway) connect(ctx context.Context, dialer *tunnel.Dialer) Finding {
	start := time.Now()
	c, err := dialer.DialTCP(ctx)
	if err != nil {
		return g.failure(ctx, err)
	}
	g.tcp = c
	return ok("%s accepts connections after %s", c.RemoteAddr(), millis(time.Since(start)))
}

// soon is how long before a certificate expires that is worth a warning, as in the log and the alert.
const soon = 7 * 24 * time.Hour

// handshake offers the protocols that browsers offer, to see which one is chosen: without "h2"
// there is no transport over HTTP/2.
func (g *gateway) handshake(ctx context.Context, dialer *tunnel.Dialer) Finding {
	if dialer.URL.Scheme == "http" {
		return ok("no TLS: the URL begins with http://, as is allowed on loopback")
	}
	config := &tls.Config{}
	if dialer.TLS != nil {
		config = dialer.TLS.Clone()
	}
	if config.ServerName == "" {
		config.ServerName = dialer.URL.Hostname()
	}
	config.NextProtos = []string{"h2", "http/1.1"}
	c := tls.Client(g.tcp, config)
	if err := c.HandshakeContext(ctx); err != nil {
		return g.failure(ctx, tunnel.Explain(fmt.Errorf("TLS handshake: %w", err)))
	}
	defer c.Close()
	state := c.ConnectionState()
	spoken := state.NegotiatedProtocol
	if spoken == "" {
		spoken = "no protocol chosen"
	}
	f := ok("%s, %s", tls.VersionName(state.Version), spoken)
	if len(state.PeerCertificates) > 0 {
		leaf := state.PeerCertificates[0]
		f.Text += "; the certificate of " + leafName(leaf) + " is good until " + leaf.NotAfter.Format(time.DateOnly)
		if time.Until(leaf.NotAfter) < soon {
			f.Result, f.Remedy = Warn, "ask whoever runs it to renew the certificate"
		}
	}
	return f
}

// leafName is one of the names that a certificate is for.
func leafName(c *x509.Certificate) string {
	if len(c.DNSNames) > 0 {
		return c.DNSNames[0]
	}
	if len(c.IPAddresses) > 0 {
		return c.IPAddresses[0].String()
	}
	return c.Subject.CommonName
}

// credentials reports which there are. Whether the gateway accepts them, the hops after this one
// tell.
func (g *gateway) credentials(ctx context.Context, dialer *tunnel.Dialer) Finding {
	var have []string
	if dialer.Token != nil {
		if _, err := dialer.Token(); err != nil {
			return g.failure(ctx, err)
		}
		have = append(have, "a token for the gateway")
	}
	if dialer.TLS != nil && dialer.TLS.GetClientCertificate != nil {
		have = append(have, "a certificate for the gateway")
	}
	if dialer.Ingress != nil {
		h := http.Header{}
		if err := dialer.Ingress.Authorize(ctx, h); err != nil {
			return g.failure(ctx, err)
		}
		if len(h) > 0 {
			have = append(have, "a token for the ingress")
		}
	}
	if have == nil {
		return Finding{Result: Warn, Text: "none are set", Remedy: g.Names.Sprintf("a gateway requires %s, unless it runs with %s", hints.TokenFile, hints.InsecureNoAuth)}
	}
	return ok("there is %s", strings.Join(have, " and "))
}

// hello tries each transport with an echo of 64 KiB through the gateway, and returns a dialer over
// the first that works.
func (g *gateway) hello(ctx context.Context, transports []string) (*tunnel.Dialer, tunnel.Welcome) {
	dialers := make([]*tunnel.Dialer, len(transports))
	for i, t := range transports {
		dialers[i] = g.dial(t)
	}
	welcomes := make([]tunnel.Welcome, len(transports))
	best := -1 // the first of transports that works
	var failed []Finding
	g.atOnce(ctx, transports, func(ctx context.Context, i int) (f Finding) {
		start := time.Now()
		var err error
		if welcomes[i], err = dialers[i].Hello(ctx); err != nil {
			return g.failure(ctx, err)
		}
		return ok("64 KiB went to the gateway and came back, %s after the first dial", millis(time.Since(start)))
	}, func(i int, f Finding) {
		if f.Result == OK {
			g.working = append(g.working, transports[i])
		}
		if f.Result == OK && best < 0 {
			best = i
		} else {
			dialers[i].Close()
		}
		failed = g.reportHello(append(failed, f), best >= 0)
	})
	for _, f := range failed {
		g.report(f)
	}
	if best < 0 {
		return nil, tunnel.Welcome{}
	}
	w := welcomes[best]
	g.report(Finding{Hop: "gateway", Result: OK, Text: fmt.Sprintf("culvert %s, tunnel %s; it knows %d broker addresses", w.Gateway, w.Version, len(w.Tickets))})
	return dialers[best], w
}

// reportHello reports findings of transports, and returns those that must wait: until one transport
// works, it is not known whether clients can do without those that have failed.
func (g *gateway) reportHello(findings []Finding, works bool) (waiting []Finding) {
	if !works {
		return findings
	}
	for _, f := range findings {
		if f.Result == Fail {
			f.Result = Info
		}
		g.report(f)
	}
	return nil
}
