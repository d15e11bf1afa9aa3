package test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/culvert-proxy/culvert/proxy/tunnel"
	"github.com/culvert-proxy/culvert/test/ingress"
	"github.com/culvert-proxy/culvert/test/netns"
)

// upload produces some MiB to all brokers. It returns the topic, and how long that took.
func (p *path) upload(t *testing.T, mib int) (topic string, took time.Duration) {
	t.Helper()
	topic = p.cluster.Topic(t, "crawl")
	records := filled(topic, 4*mib, 256<<10)
	begin := time.Now()
	produce(t, p.franz(t, kgo.ProducerBatchCompression(kgo.NoCompression())), records)
	took = time.Since(begin)
	t.Logf("%d MiB over %s took %v", mib, p.transport, took.Round(10*time.Millisecond))
	return topic, took
}

// faults returns how often the agent has found a fault of a transport.
func (p *path) faults(t *testing.T, labels ...string) float64 {
	t.Helper()
	return scrapeAt(t, p.at, p.admin).sum(append(labels, "culvert_tunnel_faults_total{")...)
}

// says waits until the agent has logged a line with all these texts.
func (p *path) says(t *testing.T, first string, more ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), patience, errors.New("the agent has not said it"))
	defer cancel()
	line, err := p.agent.Output().WaitLine(ctx, first)
	if err != nil {
		t.Fatalf("%q: %v", first, err)
	}
	for _, text := range more {
		if !strings.Contains(line, text) {
			t.Errorf("the agent says %s, want %q in it", line, text)
		}
	}
	t.Log(strings.TrimSpace(line))
	if n := strings.Count(p.agent.Output().String(), first); n != 1 {
		t.Errorf("the agent says %q %d times", first, n)
	}
}

// Envoy with its default settings loses all but the first of packets that the kernel has merged.
func TestAnIngressThatCrawls(t *testing.T) {
	bed := sharedTestbed(t)
	ingress.Need(t)
	g := bed.plainGateway(t)
	i := ingress.Start(t, ingress.Envoy{NoGRO: true}, bed.ingressConfig(g))
	ws := bed.pathThrough(t, g, i.URL, "ws")
	for _, way := range []string{"auto", "h3"} {
		t.Run(way, func(t *testing.T) {
			p := bed.pathThrough(t, g, i.URL, way)
			p.upload(t, 20)
			p.says(t, "tunnel transport was slow", "without GSO", "prefer_gro")
			if n, all := p.faults(t, `fault="slow"`, `outcome="fixed"`, `transport="h3"`), p.faults(t); n != 1 || all != 1 {
				t.Errorf("%v times fixed, %v faults", n, all)
			}
			if h3 := p.tunnel(t).Tried[0]; h3.Fixed != "without GSO" {
				t.Errorf("what is known of h3: %+v", h3)
			}
			// Without the change h3 took 50 times as long as ws, and with it once to twice as long.
			_, again := p.upload(t, 20)
			if _, best := ws.upload(t, 20); again > 20*best {
				t.Errorf("20 MiB took %v over h3, and %v over ws", again, best)
			}
			if over := scrape(t, p.admin).sum("culvert_streams{", `transport="h3"`); over == 0 {
				t.Error("no streams go over h3")
			}
		})
	}
	t.Run("doctor", func(t *testing.T) {
		p := bed.pathThrough(t, g, i.URL, "auto")
		found := p.doctor(t)
		found.want(t, "ok", "ws pace", "it moves ")
		found.want(t, "warn", "h3 pace", " where ws moves ")
		found.wantRemedy(t, "h3 pace", "the ingress is Envoy (Server: envoy). Its UDP listener needs downstream_socket_config: {prefer_gro: true}")
	})
}

