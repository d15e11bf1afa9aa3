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

// TestInspectingProxy connects the agent through a proxy that ends TLS and signs a certificate for
// the gateway with a CA of its own, which the agent must be told to trust.
func TestInspectingProxy(t *testing.T) {
	bed := sharedTestbed(t)
	ingress.Need(t)
	t.Parallel()
	i := ingress.Start(t, ingress.Mitmproxy{Hosts: map[string]string{gatewayName: clientHost}}, ingress.Config{CA: bed.file("ca.pem")})
	_, port, err := net.SplitHostPort(bed.gateway.listen)
	try(t, err)
	for _, c := range []struct {
		name, transport, ca string
		over, refused       string // the transport that is used, or the error
	}{
		{name: "ws", transport: "ws", ca: i.InspectionCA(), over: "ws"},
		{name: "auto", transport: "auto", ca: i.InspectionCA(), over: "ws"},
		{name: "h2", transport: "h2", ca: i.InspectionCA(), refused: noStreaming},
		{name: "the gateway's CA", transport: "ws", refused: "issued by CN=mitmproxy"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			way := path{gateway: bed.gateway, url: "https://" + net.JoinHostPort(gatewayName, port), transport: c.transport, ca: c.ca, env: []string{"HTTPS_PROXY=" + i.URL}}
			p, err := bed.openPath(t.Context(), way)
			try(t, err)
			closeWith(t, p)
			if c.refused != "" {
				mustRefuse(t, p, c.refused)
				return
			}
			roundTrip(t, p, c.over)
		})
	}
}
