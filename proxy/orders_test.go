package proxy

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/culvert-proxy/culvert/proxy/internal/memnet"
	"github.com/culvert-proxy/culvert/proxy/metrics"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// What follows ends connections in every order, over memory. A client has sent two requests, which
// the broker has read. Then several of the events happen, and then the client reads what it is
// given. Connections hold bytes as sockets do, and a reset discards them.

type event string

const (
	answered    event = "the broker answers"
	clientFIN   event = "client FIN"
	clientRST   event = "client RST"
	brokerFIN   event = "broker FIN" // behind what it has written
	brokerRST   event = "broker RST"
	tunnelCut   event = "tunnel cut"
	agentStop   event = "agent stop"
	gatewayStop event = "gateway stop"
	refused     event = "refusal" // the client sends what the agent does not relay
	unacked     event = "acks=0"  // the client sends a request that gets no response
)

var allEvents = []event{answered, clientFIN, clientRST, brokerFIN, brokerRST, tunnelCut, agentStop, gatewayStop, refused, unacked}

// ends reports whether an event is the beginning of the connection's end.
func (e event) ends() bool { return e != answered && e != unacked }

// abrupt reports whether bytes may be lost.
func (e event) abrupt() bool { return e == clientRST || e == brokerRST || e == tunnelCut }

// order is one case.
type order struct {
	transport string
	events    []event
	size      int           // of each answer; a small one fits into the socket of a client that does not read
	reading   bool          // the client reads from the start, and not only after the last event
	pause     time.Duration // after each event; 0: until everybody waits, negative: none
}

func (o order) String() string {
	return fmt.Sprintf("%s, %v, %d bytes, reading %v, pause %v", o.transport, o.events, o.size, o.reading, o.pause)
}

// before reports whether a happens, and before any event of which is returns true.
func (o order) before(a event, is func(event) bool) bool {
	for _, e := range o.events {
		if e == a {
			return true
		}
		if is(e) {
			return false
		}
	}
	return false
}

func (o order) has(e event) bool { return slices.Contains(o.events, e) }

// brokerEnds reports whether the broker writes no more after e.
func brokerEnds(e event) bool { return e == brokerFIN || e == brokerRST }

func TestEveryOrderOfEnds(t *testing.T) {
	for _, transport := range []string{"direct", "ws", "h2"} {
		t.Run(transport, func(t *testing.T) {
			n := 0
			for _, events := range orders(3) {
				if transport == "direct" && (slices.Contains(events, tunnelCut) || slices.Contains(events, gatewayStop)) {
					continue
				}
				for _, size := range []int{1 << 10, 300 << 10} {
					for _, reading := range []bool{false, true} {
						for _, pause := range []time.Duration{-1, 0, 2 * time.Second} {
							if n++; n%sampled(len(events)) != 0 {
								continue
							}
							o := order{transport, events, size, reading, pause}
							synctest.Test(t, o.run)
						}
					}
				}
			}
		})
	}
}

// sampled returns which part of the cases of so many events is tested: the nth. All cases of two
// events take half a minute, and with the race detector some minutes, so they are for long runs.
// The numbers are prime, for a sample must not always leave out the same pause.
func sampled(events int) int {
	few := os.Getenv("CULVERT_TEST_LONG") == ""
	switch {
	case events > 2 && few:
		return 127
	case events > 2:
		return 29
	case events == 2 && few:
		return 5
	}
	return 1
}

// orders returns all orders of up to n different events.
func orders(n int) (all [][]event) {
	if n == 0 {
		return [][]event{nil}
	}
	for _, o := range orders(n - 1) {
		all = append(all, o)
		for _, e := range allEvents {
			if len(o) == n-1 && !slices.Contains(o, e) {
				all = append(all, append(slices.Clone(o), e))
			}
		}
	}
	return all
}

const ordersDrain = 20 * time.Second