// HAProxy tells the kernel that more will come, and the kernel then waits for it.
func TestAnIngressThatHoldsSmallMessagesBack(t *testing.T) {
	bed := sharedTestbed(t)
	ingress.Need(t)
	g := bed.plainGateway(t)
	for _, tt := range []struct {
		name     string
		program  ingress.HAProxy
		way      string
		over     string
		faults   float64
		warnings bool
	}{
		{"h2", ingress.HAProxy{}, "h2", "h2", 1, true},
		{"auto", ingress.HAProxy{}, "auto", "ws", 0, false},
		{"auto without ws", ingress.HAProxy{NoWebSocket: true}, "auto", "h2", 1, true},
		{"h2 with http-no-delay", ingress.HAProxy{NoDelay: true}, "h2", "h2", 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			i := ingress.Start(t, tt.program, bed.ingressConfig(g))
			p := bed.pathThrough(t, g, i.URL, tt.way)
			for range 3 {
				client := p.connect(t)
				t.Logf("answer after %v", client.mustAnswer(t).Round(100*time.Microsecond))
				client.Close()
			}
			if tt.warnings {
				p.says(t, "tunnel transport delays small messages", "h2", "option http-no-delay")
			}
			if n, all := p.faults(t, `fault="late"`, `outcome="kept"`, `transport="h2"`), p.faults(t); n != tt.faults || all != tt.faults {
				t.Errorf("%v times late, %v faults, want %v", n, all, tt.faults)
			}
			if s := p.tunnel(t); s.Transport != tt.over {
				t.Errorf("state %+v, want %s", s, tt.over)
			}
			found := p.doctor(t)
			if tt.program.NoDelay {
				found.want(t, "ok", "h2 pace", "a small message takes ")
			} else {
				found.want(t, "warn", "h2 pace", "small messages come ")
				found.wantRemedy(t, "h2 pace", "is HAProxy in front of the gateway? It needs option http-no-delay")
			}
			if tt.way == "auto" && !tt.program.NoWebSocket {
				found.want(t, "ok", "ws pace", "a small message takes ")
			}
		})
	}
}

// Links that are slow for every transport. Everybody sends at once, over h3, and the checks have to
// compare transports on a line that is full.
func TestSlowLinksDemoteNothing(t *testing.T) {
	needReal(t)
	for name, l := range map[string]netns.Link{
		"2 Mbit/s": {Delay: 10 * time.Millisecond, Rate: 2e6 / 8},
		"600 ms":   {Delay: 300 * time.Millisecond},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			r := newRemote(t, l)
			p := r.path(t, "auto")
			p.firstAnswer(t)
			await(t, patience, "auto takes h3", func() bool { return p.tunnel(t).Transport == tunnel.TransportH3 })
			p.upload(t, 4)
			dials := func(transport string) float64 {
				return scrapeAt(t, p.at, p.admin).sum("culvert_tunnel_dials_total{", `transport="`+transport+`"`)
			}
			if l.Rate != 0 {
				await(t, patience, "h3 is compared with ws", func() bool { return dials("ws") > 0 })
			}
			if n, state := p.faults(t), p.tunnel(t); n != 0 || state.Transport != tunnel.TransportH3 || state.Tried[0].Fixed != "" {
				t.Errorf("%v faults, state %+v", n, state)
			}
			if n := scrapeAt(t, p.at, p.admin).sum("culvert_tunnel_fallbacks_total{", `from="h3"`); n != 0 {
				t.Errorf("left h3 %v times", n)
			}
			t.Logf("dials: h3 %v, ws %v", dials("h3"), dials("ws"))
		})
	}
}

// Some networks let little UDP through.
func TestANetworkThatPolicesUDP(t *testing.T) {
	needReal(t)
	r := newRemote(t, wan)
	p := r.path(t, "auto")
	p.firstAnswer(t)
	await(t, patience, "auto takes h3", func() bool { return p.tunnel(t).Transport == tunnel.TransportH3 })
	r.inject(t, netns.UDPPoliced)
	p.upload(t, 8)
	p.says(t, "\"tunnel transport changed\"", "h3: it moves ", " where ws moves ", "limit UDP")
	p.upload(t, 8)
	p.mustUse(t, "ws")
	if n, all := p.faults(t, `fault="slow"`, `outcome="demoted"`, `transport="h3"`), p.faults(t); n != 1 || all != 1 {
		t.Errorf("%v times demoted, %v faults", n, all)
	}
}
