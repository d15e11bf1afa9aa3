package test

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/culvert-proxy/culvert/test/netns"
)

// long reports whether culvert keeps its real timeouts. Then these tests take minutes.
var long = os.Getenv("CULVERT_TEST_LONG") != ""

// scaled divides one of culvert's timeouts by ten, unless the run is a long one.
func scaled(d time.Duration) time.Duration {
	if !long {
		d /= 10
	}
	return d
}

// wan is a link with the delay of neighboring cities.
var wan = netns.Link{Delay: 10 * time.Millisecond}

// ways are the transports that agents are configured with. tcp are those that need no UDP.
var (
	ways = []string{"h3", "ws", "h2", "auto"}
	tcp  = []string{"ws", "h2"}
)

func (p *path) isTCP() bool { return slices.Contains(tcp, p.transport) }

// TestNetworkWithoutUDP has firewalls that block QUIC from the start, one of each kind.
func TestNetworkWithoutUDP(t *testing.T) {
	needReal(t)
	for _, fault := range []netns.Fault{netns.UDPDropped, netns.UDPRejected, netns.UDPStalls} {
		t.Run(fault.String(), func(t *testing.T) {
			t.Parallel()
			r := newRemote(t, wan)
			r.inject(t, fault)
			for _, way := range []string{"ws", "h2", "auto"} {
				begin := time.Now()
				p := r.path(t, way)
				ready := time.Since(begin)
				p.firstAnswer(t)
				t.Logf("over %s: ready after %v, first answer %v after the start", way, ready.Round(time.Millisecond), time.Since(begin).Round(time.Millisecond))
				flow := p.flow(t)
				flow.mustFlow(t)
				if way == "auto" {
					p.mustUse(t, "ws")
				}
				flow.finish(t)
			}
			p := r.path(t, "h3")
			took, err := p.connect(t).ask(patience)
			if err == nil {
				t.Error("h3 works without UDP")
			}
			t.Logf("over h3: %v after %v", err, took.Round(time.Millisecond))
			r.lift(t, fault)
			t.Logf("over h3: first answer %v after UDP came back", p.firstAnswer(t).Round(time.Millisecond))
		})
	}
}

// TestFirstUDPPacketIsLost loses one packet. That may delay h3 but not make it fail.
func TestFirstUDPPacketIsLost(t *testing.T) {
	needReal(t)
	t.Parallel()
	r := newRemote(t, wan)
	for _, way := range []string{"h3", "auto"} {
		r.inject(t, netns.UDPFirstLost)
		begin := time.Now()
		p := r.path(t, way)
		p.firstAnswer(t)
		t.Logf("over %s: first answer %v after the start", way, time.Since(begin).Round(time.Millisecond))
		flow := p.flow(t)
		flow.mustFlow(t)
		flow.finish(t)
		r.lift(t, netns.UDPFirstLost)
	}
}

// TestUDPIsBlockedUnderOpenStreams drops UDP under open streams and then lets it pass again.
func TestUDPIsBlockedUnderOpenStreams(t *testing.T) {
	needReal(t)
	r := newRemote(t, wan)
	paths := r.paths(t, ways...)
	flows := startAllTraffic(t, paths)
	idle := connectAll(t, paths)
	together(t, "before", paths, func(t *testing.T, p *path) { flows[p].mustFlow(t) })
	r.inject(t, netns.UDPDropped)
	together(t, "dropped", paths, func(t *testing.T, p *path) {
		if p.isTCP() {
			flows[p].mustFlow(t)
			idle[p].mustAnswer(t)
			return
		}
		t.Logf("connection reset after %v", idle[p].mustEnd(t).Round(100*time.Millisecond))
		if p.transport == "auto" {
			t.Logf("records flow after another %v", flows[p].mustFlow(t).Round(100*time.Millisecond))
			p.mustUse(t, "ws")
		}
	})
	r.lift(t, netns.UDPDropped)
	together(t, "back", paths, func(t *testing.T, p *path) {
		t.Logf("records flow after %v", flows[p].mustFlow(t).Round(100*time.Millisecond))
		flows[p].finish(t)
	})
}

