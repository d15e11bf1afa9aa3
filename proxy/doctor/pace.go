package doctor

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"strings"

	"github.com/culvert-proxy/culvert/proxy/printable"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// paces measures the transports that work, and finds those that are slow or delay small messages.
// It measures one after the other, so that they do not share the line.
func (g *gateway) paces(ctx context.Context, transports []string) {
	measured := make(map[string]tunnel.Pace)
	findings := make(map[string]Finding)
	for _, t := range transports {
		g.examining(t + " pace")
		findings[t] = timed(ctx, t+" pace", func(ctx context.Context) Finding {
			dialer := g.dial(t)
			defer dialer.Close()
			p, err := dialer.Pace(ctx)
			if err != nil {
				return g.failure(ctx, err)
			}
			measured[t] = p
			return ok("%v", p)
		})
	}
	server := ""
	for _, t := range transports {
		f := findings[t]
		if p, ok := measured[t]; ok {
			if fault, text := worst(t, measured); text != "" {
				server = cmp.Or(server, g.server(ctx), "-")
				f.Result, f.Text, f.Remedy = Warn, fmt.Sprintf("%v: %s", p, text), remedy(t, fault, server)
			}
		}
		if f.Result == Fail { // the hello worked
			f.Result = Warn
		}
		g.report(f)
	}
}

// worst returns what is wrong with a transport, compared with the others; text is "" if nothing is.
func worst(transport string, measured map[string]tunnel.Pace) (f tunnel.Fault, text string) {
	mine := measured[transport]
	// First, because the last bytes of an echo may be late too, which makes it slow.
	if tunnel.Late.Seen(mine) {
		return tunnel.Late, fmt.Sprintf("small messages come %v later than the first bytes of large ones", millis(mine.Delay))
	}
	for _, other := range tunnel.Transports() {
		if theirs, ok := measured[other]; ok && tunnel.Slow.Worse(mine, theirs) {
			return tunnel.Slow, tunnel.Slow.Compare(mine, other, theirs)
		}
	}
	return 0, ""
}

// remedy is what to do about a fault of a transport behind an ingress that calls itself server.
func remedy(transport string, f tunnel.Fault, server string) string {
	advice := tunnel.Remedy(transport, f)
	if advice == "" {
		return "set the ingress as docs/networks.md in culvert's repository says"
	}
	if name := strings.ToLower(server); strings.Contains(name, "envoy") && strings.Contains(advice, "Envoy") {
		_, setting, _ := strings.Cut(advice, "? ")
		return fmt.Sprintf("the ingress is Envoy (Server: %s). %s", server, setting)
	}
	return advice
}

// server asks whatever answers at the gateway's URL for its name, over HTTP/1.1. It returns "" if
// there is none.
func (g *gateway) server(ctx context.Context) string {
	dialer := g.dial(tunnel.TransportWS)
	defer dialer.Close()
	ctx, cancel := context.WithTimeout(ctx, hopTimeout)
	defer cancel()
	c, err := dialer.DialTCP(ctx)
	if err != nil {
		return ""
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	if dialer.URL.Scheme == "https" {
		config := new(tls.Config)
		if dialer.TLS != nil {
			config = dialer.TLS.Clone()
		}
		config.ServerName = cmp.Or(config.ServerName, dialer.URL.Hostname())
		config.NextProtos = []string{"http/1.1"}
		c = tls.Client(c, config)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodHead, dialer.URL.String(), nil)
	if err != nil || r.Write(c) != nil {
		return ""
	}
	answer, err := http.ReadResponse(bufio.NewReader(c), r)
	if err != nil {
		return ""
	}
	answer.Body.Close()
	return printable.Text(answer.Header.Get("Server"), printable.Name)
}
