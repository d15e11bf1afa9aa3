package test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/culvert-proxy/culvert/proxy/status/document"
	"github.com/culvert-proxy/culvert/test/ingress"
)

// ingressCase is an ingress, and how each transport fares behind it.
type ingressCase struct {
	name    string
	program ingress.Program
	tls     bool              // the gateway has TLS and HTTP/3
	works   []string          // transports
	refused map[string]string // why others do not work, as the agent logs it
	auto    string            // the transport that auto takes
	why     string            // and its reason
}

// What agents log about ingresses that do not carry a transport.
const (
	noUDP       = "QUIC handshake: UDP does not get through"
	noUpgrade   = "something on the way removed its Upgrade header"
	noStreaming = "does something on the way buffer whole request bodies?"
	upgradesOff = "Envoy answers so where WebSocket upgrades are off: set upgrade_configs with upgrade_type: websocket"
	not8441     = "over ws: something in front of the gateway answered 502 Bad Gateway"
	noLength    = "over h2: something in front of the gateway answered 411 Length Required"

	nghttpxTo8441 = "over ws: something in front of the gateway answered 400 Bad Request"
)

var ingressCases = []ingressCase{
	{
		name: "nginx", program: ingress.Nginx{}, works: []string{"ws"}, auto: "ws",
		refused: map[string]string{"h3": noUDP, "h2": noStreaming},
	}, {
		name: "nginx that streams", program: ingress.Nginx{Streams: true, BodyLimit: "0"}, works: []string{"ws", "h2"}, auto: "ws",
	}, {
		name: "nginx that streams without upgrades", program: ingress.Nginx{NoWebSocket: true, Streams: true, BodyLimit: "0"},
		works: []string{"h2"}, auto: "h2", why: noUpgrade,
		refused: map[string]string{"ws": noUpgrade},
	}, {
		name: "nginx without upgrades", program: ingress.Nginx{NoWebSocket: true},
		refused: map[string]string{"auto": "no transport reaches the gateway: "},
	}, {
		name: "HAProxy", program: ingress.HAProxy{}, works: []string{"ws", "h2"}, auto: "ws",
		refused: map[string]string{"h3": noUDP},
	}, {
		name: "HAProxy to HTTP2", program: ingress.HAProxy{H2C: true}, works: []string{"h2"}, auto: "h2", why: not8441,
		refused: map[string]string{"ws": not8441},
	}, {
		name: "Apache", program: ingress.Apache{}, works: []string{"ws"}, auto: "ws",
		refused: map[string]string{"h2": noStreaming},
	}, {
		name: "Apache without upgrades", program: ingress.Apache{NoWebSocket: true},
		refused: map[string]string{"ws": noUpgrade, "auto": "no transport reaches the gateway: "},
	}, {
		name: "nghttpx", program: ingress.Nghttpx{}, works: []string{"ws", "h2"}, auto: "ws",
	}, {
		name: "nghttpx to HTTP2", program: ingress.Nghttpx{H2C: true}, works: []string{"h2"}, auto: "h2", why: nghttpxTo8441,
		refused: map[string]string{"ws": nghttpxTo8441},
	}, {
		name: "h2o", program: ingress.H2O{}, works: []string{"ws"}, auto: "ws",
		refused: map[string]string{"h2": noStreaming},
	}, {
		name: "h2o without upgrades", program: ingress.H2O{NoWebSocket: true},
		refused: map[string]string{"auto": "no transport reaches the gateway: "},
	}, {
		name: "lighttpd", program: ingress.Lighttpd{}, works: []string{"ws"}, auto: "ws",
		refused: map[string]string{"h2": noLength},
	}, {
		name: "lighttpd that streams", program: ingress.Lighttpd{Streams: true}, works: []string{"ws"}, auto: "ws",
		refused: map[string]string{"h2": noLength},
	}, {
		name: "lighttpd without upgrades", program: ingress.Lighttpd{NoWebSocket: true},
		refused: map[string]string{"auto": "no transport reaches the gateway: "},
	}, {
		name: "Caddy", program: ingress.Caddy{}, works: []string{"h3", "ws", "h2"}, auto: "h3",
	}, {
		name: "Caddy to HTTP2", program: ingress.Caddy{H2C: true}, works: []string{"h3", "h2"}, auto: "h3",
		refused: map[string]string{"ws": not8441},
	}, {
		name: "Envoy", program: ingress.Envoy{}, works: []string{"h3", "ws", "h2"}, auto: "h3",
	}, {
		name: "Envoy without upgrades", program: ingress.Envoy{NoUpgrades: true}, works: []string{"h3", "h2"}, auto: "h3",
		refused: map[string]string{"ws": upgradesOff},
	}, {
		name: "Envoy to HTTP2", program: ingress.Envoy{Back: ingress.H2C}, works: []string{"h3", "h2"}, auto: "h3",
		refused: map[string]string{"ws": not8441},
	}, {
		name: "Envoy to HTTP3", program: ingress.Envoy{Back: ingress.H3}, tls: true, works: []string{"h3", "h2"}, auto: "h3",
		refused: map[string]string{"ws": "gateway answered 501 Not Implemented: extended CONNECT with :protocol websocket"},
	},
}