// TestUDPComesBack starts auto without UDP and then lets UDP pass. Open streams stay where they
// are; new ones soon use h3.
func TestUDPComesBack(t *testing.T) {
	needReal(t)
	t.Parallel()
	r := newRemote(t, wan)
	r.inject(t, netns.UDPDropped)
	p := r.path(t, "auto")
	flow := p.flow(t)
	flow.mustFlow(t)
	p.mustUse(t, "ws")
	kept := flow.watch()
	r.lift(t, netns.UDPDropped)
	begin := time.Now()
	await(t, scaled(15*time.Minute), "new streams over h3", func() bool {
		p.firstAnswer(t)
		return p.streams(t, "h3") > 0
	})
	t.Logf("new streams over h3 %v after UDP came back", time.Since(begin).Round(100*time.Millisecond))
	flow.mustFlow(t)
	p.mustUse(t, "ws")
	kept(t)
	flow.finish(t)
}

// TestUDPIsIntermittent blocks and unblocks UDP. No new connection may fail, and no record may be
// lost.
func TestUDPIsIntermittent(t *testing.T) {
	needReal(t)
	t.Parallel()
	r := newRemote(t, wan)
	p := r.path(t, "auto")
	flow := p.flow(t)
	flow.mustFlow(t)
	var longest time.Duration
	for range 4 {
		for _, change := range []func(*testing.T, netns.Fault){r.inject, r.lift} {
			change(t, netns.UDPDropped)
			for end := time.Now().Add(scaled(45 * time.Second)); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
				longest = max(longest, p.firstAnswer(t))
			}
		}
	}
	switches := scrapeAt(t, p.at, p.admin).sum("culvert_tunnel_fallbacks_total")
	t.Logf("the longest wait of a new connection was %v; %v changes of transport", longest.Round(10*time.Millisecond), switches)
	flow.mustFlow(t)
	flow.finish(t)
}

// TestSmallMTU sends full packets over links with a small MTU. QUIC's first packet has 1200 bytes,
// plus 28 for IPv4 and UDP.
func TestSmallMTU(t *testing.T) {
	needReal(t)
	for _, mtu := range []int{1280, 1228, 1200} {
		t.Run(strconv.Itoa(mtu), func(t *testing.T) {
			t.Parallel()
			r := newRemote(t, netns.Link{MTU: mtu})
			h3, auto := r.path(t, "h3"), r.path(t, "auto")
			if mtu < 1228 {
				took, err := h3.connect(t).ask(patience)
				if err == nil {
					t.Errorf("h3 works over an MTU of %d", mtu)
				}
				t.Logf("over h3: %v after %v", err, took.Round(time.Millisecond))
				auto.connect(t).mustAnswer(t)
				auto.mustUse(t, "ws")
			} else {
				h3.bulk(t)
			}
			auto.bulk(t)
			for _, way := range tcp {
				r.path(t, way).bulk(t)
			}
		})
	}
}