func (o order) run(t *testing.T) {
	b := startBench(t, o.transport)
	defer b.stop()
	before := b.closes(t)
	client, broker := b.connect(t)
	for end, n := range b.sums(t, "culvert_requests_in_flight") {
		if n != 2 {
			t.Errorf("%v: %v requests are in flight at the %s, want 2", o, n, end)
		}
	}
	got := &arriving{}
	read := func() { go got.read(client) }
	if o.reading {
		read()
	}
	for _, e := range o.events {
		b.happen(e, client, broker, o.size)
		switch {
		case o.pause == 0:
			synctest.Wait()
		case o.pause > 0:
			time.Sleep(o.pause)
		}
	}
	if !o.reading {
		read()
	}
	time.Sleep(time.Second)
	start := time.Now()
	b.stop()
	if took := time.Since(start); took > ordersDrain+2*lingerTimeout {
		t.Errorf("%v: ending took %v", o, took)
	}
	synctest.Wait()
	o.checkClient(t, got)
	o.checkBroker(t, broker)
	for end, n := range b.closes(t) {
		if n -= before[end]; n != 1 {
			t.Errorf("%v: the %s counted %v ends, want 1", o, end, n)
		}
	}
	for end, n := range b.sums(t, "culvert_requests_in_flight") {
		if n != 0 {
			t.Errorf("%v: %v requests are in flight at the %s when all is over", o, n, end)
		}
	}
	client.Close()
	broker.close()
}

// checkClient reports what the client must not have seen.
func (o order) checkClient(t *testing.T, got *arriving) {
	t.Helper()
	full := slices.Concat(answer16(1, o.size), answer16(2, o.size))
	written := o.before(answered, brokerEnds)
	b, err := got.bytes, got.err
	complete := bytes.Equal(b, full)
	if !bytes.HasPrefix(full, b) {
		t.Errorf("%v: the client read %d bytes that are not the beginning of the answers", o, len(b))
	}
	if o.has(clientRST) {
		return
	}
	switch {
	case !got.over:
		t.Errorf("%v: the client still waits for the end, after %d bytes", o, len(b))
	case err == nil && !complete && (written || !o.has(brokerFIN)):
		t.Errorf("%v: the client read an end after %d of %d bytes, want a reset", o, len(b), len(full))
	case o.mustDeliver(written) && (!complete || err != nil):
		t.Errorf("%v: the client read %d of %d bytes, then %v; want all and an end", o, len(b), len(full), err)
	}
}

// mustDeliver reports whether the client must read all answers and then an end.
func (o order) mustDeliver(written bool) bool {
	if !written || o.pause > 0 && (o.sendsLate(unacked) || o.sendsLate(refused)) {
		return false
	}
	if !slices.ContainsFunc(o.events, event.abrupt) {
		return true
	}
	// What was in the client's socket before a FIN behind it arrives, whatever follows.
	first := slices.IndexFunc(o.events, event.ends)
	held := o.pause >= 0 && (o.reading || o.size < 10<<10)
	return held && !o.events[first].abrupt() && o.events[first] != clientFIN && o.before(answered, event.ends)
}

// sendsLate reports whether the client sends e after the connection has begun to end. When we have
// waited for that and closed our socket, it is answered by a reset.
func (o order) sendsLate(e event) bool {
	i := slices.Index(o.events, e)
	return i > 0 && slices.ContainsFunc(o.events[:i], event.ends)
}

// checkBroker reports what the broker must not have seen.
func (o order) checkBroker(t *testing.T, s *script) {
	t.Helper()
	if slices.ContainsFunc(o.events, brokerEnds) {
		return
	}
	frames, err := s.requests(), s.arriving.err
	left := o.has(clientFIN) || o.has(clientRST) || o.has(tunnelCut)
	switch {
	case !s.arriving.over:
		t.Errorf("%v: the broker still waits for the end", o)
	case (left || o.has(answered)) && err != nil && !o.cutByDrain():
		t.Errorf("%v: the broker read %v, want an end", o, err)
	case o.pause >= 0 && o.before(unacked, event.ends) && len(frames) != 3:
		t.Errorf("%v: the broker read %d requests, want 3: the one with acks=0 is missing", o, len(frames))
	}
}

// cutByDrain reports whether the time to drain may be over before the connection's end.
func (o order) cutByDrain() bool { return !o.has(answered) }

// bench is an agent, and a gateway where the transport needs one, over memory.
type bench struct {
	agent   *Agent
	clients *memnet.Listener // of the agent
	brokers *memnet.Listener
	carrier *carrier // between agent and gateway; nil without a tunnel
	ends    map[string]running

	stopAgent, stopGateway func() // and wait; nil once called
	stopping               sync.WaitGroup
}

