package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// gateway is the way to one.
type gateway struct {
	*Doctor
	dial func(transport string) *tunnel.Dialer
}

// reach examines the hops below the tunnel.
func (g *gateway) reach(ctx context.Context) bool {
	dialer := g.dial(tunnel.TransportWS)
	defer dialer.Close()
	return g.hop(ctx, "name", func(ctx context.Context) Finding { return g.name(ctx, dialer) }) &&
		g.hop(ctx, "tcp", func(ctx context.Context) Finding { return g.connect(ctx, dialer) }) &&
		g.hop(ctx, "tls", func(ctx context.Context) Finding { return g.handshake(ctx, dialer) }) &&
		g.hop(ctx, "credentials", func(ctx context.Context) Finding { return g.credentials(ctx, dialer) })
}

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
	addresses, err := net.DefaultResolver.LookupHost(ctx, host)
	if err != nil {
		f := g.failure(ctx, err)
		f.Remedy = g.Names.Sprintf("is the host in %s right? In Snowflake it is ingress_url of SHOW ENDPOINTS IN SERVICE, and changes when the service is dropped and created again", hints.GatewayURL)
		return f
	}
	return ok("%s is %s", host, strings.Join(addresses, ", "))
}

func (g *gateway) connect(ctx context.Context, dialer *tunnel.Dialer) Finding {
	start := time.Now()
	c, err := dialer.DialTCP(ctx)
	if err != nil {
		f := g.failure(ctx, err)
		if f.Remedy == "" {
			f.Remedy = "does a firewall let this machine out to that port? If a proxy stands before it, set HTTPS_PROXY"
		}
		return f
	}
	defer c.Close()
	return ok("%s accepts connections after %s", c.RemoteAddr(), millis(time.Since(start)))
}

// soon is how long before its end a certificate is worth a warning.
const soon = 14 * 24 * time.Hour

// handshake offers what browsers do, to see what the front door would take.
func (g *gateway) handshake(ctx context.Context, dialer *tunnel.Dialer) Finding {
	if dialer.URL.Scheme == "http" {
		return Finding{Result: Warn, Text: "no TLS: the URL begins with http://", Remedy: "right only where the way to the gateway is private by other means"}
	}
	tcp, err := dialer.DialTCP(ctx)
	if err != nil {
		return g.failure(ctx, err)
	}
	defer tcp.Close()
	config := &tls.Config{}
	if dialer.TLS != nil {
		config = dialer.TLS.Clone()
	}
	if config.ServerName == "" {
		config.ServerName = dialer.URL.Hostname()
	}
	config.NextProtos = []string{"h2", "http/1.1"}
	c := tls.Client(tcp, config)
	if err := c.HandshakeContext(ctx); err != nil {
		return g.failure(ctx, tunnel.Explain(fmt.Errorf("TLS handshake: %w", err)))
	}
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
			f.Result, f.Remedy = Warn, "have whoever runs the door renew it"
		}
	}
	return f
}

func leafName(c *x509.Certificate) string {
	if len(c.DNSNames) > 0 {
		return c.DNSNames[0]
	}
	if len(c.IPAddresses) > 0 {
		return c.IPAddresses[0].String()
	}
	return c.Subject.CommonName
}

// credentials are had, which does not say yet that they are taken.
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
		return Finding{Result: Warn, Text: "there are none", Remedy: g.Names.Sprintf("a gateway wants %s, unless it was told %s", hints.TokenFile, hints.InsecureNoAuth)}
	}
	return ok("there is %s", strings.Join(have, " and "))
}

// hello tries each transport with an echo of 64 KiB through the gateway, and
// returns a dialer over the first that works.
func (g *gateway) hello(ctx context.Context, transports []string) (*tunnel.Dialer, tunnel.Welcome) {
	dialers := make([]*tunnel.Dialer, len(transports))
	welcomes := make([]tunnel.Welcome, len(transports))
	findings := g.atOnce(len(transports), func(i int) Finding {
		dialers[i] = g.dial(transports[i])
		return timed(ctx, transports[i], func(ctx context.Context) Finding {
			start := time.Now()
			var err error
			if welcomes[i], err = dialers[i].Hello(ctx); err != nil {
				return g.failure(ctx, err)
			}
			return ok("64 KiB went to the gateway and came back, %s after the first dial", millis(time.Since(start)))
		})
	})
	best := -1
	for i, f := range findings {
		if f.Result == OK && best < 0 {
			best = i
		}
	}
	for i, f := range findings {
		if f.Result == Fail && best >= 0 {
			f.Result = Info
		}
		g.report(f)
		if i != best {
			dialers[i].Close()
		}
	}
	if best < 0 {
		return nil, tunnel.Welcome{}
	}
	w := welcomes[best]
	g.report(Finding{Hop: "gateway", Result: OK, Text: fmt.Sprintf("culvert %s, tunnel %s; it remembers %d addresses of brokers", w.Gateway, w.Version, len(w.Tickets))})
	return dialers[best], w
}

// millis is a duration for people.
func millis(d time.Duration) string { return d.Round(time.Millisecond / 10).String() }