// TestDelayAndLoss has records flow over a link that delays and loses packets. No connection may
// end. It runs alone: beside the other networks, two cores are too few for the records to flow in time.
func TestDelayAndLoss(t *testing.T) {
	needReal(t)
	r := newRemote(t, netns.Link{Delay: 25 * time.Millisecond, Loss: 0.005, Seed: 7})
	paths := r.paths(t, ways...)
	together(t, "all", paths, func(t *testing.T, p *path) {
		flow := p.flow(t)
		flow.mustFlow(t)
		kept := flow.watch()
		p.bulk(t)
		for range 10 {
			flow.mustFlow(t)
		}
		rtt := scrapeAt(t, p.at, p.admin).sum("culvert_carrier_rtt_seconds{", `stat="mean"`)
		if t.Logf("round trip of the carriers: %v s", rtt); rtt < 0.045 || rtt > 2 {
			t.Errorf("the round trip of the carriers is %v s", rtt)
		}
		kept(t)
		flow.finish(t)
	})
	lost, of := r.net.Lost()
	if lost == 0 {
		t.Error("the link lost nothing")
	}
	t.Logf("the link lost %d of %d packets", lost, of)
	for _, p := range paths {
		if p.transport == "auto" {
			continue
		}
		sum := func(metric string) float64 {
			label := `transport="` + p.transport + `"`
			return scrapeAt(t, p.at, p.admin).sum(metric, label) + scrapeAt(t, r.gateway.at, r.gateway.admin).sum(metric, label)
		}
		sent, lost := sum("culvert_carrier_packets_sent_total{"), sum("culvert_carrier_packets_lost_total{")
		t.Logf("%s: both ends say that they sent %v packets and lost %v", p.transport, sent, lost)
		if lost == 0 || lost > sent/10 {
			t.Errorf("%s: both ends say that they lost %v packets of %v", p.transport, lost, sent)
		}
	}
}

// TestBlackHole stops all packets without an error at any socket.
func TestBlackHole(t *testing.T) {
	needReal(t)
	t.Parallel()
	r := newRemote(t, wan)
	paths := r.paths(t, ways...)
	flows := startAllTraffic(t, paths)
	idle := connectAll(t, paths)
	together(t, "before", paths, func(t *testing.T, p *path) { flows[p].mustFlow(t) })
	r.inject(t, netns.BlackHole)
	together(t, "hole", paths, func(t *testing.T, p *path) {
		var both sync.WaitGroup
		both.Go(func() {
			took := idle[p].mustEnd(t)
			t.Logf("connection reset after %v", took.Round(100*time.Millisecond))
		})
		both.Go(func() {
			took, err := p.connect(t).ask(patience)
			if err == nil {
				t.Error("a response came through the black hole")
			}
			t.Logf("new connection: %v after %v", err, took.Round(100*time.Millisecond))
		})
		both.Wait()
		took, err := p.connect(t).ask(patience)
		t.Logf("new connection later: %v after %v", err, took.Round(100*time.Millisecond))
	})
	r.lift(t, netns.BlackHole)
	together(t, "after", paths, func(t *testing.T, p *path) {
		t.Logf("first answer after %v", p.firstAnswer(t).Round(time.Millisecond))
		t.Logf("records flow after %v", flows[p].mustFlow(t).Round(time.Millisecond))
		flows[p].finish(t)
	})
}

// TestNATLosesItsState has a NAT lose its mappings under open streams.
func TestNATLosesItsState(t *testing.T) {
	needReal(t)
	t.Parallel()
	testAddressChange(t, func(t *testing.T, r *remote) { try(t, r.net.Rebind()) }, func(t *testing.T, r *remote) { try(t, r.net.Rebind()) })
}

// TestLaptopChangesNetwork changes the client's address under open streams, with and without a time
// offline.
func TestLaptopChangesNetwork(t *testing.T) {
	needReal(t)
	offline := func() { time.Sleep(scaled(10 * time.Second)) } // culvert gives up after 30
	for name, offline := range map[string]func(){"at once": nil, "offline between": offline} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testAddressChange(t, func(*testing.T, *remote) {}, func(t *testing.T, r *remote) { try(t, r.net.Move(offline)) })
		})
	}
}