// ordersMetrics are made once, because a registry costs more than a connection.
var ordersMetrics = sync.OnceValue(func() map[string]*measured {
	all := map[string]*measured{}
	for end, role := range map[string]metrics.End{"agent": metrics.Agent, "gateway": metrics.Gateway} {
		reg := prometheus.NewRegistry()
		all[end] = &measured{metrics.New(reg, role, "test"), running{metrics: reg}}
	}
	return all
})

type measured struct {
	*metrics.Metrics
	running running
}

func startBench(t *testing.T, transport string) *bench {
	t.Helper()
	b := &bench{clients: memnet.Listen("agent:9092"), brokers: memnet.Listen("broker:9092"), ends: map[string]running{}}
	var up Upstream = memoryUpstream{brokers: b.brokers}
	if transport != "direct" {
		up = b.startGateway(transport)
	}
	b.agent = &Agent{Listens: []Listen{{Bind: "127.0.0.1:9092"}}, BrokerPortBase: 19092, Upstream: up, Metrics: ordersMetrics()["agent"].Metrics, listenOn: listenInMemory}
	b.ends["agent"] = ordersMetrics()["agent"].running
	work, stop := context.WithCancel(t.Context())
	b.agent.setUp(work)
	b.agent.clients.listen(work, b.clients, b.agent.serveNode(0, bootstrapNode))
	b.stopAgent = func() {
		b.agent.clients.drain(ordersDrain, stop)
		stop()
		up.close()
	}
	return b
}

// startGateway starts a gateway whose every stream leads to the broker.
func (b *bench) startGateway(transport string) Upstream {
	g := &Gateway{Metrics: ordersMetrics()["gateway"].Metrics, Logger: slog.New(slog.DiscardHandler), DrainTimeout: ordersDrain}
	b.ends["gateway"] = ordersMetrics()["gateway"].running
	g.tickets = issuer{signer: newSigner(nil), relayed: &relayedNodes{changed: g.Metrics.SetNodes}, metrics: g.Metrics, log: g.Logger, limiter: &g.limiter}
	server := &tunnel.Server{
		Opened: func() tunnel.Opened { return tunnel.Opened{Gateway: "test"} },
		Serve: func(ctx context.Context, c *tunnel.Conn, _ *tunnel.Open, peer *tunnel.Peer) {
			broker, err := b.brokers.Dial(ctx)
			if err != nil {
				c.Reset(&tunnel.Error{Code: tunnel.CodeDial, Message: err.Error()})
				return
			}
			report := reporter{metrics: g.Metrics, log: g.Logger, limiter: &g.limiter, watch: &g.watch}
			g.relay(ctx, g.newConn(c, broker, report), metrics.Bootstrap, peer)
		},
	}
	ln := memnet.Listen("gateway:80")
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan struct{})
	go func() {
		defer close(over)
		server.Run(ctx, ln, nil)
		g.relays.drain()
		drain, cancel := context.WithTimeout(context.Background(), g.DrainTimeout)
		defer cancel()
		server.Shutdown(drain)
	}()
	b.stopGateway = func() {
		cancel()
		<-over
		ln.Close()
	}
	b.carrier = &carrier{to: ln}
	return NewTunnel(&tunnel.Dialer{URL: &url.URL{Scheme: "http", Host: "gateway"}, Transport: transport, DialContext: b.carrier.dial})
}

// connect has a client send two requests, and returns both ends of its connection when the broker
// has read them.
func (b *bench) connect(t *testing.T) (client *memnet.Conn, broker *script) {
	t.Helper()
	client, err := b.clients.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	client.Write(slices.Concat(request16(1), request16(2)))
	conn, err := b.brokers.Accept()
	if err != nil {
		t.Fatal(err)
	}
	broker = newScript(conn.(*memnet.Conn))
	synctest.Wait()
	for _, request := range broker.requests() {
		broker.ids = append(broker.ids, idOf(request))
	}
	if n := len(broker.ids); n != 2 {
		t.Fatalf("the broker has read %d requests, want 2", n)
	}
	return client, broker
}

