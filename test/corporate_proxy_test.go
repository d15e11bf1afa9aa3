package test

import (
	"net"
	"strings"
	"testing"

	"github.com/culvert-proxy/culvert/test/ingress"
)

// TestCorporateProxy connects the agent through a company's proxy. Only the proxy can resolve the
// gateway's name.
func TestCorporateProxy(t *testing.T) {
	bed := sharedTestbed(t)
	ingress.Need(t)
	_, port, err := net.SplitHostPort(bed.gateway.listen)
	if err != nil {
		t.Fatal(err)
	}
	gateway := net.JoinHostPort(gatewayName, port)
	hosts := map[string]string{gatewayName: clientHost}
	open := ingress.Start(t, ingress.Squid{Hosts: hosts}, ingress.Config{})
	closed := ingress.Start(t, ingress.Squid{User: "alice", Password: "alice-secret", Hosts: hosts}, ingress.Config{})
	alice := strings.Replace(closed.URL, "//", "//alice:alice-secret@", 1)
	mallory := strings.Replace(closed.URL, "//", "//alice:guessed@", 1)

	for _, c := range []struct {
		name, transport, proxy string
		over                   string // the transport that is used
		refused                string // or the error
	}{
		{name: "ws", transport: "ws", proxy: open.URL, over: "ws"},
		{name: "h2", transport: "h2", proxy: open.URL, over: "h2"},
		{name: "auto", transport: "auto", proxy: open.URL, over: "ws"},
		{name: "ws as alice", transport: "ws", proxy: alice, over: "ws"},
		{name: "h2 as alice", transport: "h2", proxy: alice, over: "h2"},
		{name: "ws as nobody", transport: "ws", proxy: closed.URL, refused: "the proxy requires credentials"},
		{name: "auto as mallory", transport: "auto", proxy: mallory, refused: "the proxy"},
		{name: "h3", transport: "h3", proxy: open.URL, refused: "h3 bypasses the proxy"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := bed.pathThrough(t, bed.gateway, "https://"+gateway, c.transport, "HTTPS_PROXY="+c.proxy)
			if c.refused != "" {
				mustRefuse(t, p, c.refused)
				return
			}
			roundTrip(t, p, c.over)
			if tried := p.tunnel(t).Tried; c.transport == "auto" && tried[0].Transport != "ws" {
				t.Errorf("auto tries %s first, around the proxy", tried[0].Transport)
			}
		})
	}
	t.Cleanup(func() {
		for _, proxy := range []*ingress.Ingress{open, closed} {
			wantIn(t, proxy.Log(), "CONNECT "+gateway)
		}
	})
}