// TestIngresses has clients produce and consume through every ingress, over every transport. A
// transport that cannot work must fail soon, with a message that says why. auto must find one that
// works.
func TestIngresses(t *testing.T) {
	bed := sharedTestbed(t)
	ingress.Need(t)
	plain := bed.plainGateway(t)
	for _, f := range ingressCases {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			g := plain
			if f.tls {
				g = bed.gateway
			}
			i := ingress.Start(t, f.program, bed.ingressConfig(g))
			through := func(t *testing.T, transport string) *path {
				return bed.pathThrough(t, g, i.URL, transport)
			}
			for transport, sentence := range f.refused {
				t.Run(transport, func(t *testing.T) {
					t.Parallel()
					mustRefuse(t, through(t, transport), sentence)
				})
			}
			for _, transport := range f.works {
				t.Run(transport, func(t *testing.T) { roundTrip(t, through(t, transport), transport) })
			}
			if f.auto != "" {
				t.Run("auto", func(t *testing.T) { f.checkAuto(t, through(t, "auto")) })
			}
		})
	}
}

// TestTwoIngressesInARow has a path in the URL, which one of the ingresses may remove.
func TestTwoIngressesInARow(t *testing.T) {
	bed := sharedTestbed(t)
	ingress.Need(t)
	plain := bed.plainGateway(t)
	for name, c := range map[string]struct {
		outer, inner ingress.Program
	}{
		"kept":                 {ingress.Nginx{Streams: true, BodyLimit: "0", From: "/team/kafka/", TLS: true}, ingress.HAProxy{}},
		"stripped outside":     {ingress.Nginx{Streams: true, BodyLimit: "0", From: "/team/kafka/", To: "/", TLS: true}, ingress.Caddy{}},
		"stripped inside":      {ingress.HAProxy{TLS: true}, ingress.Nginx{Streams: true, BodyLimit: "0", From: "/team/kafka/", To: "/"}},
		"stripped by and by":   {ingress.Nginx{Streams: true, BodyLimit: "0", From: "/team/", To: "/", TLS: true}, ingress.Nginx{Streams: true, BodyLimit: "0", From: "/kafka/", To: "/"}},
		"replaced by another":  {ingress.Nginx{Streams: true, BodyLimit: "0", From: "/team/kafka/", To: "/other/path/", TLS: true}, ingress.Nghttpx{}},
		"through Envoy inside": {ingress.Nginx{Streams: true, BodyLimit: "0", From: "/team/kafka/", TLS: true}, ingress.Envoy{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inner := ingress.Start(t, c.inner, bed.ingressConfig(plain))
			config := bed.ingressConfig(plain)
			config.Backend = strings.TrimPrefix(inner.URL, "https://")
			outer := ingress.Start(t, c.outer, config)
			for _, transport := range []string{"ws", "h2", "auto"} {
				t.Run(transport, func(t *testing.T) {
					over := transport
					if transport == "auto" {
						over = "ws"
					}
					roundTrip(t, bed.pathThrough(t, plain, outer.URL+"/team/kafka", transport), over)
				})
			}
		})
	}
}

// TestTraefiksReadTimeout has the server and the proxy of Go's standard library, which Traefik is
// made of. Its entry points have a read timeout, a minute by default, that also ends requests whose
// body is still being sent. A WebSocket is no such request.
func TestTraefiksReadTimeout(t *testing.T) {
	bed := sharedTestbed(t)
	t.Parallel()
	needReal(t)
	plain := bed.plainGateway(t)
	backend := &url.URL{Scheme: "http", Host: plain.listen}
	server := httptest.NewUnstartedServer(&httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(backend) },
		FlushInterval: -1,
	})
	cert, err := tls.LoadX509KeyPair(bed.file("gateway.pem"), bed.file("gateway-key.pem"))
	try(t, err)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	server.EnableHTTP2 = true
	server.Config.ReadTimeout = idleCut
	server.StartTLS()
	t.Cleanup(server.Close)
	for transport, cut := range map[string]bool{"ws": false, "h2": true} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			client := dialKafka(t, bed.pathThrough(t, plain, server.URL, transport).bootstrap)
			client.askVersions(t)
			err := client.waitForEnd(t, 3*idleCut)
			if cut && !errors.Is(err, syscall.ECONNRESET) || !cut && !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("the connection ended with %v", err)
			}
		})
	}
	p := bed.pathThrough(t, plain, server.URL, "auto")
	roundTrip(t, p, "ws")
}