// happen lets an event happen. It does not block.
func (b *bench) happen(e event, client *memnet.Conn, broker *script, size int) {
	switch e {
	case answered:
		broker.write(answer16(broker.ids[0], size), answer16(broker.ids[1], size))
	case clientFIN:
		client.CloseWrite()
	case clientRST:
		client.Cut()
	case brokerFIN:
		broker.finish()
	case brokerRST:
		broker.conn.Cut()
	case tunnelCut:
		b.carrier.cut()
	case agentStop:
		b.begin(&b.stopAgent)
	case gatewayStop:
		b.begin(&b.stopGateway)
	case refused:
		go client.Write(framed([]byte{0x75, 0x30, 0, 0, 0, 0, 0, 7, 0xff, 0xff}))
	case unacked:
		go client.Write(requestFrame(produceRequest("t", 0, "x", 0), 7, 3))
	}
}

// stop stops both ends and waits for them.
func (b *bench) stop() {
	b.begin(&b.stopAgent)
	b.begin(&b.stopGateway)
	b.stopping.Wait()
}

// begin begins to stop an end, unless that has begun. It is no sync.Once, because time stands still
// in a bubble while a mutex is waited for.
func (b *bench) begin(stop *func()) {
	if *stop != nil {
		b.stopping.Go(*stop)
		*stop = nil
	}
}

// closes returns how many connections each end has counted as ended.
func (b *bench) closes(t *testing.T) map[string]float64 {
	return b.sums(t, "culvert_connection_closes_total")
}

// sums returns the sum of a metric's series at each end.
func (b *bench) sums(t *testing.T, metric string) map[string]float64 {
	all := map[string]float64{}
	for end, r := range b.ends {
		all[end] = gauge(t, r, metric)
	}
	return all
}

// memoryUpstream leads to brokers without a tunnel.
type memoryUpstream struct {
	direct
	brokers *memnet.Listener
}

func (u memoryUpstream) dial(ctx context.Context, _ destination) (net.Conn, int, error) {
	c, err := u.brokers.Dial(ctx)
	return c, 0, err
}

// carrier makes the connections between an agent and a gateway, and cuts them.
type carrier struct {
	to *memnet.Listener

	mu    sync.Mutex
	conns []*memnet.Conn
}

func (c *carrier) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	conn, err := c.to.Dial(ctx)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conns = append(c.conns, conn)
	return conn, nil
}

func (c *carrier) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		conn.Cut()
	}
}

// script is a broker that reads all that comes, and writes what it is told, in turn.
type script struct {
	conn     *memnet.Conn
	ids      []int32 // correlation ids of the first two requests, as the broker has read them
	arriving arriving
	steps    chan func()
}

func newScript(c *memnet.Conn) *script {
	s := &script{conn: c, steps: make(chan func(), len(allEvents))}
	go s.arriving.read(c)
	go func() {
		for step := range s.steps {
			step()
		}
	}()
	return s
}

func (s *script) write(parts ...[]byte) {
	s.steps <- func() { s.conn.Write(slices.Concat(parts...)) }
}

func (s *script) finish() { s.steps <- func() { s.conn.CloseWrite() } }

func (s *script) close() {
	close(s.steps)
	s.conn.Close()
}

// requests returns what the broker has read, when everybody waits.
func (s *script) requests() (frames [][]byte) {
	for r := bytes.NewReader(s.arriving.bytes); ; {
		frame, err := readFrame(r)
		if err != nil {
			return frames
		}
		frames = append(frames, frame)
	}
}

// arriving is what comes out of a connection. Its fields may be looked at when everybody waits.
type arriving struct {
	bytes []byte
	err   error // nil: an end
	over  bool
}

func (a *arriving) read(c *memnet.Conn) {
	for piece := make([]byte, 16<<10); ; {
		n, err := c.Read(piece)
		a.bytes = append(a.bytes, piece[:n]...)
		if err != nil {
			if err != io.EOF {
				a.err = err
			}
			a.over = true
			return
		}
	}
}

// request16 is a ListGroups request, whose answer nobody but the client looks into.
func request16(id int32) []byte {
	return framed(append(binary.BigEndian.AppendUint32([]byte{0, 16, 0, 0}, uint32(id)), 0xff, 0xff))
}

func answer16(id int32, size int) []byte {
	return framed(append(binary.BigEndian.AppendUint32(nil, uint32(id)), bytes.Repeat([]byte{byte(size >> 8)}, size)...))
}
