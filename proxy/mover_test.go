package proxy

import (
	"context"
	"io"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/culvert-proxy/culvert/protocol"
	"github.com/culvert-proxy/culvert/proxy/internal/testlog"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// idlers are clients with one connection each, on which nothing happens after the first request.
// They connect again when it has ended.
type idlers struct {
	path  running
	tasks sync.WaitGroup
	over  context.Context // of the test
	ended atomic.Int64    // connections that ended behind a complete answer
	cut   atomic.Int64    // connections that ended in another way
}

func startIdlers(t *testing.T, path running, n int) *idlers {
	t.Helper()
	over, stop := context.WithCancel(t.Context())
	s := &idlers{path: path, over: over}
	t.Cleanup(s.tasks.Wait)
	t.Cleanup(stop)
	served := make(chan struct{}, n)
	for range n {
		s.tasks.Go(func() {
			for first := true; over.Err() == nil; {
				if s.connect(func() {
					if first {
						served <- struct{}{}
					}
					first = false
				}) {
					continue
				}
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
	for range n {
		<-served
	}
	return s
}

// connect makes a connection and waits for its end. It reports whether the connection was served.
func (s *idlers) connect(served func()) bool {
	nc, err := net.Dial("tcp", s.path.address)
	if err != nil {
		return false
	}
	defer nc.Close()
	defer context.AfterFunc(s.over, func() { nc.Close() })()
	nc.Write(requestFrame(kmsg.NewPtrMetadataRequest(), 1, 1))
	if _, err := readFrame(nc); err != nil {
		return false
	}
	served()
	_, err = nc.Read(make([]byte, 1))
	switch {
	case s.over.Err() != nil:
	case err == io.EOF:
		s.ended.Add(1)
	default:
		s.cut.Add(1)
	}
	return true
}

// fetchRequest asks for the records of a topic's partition 0 and waits long for the first one.
func fetchRequest(topic string) *kmsg.FetchRequest {
	p := kmsg.NewFetchRequestTopicPartition()
	p.PartitionMaxBytes = 1 << 20
	tp := kmsg.NewFetchRequestTopic()
	tp.Topic, tp.Partitions = topic, []kmsg.FetchRequestTopicPartition{p}
	r := kmsg.NewPtrFetchRequest()
	r.MaxWaitMillis, r.MinBytes, r.Topics = 60_000, 1, []kmsg.FetchRequestTopic{tp}
	return r
}

// lookUntil has the mover look, with time between two looks, until done.
func lookUntil(t *testing.T, up *tunnels, a *Agent, what string, done func() bool) {
	t.Helper()
	waitFor(t, what, func() bool {
		up.mover.look(up, a.clients.each)
		time.Sleep(20 * time.Millisecond) // for clients to connect again
		return done()
	})
}

// Idle connections move to a gateway that is back, a few at a time, until each has its share. What
// is in flight is not cut, however long it takes.
func TestIdleConnectionsMoveToAGatewayThatIsBack(t *testing.T) {
	for _, transport := range []string{"ws", "h3", "h2"} {
		t.Run(transport, func(t *testing.T) {
			c := startCluster(t, 1, kfake.SeedTopics(1, "t"))
			gateways, up := gatewaysFor(t, c, transport, "key", "key")
			up.mover.every = time.Hour
			var agent *Agent
			path := startAgent(t, up, func(a *Agent) { agent = a })
			waitUntilEqual(t, up, 2)
			gateways[1].stop()
			const n = 40
			idle := startIdlers(t, path, n) // one of them finds that it is gone
			busy := dialKafka(t, path.address)
			busy.brokers(t)
			busy.send(fetchRequest("t"), 11)
			up.mover.look(up, agent.clients.each)
			gateways[1] = startGatewayOn(t, gateways[1].address, c.Bootstrap(), func(g *Gateway) { g.TicketKeys = keysOf("key") })
			waitUntilEqual(t, up, 2)

			up.mover.look(up, agent.clients.each)
			waitFor(t, "the first to have moved", func() bool { return connectionsAt(t, gateways)[1] == 2 })
			if got := idle.ended.Load(); got != 2 {
				t.Errorf("one look has moved %d of %d connections, want 2", got, n)
			}
			lookUntil(t, up, agent, "the connections to be spread", func() bool {
				got := connectionsAt(t, gateways)
				return got[1] >= n/2-5
			})
			for range 5 { // and then it is over
				up.mover.look(up, agent.clients.each)
			}
			if up.mover.left != 0 {
				t.Errorf("%d more connections may move", up.mover.left)
			}
			var got []int
			waitFor(t, "all clients to be back", func() bool {
				got = connectionsAt(t, gateways)
				return got[0]+got[1] == n+1
			})
			if idle.cut.Load() != 0 {
				t.Errorf("%d connections were cut", idle.cut.Load())
			}
			if got[0] > n/2+6 || got[1] > n/2+6 {
				t.Errorf("connections %v, want half of %d at each gateway, give or take a fifth", got, n+1)
			}
			if moved := series(t, path, "culvert_connection_closes_total", "spread"); moved != float64(idle.ended.Load()) || moved > n {
				t.Errorf("%v counted as moved, %d have ended", moved, idle.ended.Load())
			}
			produce(t, insider(t, c.Bootstrap()[0]), "t", 1)
			response, err := busy.receive(fetchRequestAt(11))
			if err != nil || len(response.(*kmsg.FetchResponse).Topics[0].Partitions[0].RecordBatches) == 0 {
				t.Errorf("the fetch that was in flight: %+v, %v", response, err)
			}
		})
	}
}

func fetchRequestAt(version int16) *kmsg.FetchRequest {
	r := kmsg.NewPtrFetchRequest()
	r.Version = version
	return r
}

// balancer leads each TCP connection to that of some gateways which has the fewest.
type balancer struct {
	mu   sync.Mutex
	to   []string
	open map[string]int
}

func (b *balancer) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	b.mu.Lock()
	to := slices.MinFunc(b.to, func(x, y string) int { return b.open[x] - b.open[y] })
	b.open[to]++
	b.mu.Unlock()
	closed := sync.OnceFunc(func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.open[to]--
	})
	c, err := new(net.Dialer).DialContext(ctx, network, to)
	if err != nil {
		closed()
		return nil, err
	}
	return balancedConn{c, closed}, nil
}

// balancedConn is a connection that its balancer counts.
type balancedConn struct {
	net.Conn
	closed func()
}

func (c balancedConn) Close() error {
	c.closed()
	return c.Conn.Close()
}

func (b *balancer) lead(gateways ...running) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.to = nil
	for _, g := range gateways {
		b.to = append(b.to, strings.TrimPrefix(g.address, "https://"))
	}
}

// A gateway that is added behind the same address is noticed, although all streams of the agent
// lead to the old one, and gets idle connections.
func TestIdleConnectionsMoveToAGatewayThatWasAdded(t *testing.T) {
	for _, transport := range []string{"ws", "h2"} {
		t.Run(transport, func(t *testing.T) {
			c := startCluster(t, 1)
			key := func(g *Gateway) { g.TicketKeys = keysOf("key") }
			gateways := []running{startGateway(t, c.Bootstrap(), key)}
			b := &balancer{open: map[string]int{}}
			b.lead(gateways...)
			up := NewTunnel(&tunnel.Dialer{
				URL: &url.URL{Scheme: "https", Host: "localhost"}, Transport: transport, TLS: clientTLS(t), DialContext: b.dial, Logger: testlog.New(t, "tunnel"),
			}).(*tunnels)
			up.mover.every, up.lookEach = time.Hour, 20*time.Millisecond
			var agent *Agent
			path := startAgent(t, up, func(a *Agent) { agent = a })
			const n = 20
			idle := startIdlers(t, path, n)
			for range 3 {
				up.mover.look(up, agent.clients.each)
			}
			if got := idle.ended.Load(); got != 0 {
				t.Fatalf("%d connections have ended although there is one gateway", got)
			}
			gateways = append(gateways, startGateway(t, c.Bootstrap(), key))
			b.lead(gateways...)
			// Over h2 several streams share what the balancer leads somewhere.
			lookUntil(t, up, agent, "connections to move", func() bool { return connectionsAt(t, gateways)[1] >= 3 })
			if got := idle.ended.Load(); got > n {
				t.Errorf("%d connections have ended, of %d", got, n)
			}
		})
	}
}

// A single gateway that is restarted is no reason to move anything.
func TestNothingMovesAfterARestartOfTheOnlyGateway(t *testing.T) {
	c := startCluster(t, 1)
	gateways, up := gatewaysFor(t, c, "ws", "key")
	up.mover.every = time.Hour
	var agent *Agent
	path := startAgent(t, up, func(a *Agent) { agent = a })
	startIdlers(t, path, 5)
	look := func() {
		for range 3 {
			up.mover.look(up, agent.clients.each)
		}
	}
	look()
	gateways[0].stop()
	gateways[0] = startGatewayOn(t, gateways[0].address, c.Bootstrap(), func(g *Gateway) { g.TicketKeys = keysOf("key") })
	waitFor(t, "the clients to be back", func() bool { return connectionsAt(t, gateways)[0] == 5 })
	look()
	if moved := series(t, path, "culvert_connection_closes_total", "spread"); moved != 0 {
		t.Errorf("%v connections moved", moved)
	}
}

// A connection in the middle of a login is not idle, nor is one with a request in flight, or one
// that has sent a request since the last look.
func TestWhatIsIdle(t *testing.T) {
	c := &agentConn{conn: newConn(nil, connSettings{})}
	q := c.ending.inflight
	want := func(what string, idle bool) {
		t.Helper()
		if got := c.idleSinceLook(); got != idle {
			t.Errorf("%s: idle = %v", what, got)
		}
	}
	want("before the first request", false)
	c.requests.frames.Add(1)
	want("after it", false)
	want("a look later", true)
	q.push(request{})
	want("with a request in flight", false)
	q.done()
	want("when that is answered", true)
	c.requests.frames.Add(1)
	want("after a request without a response", false)
	want("a look later", true)
	q.startLogin(protocol.GSSAPI)
	want("in a login", false)
}

// What a gateway calls itself is a peer's word: how many of them are remembered, and how long they
// are, has a bound.
func TestTheGatewaysThatAreRememberedAreBounded(t *testing.T) {
	m, g := &mover{}, &remoteGateway{}
	for i := range 10 * maxInstances {
		m.see(g, strconv.Itoa(i)+strings.Repeat("x", 1<<10))
	}
	if len(m.known) > maxInstances {
		t.Errorf("%d gateways are remembered", len(m.known))
	}
	for name := range m.known {
		if len(name) > maxInstance {
			t.Errorf("a name of %d bytes is remembered", len(name))
		}
	}
}

// Nothing moves to a gateway that answers and cannot serve a stream: because it is at a limit, or
// because it reaches no broker.
func TestNothingMovesToAGatewayThatCannotServe(t *testing.T) {
	const n, looks = 20, 30
	for what, change := range map[string]func(*Gateway){
		"at a limit": func(g *Gateway) { g.Limits.StreamsPerIdentity = 4 },
		"no broker":  func(g *Gateway) { g.Brokers = &Brokers{Bootstrap: []string{freeAddress(t)}} },
	} {
		t.Run(what, func(t *testing.T) {
			c := startCluster(t, 1)
			var dialers []*tunnel.Dialer
			for i := range 2 {
				g := startGateway(t, c.Bootstrap(), func(g *Gateway) {
					g.TicketKeys = keysOf("key")
					if i == 0 {
						change(g)
					}
				})
				u, _ := url.Parse(g.address)
				dialers = append(dialers, &tunnel.Dialer{URL: u, Transport: tunnel.TransportWS, TLS: clientTLS(t), Logger: testlog.New(t, "tunnel")})
			}
			up := NewTunnel(dialers...).(*tunnels)
			up.greeting = greeting{10 * time.Millisecond, 100 * time.Millisecond}
			up.mover.every = time.Hour
			var agent *Agent
			path := startAgent(t, up, func(a *Agent) { agent = a })
			waitUntilEqual(t, up, 2)
			idle := startIdlers(t, path, n)
			for range looks {
				up.mover.look(up, agent.clients.each)
				up.gateways[0].failed.Add(-int64(doubtFor)) // which passes between two looks
				time.Sleep(20 * time.Millisecond)           // for a moved connection to come back
			}
			if ended := idle.ended.Load(); ended > 0 {
				t.Errorf("%d connections of %d were ended in %d looks", ended, n, looks)
			}
		})
	}
}