// TestIngressesThatGrantFewStreams has ingresses that grant fewer streams per connection than an agent
// would share it among. Clients that connect at once must all be answered, and keep their streams.
func TestIngressesThatGrantFewStreams(t *testing.T) {
	bed := sharedTestbed(t)
	ingress.Need(t)
	g := bed.plainGateway(t)
	for _, f := range []ingressCase{
		{name: "nginx", program: ingress.Nginx{Streams: true, BodyLimit: "0", MaxStreams: 2}, works: []string{"h2"}},
		{name: "Envoy", program: ingress.Envoy{MaxStreams: 3}, works: []string{"h2", "h3"}},
	} {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			i := ingress.Start(t, f.program, bed.ingressConfig(g))
			for _, transport := range f.works {
				t.Run(transport, func(t *testing.T) {
					p := bed.pathThrough(t, g, i.URL, transport)
					p.connect(t).mustAnswer(t)
					var clients [20]*kafkaConn
					for i := range clients {
						clients[i] = p.connect(t)
					}
					for range 2 {
						var slowest time.Duration
						var asking sync.WaitGroup
						var mu sync.Mutex
						for _, c := range clients {
							asking.Go(func() {
								took, err := c.ask(patience)
								mu.Lock()
								defer mu.Unlock()
								if slowest = max(slowest, took); err != nil {
									t.Errorf("no response: %v, after %v", err, took)
								}
							})
						}
						asking.Wait()
						t.Logf("the last of %d clients was answered after %v", len(clients), slowest.Round(time.Millisecond))
					}
					if n := p.streams(t, transport); n < float64(len(clients)) {
						t.Errorf("%v streams for %d clients", n, len(clients))
					}
				})
			}
		})
	}
}

// checkAuto is roundTrip over the transport that auto chooses. A better one that was slow to answer
// replaces it soon.
func (f ingressCase) checkAuto(t *testing.T, p *path) {
	begin := time.Now()
	client := p.connect(t)
	first := client.mustAnswer(t)
	client.Close()
	await(t, 2*patience, "auto takes "+f.auto, func() bool { return p.tunnel(t).Transport == f.auto })
	state := p.tunnel(t)
	t.Logf("first answer after %v, over %s after %v, because %s", first.Round(time.Millisecond), f.auto, time.Since(begin).Round(time.Millisecond), state.Why)
	if !strings.Contains(state.Why, f.why) {
		t.Errorf("auto takes %s because %s, want %q", f.auto, state.Why, f.why)
	}
	roundTrip(t, p, f.auto)
}

// tunnel returns what the agent says about its way to the gateway.
func (p *path) tunnel(t *testing.T) document.Tunnel {
	t.Helper()
	transport := &http.Transport{DialContext: p.at.Dial}
	defer transport.CloseIdleConnections()
	client := http.Client{Transport: transport, Timeout: 10 * time.Second}
	response, err := client.Get("http://" + p.admin + "/status")
	try(t, err)
	defer response.Body.Close()
	var d document.Document
	try(t, json.NewDecoder(response.Body).Decode(&d))
	for _, tunnel := range d.Tunnels {
		if tunnel.Gateway == p.url {
			return tunnel
		}
	}
	t.Fatalf("%s is not among the tunnels: %+v", p.url, d.Tunnels)
	return document.Tunnel{}
}

// plainGateway starts a gateway for ingresses that ends with the test.
func (b *testbed) plainGateway(t *testing.T) *gateway {
	t.Helper()
	g, err := b.newPlainGateway(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	closeWith(t, g)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("gateway log:\n%s", g.process.Output())
		}
	})
	return g
}

// ingressConfig configures an ingress in front of a gateway.
func (b *testbed) ingressConfig(g *gateway) ingress.Config {
	return ingress.Config{Backend: g.listen, Cert: b.file("gateway.pem"), Key: b.file("gateway-key.pem"), CA: b.file("ca.pem")}
}

// pathThrough starts a path that ends with the test.
func (b *testbed) pathThrough(t *testing.T, g *gateway, url, transport string, env ...string) *path {
	t.Helper()
	p, err := b.newPathTo(t.Context(), g, url, transport, env...)
	if err != nil {
		t.Fatal(err)
	}
	closeWith(t, p)
	t.Cleanup(func() {
		p.relay.Check(t)
		if t.Failed() {
			t.Logf("agent log:\n%s", p.agent.Output())
		}
	})
	return p
}

// roundTrip produces and consumes. Each of three brokers gets and returns more than the mebibyte at
// which some ingresses stop. All streams must use the transport.
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

// mustRefuse has a client connect where the tunnel cannot work. Its connection must be reset, and
// the agent must log the sentence.
func mustRefuse(t *testing.T, p *path, sentence string) {
	t.Helper()
	begin := time.Now()
	took, err := p.connect(t).ask(patience)
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client's connection ended with %v after %v, want a reset", err, took)
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), patience, errors.New("the agent has not said it"))
	defer cancel()
	line, err := p.agent.Output().WaitLine(ctx, sentence)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("reset after %v; after %v: %s", took.Round(time.Millisecond), time.Since(begin).Round(time.Millisecond), strings.TrimSpace(line))
}
