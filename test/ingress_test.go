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
	works   string            // these transports
	refused map[string]string // why others do not, in the agent's words
	auto    string            // where auto lands
}

// noUDP is what the agent says where nothing listens for QUIC.
const noUDP = "QUIC handshake: timeout"

var fronts = []front{
	{name: "nginx", program: ingress.Nginx{}, works: "ws", auto: "ws", refused: map[string]string{
		"h2": "no end of it within 10s", "h3": noUDP}},
	{name: "nginx that streams", program: ingress.Nginx{Streams: true, BodyLimit: "0"}, works: "ws h2", auto: "ws"},
	{name: "nginx without upgrades", program: ingress.Nginx{Streams: true, BodyLimit: "0", NoWebSocket: true}, works: "h2", auto: "h2", refused: map[string]string{
		"ws": "something on the way removed its Upgrade header"}},
	{name: "HAProxy", program: ingress.HAProxy{}, works: "ws h2", auto: "ws"},
	{name: "HAProxy to h2c", program: ingress.HAProxy{H2C: true}, works: "h2", auto: "h2", refused: map[string]string{
		"ws": "answered 502 Bad Gateway by something before the gateway"}},
	{name: "Caddy", program: ingress.Caddy{}, works: "ws h2 h3", auto: "h3"},
	{name: "Caddy to h2c", program: ingress.Caddy{H2C: true}, works: "h2 h3", auto: "h3", refused: map[string]string{
		"ws": "answered 502 Bad Gateway by something before the gateway"}},
	{name: "Envoy", program: ingress.Envoy{}, works: "ws h2 h3", auto: "h3"},
	{name: "Envoy to h2c", program: ingress.Envoy{Back: ingress.H2C}, works: "h2 h3", auto: "h3", refused: map[string]string{
		"ws": "answered 502 Bad Gateway by something before the gateway"}},
	{name: "Envoy to h3", program: ingress.Envoy{Back: ingress.H3}, tls: true, works: "h2 h3", auto: "h3", refused: map[string]string{
		"ws": "want culvert"}},
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
			for transport := range strings.FieldsSeq(f.works) {
				t.Run(transport, func(t *testing.T) { roundTrip(t, w.through(t, g, i.URL, transport), transport) })
			}
			t.Run("auto", func(t *testing.T) {
				p := w.through(t, g, i.URL, "auto")
				landsOn(t, p, f.auto)
				roundTrip(t, p, f.auto)
			})
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
// mebibyte that some ingresses take for enough, and gives as much back. All
// streams must have gone over the transport.
func roundTrip(t *testing.T, p *path, transport string) {
	t.Helper()
	const count, size = 320, 16 << 10
	topic := p.cluster.Topic(t, "ingress")
	produce(t, p.franz(t, kgo.ProducerBatchCompression(kgo.NoCompression())), filled(topic, count, size))
	reader := p.franz(t, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	consume(t, reader, count).check(t, count)
	if _, err := kcat(t, p.bootstrap, "", "-C", "-t", topic, "-o", "beginning", "-e", "-q", "-f", "%k\n"); err != nil {
		t.Error(err)
	}
	if p.relay.Sent() < count*size {
		t.Errorf("%d bytes came through the agent, fewer than were read", p.relay.Sent())
	}
	streams := scrape(t, p.admin)
	if all, over := streams.sum("culvert_streams{"), streams.sum("culvert_streams{", `transport="`+transport+`"`); over == 0 || over != all {
		t.Errorf("%v of %v streams go over %s", over, all, transport)
	}
}

// landsOn waits until auto has chosen what it stays with: what is better comes
// later than what is faster.
func landsOn(t *testing.T, p *path, transport string) {
	t.Helper()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for deadline := time.Now().Add(patience); ; <-again.C {
		if scrape(t, p.admin).sum("culvert_tunnel_transport{", `transport="`+transport+`"`) == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("auto has not come to %s", transport)
		}
	}
	for line := range strings.Lines(p.agent.Output().String()) {
		if strings.Contains(line, "tunnel transport") {
			t.Log(strings.TrimSpace(line))
		}
	}
}

// refusal has a client come and go in vain, and waits for the agent's sentence.
func refusal(t *testing.T, p *path, sentence string) {
	t.Helper()
	begin := time.Now()
	if out, err := kcat(t, p.bootstrap, "", "-L", "-m", "2"); err == nil {
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
