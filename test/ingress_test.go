package test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/culvert-proxy/culvert/test/ingress"
)

// front is an ingress, and what becomes of each transport behind it.
type front struct {
	name    string
	program ingress.Program
	tls     bool              // the gateway behind has TLS and HTTP/3
	works   []string          // transports
	refused map[string]string // why others do not, in the agent's words
}

var fronts = []front{
	{name: "nginx", program: ingress.Nginx{}, works: []string{"ws"}},
	{name: "nginx that streams", program: ingress.Nginx{Streams: true, BodyLimit: "0"}, works: []string{"ws"}},
	{name: "nginx without upgrades", program: ingress.Nginx{NoWebSocket: true}, refused: map[string]string{
		"ws": "If an agent sent this, something on the way removed its Upgrade header"}},
	{name: "HAProxy", program: ingress.HAProxy{}, works: []string{"ws"}},
	{name: "Caddy", program: ingress.Caddy{}, works: []string{"ws"}},
	{name: "Envoy", program: ingress.Envoy{}, works: []string{"ws"}},
	{name: "Envoy to HTTP3", program: ingress.Envoy{Back: ingress.H3}, tls: true, works: []string{"h3"}},
}

// TestIngresses has clients produce and consume through every ingress, over
// every transport. What cannot work must say so, in a sentence, soon.
func TestIngresses(t *testing.T) {
	w := theWorld(t)
	ingress.Need(t)
	plain := w.plainGateway(t)
	for _, f := range fronts {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			g := plain
			if f.tls {
				g = w.gateway
			}
			i := ingress.Start(t, f.program, w.door(g))
			for _, transport := range f.works {
				t.Run(transport, func(t *testing.T) { roundTrip(t, w.through(t, g, i.URL, transport)) })
			}
			for transport, sentence := range f.refused {
				t.Run(transport, func(t *testing.T) { refusal(t, w.through(t, g, i.URL, transport), sentence) })
			}
		})
	}
}

// plainGateway starts a gateway for ingresses that ends with the test.
func (w *world) plainGateway(t *testing.T) *gateway {
	t.Helper()
	g, err := w.newPlainGateway(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	closeWith(t, g)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("what the gateway said:\n%s", g.process.Output())
		}
	})
	return g
}

// door leads to a gateway.
func (w *world) door(g *gateway) ingress.Door {
	return ingress.Door{Back: g.listen, Cert: w.file("gateway.pem"), Key: w.file("gateway-key.pem"), CA: w.file("ca.pem")}
}

// through starts a path that ends with the test.
func (w *world) through(t *testing.T, g *gateway, url, transport string, env ...string) *path {
	t.Helper()
	p, err := w.newPathTo(t.Context(), g, url, transport, env...)
	if err != nil {
		t.Fatal(err)
	}
	closeWith(t, p)
	t.Cleanup(func() {
		p.relay.Check(t)
		if t.Failed() {
			t.Logf("what the agent said:\n%s", p.agent.Output())
		}
	})
	return p
}

// roundTrip produces and consumes: each of three brokers is sent more than the
// mebibyte that some ingresses take for enough, and gives as much back.
func roundTrip(t *testing.T, p *path) {
	t.Helper()
	const count, size = 320, 16 << 10
	topic := p.cluster.Topic(t, "ingress")
	produce(t, p.franz(t, kgo.ProducerBatchCompression(kgo.NoCompression())), filled(topic, count, size))
	reader := p.franz(t, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	consume(t, reader, count).check(t, count)
	kcatRoundTrip(t, p, p.cluster.Topic(t, "ingress-kcat"))
	if p.relay.Sent() < count*size {
		t.Errorf("%d bytes came through the agent, fewer than were read", p.relay.Sent())
	}
	agent := scrape(t, p.admin)
	if dials := agent.sum("culvert_tunnel_dials_total"); p.transport != "auto" && dials != agent.sum("culvert_tunnel_dials_total", `transport="`+p.transport+`"`) {
		t.Errorf("an agent over %s has dialled over something else too", p.transport)
	}
}

// refusal has a client come and go in vain, and waits for the agent's sentence.
func refusal(t *testing.T, p *path, sentence string) {
	t.Helper()
	begin := time.Now()
	if out, err := kcat(t, p.bootstrap, "", "-L", "-m", "5"); err == nil {
		t.Errorf("kcat was answered:\n%s", out)
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), patience, errors.New("the agent has not said it"))
	defer cancel()
	line, err := p.agent.Output().WaitLine(ctx, sentence)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("after %.1f s: %s", time.Since(begin).Seconds(), strings.TrimSpace(line))
}