// testAddressChange changes the address of the client. Streams over h3 must go on; those over TCP
// must be reset, and new ones must work.
func testAddressChange(t *testing.T, before, change func(*testing.T, *remote)) {
	r := newRemote(t, wan)
	before(t, r)
	paths := r.paths(t, ways...)
	flows := startAllTraffic(t, paths)
	idle := connectAll(t, paths)
	kept := make(map[*path]func(*testing.T))
	together(t, "before", paths, func(t *testing.T, p *path) { flows[p].mustFlow(t) })
	for _, p := range paths {
		kept[p] = flows[p].watch()
	}
	change(t, r)
	together(t, "after", paths, func(t *testing.T, p *path) {
		took, err := idle[p].ask(2 * patience)
		t.Logf("open connection: %v after %v", err, took.Round(time.Millisecond))
		t.Logf("records flow after another %v", flows[p].mustFlow(t).Round(time.Millisecond))
		switch {
		case p.isTCP() && err == nil:
			t.Error("the connection survived, which is impossible over TCP")
		case !p.isTCP() && err != nil:
			t.Errorf("the connection ended with %v", err)
		case !p.isTCP():
			kept[p](t)
		}
		flows[p].finish(t)
	})
}

// TestConsumerThatDoesNotRead stops reading for longer than the time after which a silent tunnel is
// given up; in a long run, for ten minutes. The connection must survive.
func TestConsumerThatDoesNotRead(t *testing.T) {
	needReal(t)
	t.Parallel()
	pause := scaled(10 * time.Minute)
	r := newRemote(t, netns.Link{})
	together(t, "pause", r.paths(t, ways...), func(t *testing.T, p *path) { p.pauseConsumer(t, pause) })
}

// pauseConsumer stops a consumer in the middle of a large response.
func (p *path) pauseConsumer(t *testing.T, pause time.Duration) {
	const count, size = 60, 900_000
	topic := p.cluster.Topic(t, "pause-"+p.transport)
	records := numbered(topic, count)
	for n, r := range records {
		r.Key = payload(n, size)
	}
	produce(t, p.franz(t), records)
	g := &gate{path: p, opened: make(chan struct{})}
	client := p.franz(t, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.Dialer(g.dial),
		kgo.FetchMaxBytes(50<<20), kgo.FetchMaxPartitionBytes(50<<20), kgo.ConnIdleTimeout(15*time.Minute), kgo.RequestTimeoutOverhead(15*time.Minute))
	ctx, cancel := context.WithTimeout(t.Context(), pause+2*patience)
	defer cancel()
	arrived := newArrivals()
	time.AfterFunc(pause, func() { close(g.opened) })
	begin := time.Now()
	for len(arrived.seen) < count && ctx.Err() == nil {
		client.PollFetches(ctx).EachRecord(func(r *kgo.Record) { arrived.addWith(r, size) })
	}
	arrived.check(t, count)
	if took := time.Since(begin); took < pause {
		t.Errorf("all was read after %v, before the end of the pause of %v", took, pause)
	}
	if n := g.failed.Load(); n > 0 {
		t.Errorf("%d connections of a consumer that did not read were cut", n)
	}
}

// gate lets a client read one mebibyte per connection, and the rest when it is opened.
type gate struct {
	path   *path
	opened chan struct{}
	failed atomic.Int64
}

func (g *gate) dial(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := g.path.at.Dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &gatedConn{Conn: c, gate: g}, nil
}

type gatedConn struct {
	net.Conn
	gate *gate
	read int
}

func (c *gatedConn) Read(p []byte) (n int, err error) {
	if c.read > 1<<20 {
		<-c.gate.opened
	}
	n, err = c.Conn.Read(p)
	c.read += n
	if err != nil && !errors.Is(err, net.ErrClosed) {
		c.gate.failed.Add(1)
	}
	return n, err
}

// startAllTraffic starts traffic on each path. connectAll opens an idle connection on each.
func startAllTraffic(t *testing.T, paths []*path) map[*path]*traffic {
	t.Helper()
	flows := make(map[*path]*traffic)
	for _, p := range paths {
		flows[p] = p.flow(t)
	}
	return flows
}

func connectAll(t *testing.T, paths []*path) map[*path]*kafkaConn {
	t.Helper()
	conns := make(map[*path]*kafkaConn)
	for _, p := range paths {
		conns[p] = p.connect(t)
		conns[p].mustAnswer(t)
	}
	return conns
}
