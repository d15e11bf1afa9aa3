package test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/culvert-proxy/culvert/test/leak"
	"github.com/culvert-proxy/culvert/test/netns"
)

// remote connects to the brokers of the shared testbed over a network that can have faults. The
// gateway is on its server side; agents and clients are on its client side.
type remote struct {
	*testbed
	net     *netns.Network
	gateway *gateway
}

// newRemote starts a gateway on the server side of a network. It and the agents have short
// timeouts, unless the run is a long one.
func newRemote(t *testing.T, l netns.Link) *remote {
	t.Helper()
	r := &remote{testbed: sharedTestbed(t).withShortTimeouts(t), net: netns.Start(t, l)}
	brokers := leak.New()
	brokers.From = r.net.Server
	t.Cleanup(brokers.Close)
	for at := range strings.SplitSeq(r.brokers, ",") {
		try(t, brokers.Listen(at, at))
	}
	gateway, err := r.newGatewayAt(t.Context(), r.net.Server, netns.ServerIP)
	try(t, err)
	closeWith(t, gateway)
	r.gateway = gateway
	return r
}

// withShortTimeouts returns the testbed with a binary whose long timeouts are divided by ten,
// unless the run is a long one.
func (b *testbed) withShortTimeouts(t *testing.T) *testbed {
	t.Helper()
	if long {
		return b
	}
	short := *b
	var err error
	short.binary, err = buildWithShortTimeouts()
	try(t, err)
	return &short
}

// paths starts an agent for each transport.
func (r *remote) paths(t *testing.T, transports ...string) (all []*path) {
	t.Helper()
	for _, transport := range transports {
		all = append(all, r.path(t, transport))
	}
	return all
}

// together runs a test for each path in parallel, and returns when all have ended.
func together(t *testing.T, when string, paths []*path, test func(*testing.T, *path)) {
	t.Helper()
	t.Run(when, func(t *testing.T) {
		for _, p := range paths {
			t.Run(p.transport, func(t *testing.T) {
				t.Parallel()
				test(t, p)
			})
		}
	})
}

// path starts an agent and its leak detector.
func (r *remote) path(t *testing.T, transport string) *path {
	t.Helper()
	p, err := r.newPathAt(t.Context(), r.net.Client, r.gateway, transport)
	try(t, err)
	closeWith(t, p)
	t.Cleanup(func() {
		p.relay.Check(t)
		if t.Failed() {
			t.Logf("log of the agent over %s:\n%s", transport, p.agent.Output())
			t.Logf("gateway log:\n%s", r.gateway.process.Output())
			t.Logf("open in the agent over %s: %v", transport, scrapeAt(t, p.at, p.admin).open())
			t.Logf("open in the gateway: %v", scrapeAt(t, r.gateway.at, r.gateway.admin).open())
		}
	})
	return p
}

func (r *remote) inject(t *testing.T, f netns.Fault) { t.Helper(); try(t, r.net.Inject(f)) }
func (r *remote) lift(t *testing.T, f netns.Fault)   { t.Helper(); try(t, r.net.Lift(f)) }

func try(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// streams returns how many streams are open over a transport.
func (p *path) streams(t *testing.T, transport string) float64 {
	t.Helper()
	return scrapeAt(t, p.at, p.admin).sum("culvert_streams{", `transport="`+transport+`"`)
}

// open returns the samples that count what is open.
func (s series) open() series {
	open := make(series)
	for name, value := range s {
		if value != 0 && (strings.HasPrefix(name, "culvert_connections{") || strings.HasPrefix(name, "culvert_streams{")) {
			open[name] = value
		}
	}
	return open
}

// mustUse fails the test unless streams are open over the transport.
func (p *path) mustUse(t *testing.T, transport string) {
	t.Helper()
	if p.streams(t, transport) == 0 {
		t.Errorf("auto has no stream over %s", transport)
	}
}

// kafkaConn is a client's connection on which the test sends ApiVersions.
type kafkaConn struct {
	net.Conn
	asked uint32
}

// connect dials the agent as a client does.
func (p *path) connect(t *testing.T) *kafkaConn {
	t.Helper()
	c, err := p.at.Dial(t.Context(), "tcp", p.bootstrap)
	try(t, err)
	t.Cleanup(func() { c.Close() })
	return &kafkaConn{Conn: c}
}

// ask sends ApiVersions v0 and returns how long the response took.
func (c *kafkaConn) ask(patience time.Duration) (time.Duration, error) {
	begin := time.Now()
	c.asked++
	request := []byte{0, 0, 0, 10, 0, 18, 0, 0}
	request = binary.BigEndian.AppendUint32(request, c.asked)
	request = append(request, 0xff, 0xff) // no client id
	c.SetDeadline(begin.Add(patience))
	if _, err := c.Write(request); err != nil {
		return time.Since(begin), err
	}
	head := make([]byte, 8)
	if _, err := io.ReadFull(c, head); err != nil {
		return time.Since(begin), err
	}
	took := time.Since(begin)
	if id := binary.BigEndian.Uint32(head[4:]); id != c.asked {
		return took, fmt.Errorf("response with correlation id %d, want %d", id, c.asked)
	}
	_, err := io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint32(head))-4)
	return took, err
}

func (c *kafkaConn) mustAnswer(t *testing.T) time.Duration {
	t.Helper()
	took, err := c.ask(patience)
	if err != nil {
		t.Fatalf("no response: %v, after %v", err, took)
	}
	return took
}

// firstAnswer opens new connections until one is answered, as clients do. It returns how long that
// took.
func (p *path) firstAnswer(t *testing.T) time.Duration {
	t.Helper()
	for begin := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		_, err := p.connect(t).ask(patience)
		if err == nil {
			return time.Since(begin)
		}
		if time.Since(begin) > 2*time.Minute {
			t.Fatalf("no response over %s within two minutes: %v", p.transport, err)
		}
	}
}

// mustEnd fails the test unless the idle connection ends with a reset. It returns how long that
// took.
func (c *kafkaConn) mustEnd(t *testing.T) time.Duration {
	t.Helper()
	begin := time.Now()
	c.SetDeadline(begin.Add(2 * patience))
	_, err := c.Read(make([]byte, 1))
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("connection ended with %v after %v, want a reset", err, time.Since(begin))
	}
	return time.Since(begin)
}

// payloadSize is the size of the records of traffic.
const payloadSize = 1000

// traffic is a producer and a consumer that run until the test ends them.
type traffic struct {
	path     *path
	topic    string
	stop     context.CancelFunc
	produced chan error
	sent     atomic.Int64
	arrived  *arrivals
	came     atomic.Int64
	read     chan struct{}

	mu      sync.Mutex
	open    map[net.Conn]bool // the clients' connections
	watched map[net.Conn]bool // those that must not end
	lost    int               // those of them that ended
}

// payload returns the bytes of record n after its number. Any changed byte shows.
func payload(n, size int) []byte {
	b := make([]byte, size)
	random := rand.NewPCG(uint64(n), 0)
	for i := 0; i+8 <= len(b); i += 8 {
		binary.BigEndian.PutUint64(b[i:], random.Uint64())
	}
	return b
}

// OnBrokerConnect and OnBrokerDisconnect record the clients' connections.
func (f *traffic) OnBrokerConnect(_ kgo.BrokerMetadata, _ time.Duration, c net.Conn, err error) {
	if err != nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open[c] = true
}

func (f *traffic) OnBrokerDisconnect(_ kgo.BrokerMetadata, c net.Conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.open, c)
	if f.watched[c] {
		f.lost++
	}
}

// watch returns a check that fails the test if a connection that is open now has ended.
func (f *traffic) watch() (check func(*testing.T)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.watched, f.lost = maps.Clone(f.open), 0
	return func(t *testing.T) {
		t.Helper()
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.lost > 0 {
			t.Errorf("%d of %d connections were lost", f.lost, len(f.watched))
		}
	}
}

// flow produces a record every few milliseconds, and consumes them.
func (p *path) flow(t *testing.T) *traffic {
	t.Helper()
	f := &traffic{path: p, topic: p.cluster.Topic(t, "flow-"+p.transport), arrived: newArrivals(), open: make(map[net.Conn]bool), produced: make(chan error, 1), read: make(chan struct{})}
	// Only culvert should end connections. The client's own timeouts are raised: franz-go gives a
	// request up after 10 s, Java's clients after 30 s.
	options := []kgo.Opt{kgo.WithHooks(f), kgo.ConnIdleTimeout(15 * time.Minute), kgo.RequestTimeoutOverhead(30 * time.Second)}
	producer := p.franz(t, append(options, kgo.ProducerLinger(time.Millisecond), kgo.RecordDeliveryTimeout(5*time.Minute))...)
	consumer := p.franz(t, append(options, kgo.ConsumeTopics(f.topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(500*time.Millisecond))...)
	ctx, stop := context.WithCancel(t.Context())
	f.stop = stop
	t.Cleanup(stop)
	go func() { f.produced <- f.produce(ctx, producer) }()
	go f.consume(t.Context(), consumer)
	return f
}

func (f *traffic) produce(ctx context.Context, client *kgo.Client) error {
	ticks := time.NewTicker(10 * time.Millisecond)
	defer ticks.Stop()
	var failed atomic.Pointer[error]
	for n := 0; ctx.Err() == nil; n++ {
		record := &kgo.Record{Topic: f.topic, Key: payload(n, payloadSize), Value: strconv.AppendInt(nil, int64(n), 10)}
		client.Produce(context.Background(), record, func(_ *kgo.Record, err error) {
			if err != nil {
				failed.CompareAndSwap(nil, &err)
			}
		})
		f.sent.Add(1)
		<-ticks.C
	}
	flush, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	if err := client.Flush(flush); err != nil {
		return err
	}
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

func (f *traffic) consume(ctx context.Context, client *kgo.Client) {
	defer close(f.read)
	for ctx.Err() == nil {
		client.PollFetches(ctx).EachRecord(func(r *kgo.Record) { f.came.Store(int64(f.arrived.addWith(r, payloadSize))) })
	}
}

// mustFlow waits until a record sent from now on arrives. It returns how long that took.
func (f *traffic) mustFlow(t *testing.T) time.Duration {
	t.Helper()
	begin := time.Now()
	want := f.sent.Load() + 20
	await(t, 2*time.Minute, "records flow over "+f.path.transport, func() bool { return f.came.Load() >= want })
	return time.Since(begin)
}

// finish stops the producer. It fails the test unless all records have come, once each, in order
// and unchanged.
func (f *traffic) finish(t *testing.T) {
	t.Helper()
	f.stop()
	if err := <-f.produced; err != nil {
		t.Errorf("produce over %s: %v", f.path.transport, err)
	}
	count := f.sent.Load()
	await(t, 2*time.Minute, "all records come", func() bool { return f.came.Load() >= count })
	f.arrived.check(t, int(count))
}

// bulk produces and consumes records that fill packets.
func (p *path) bulk(t *testing.T) {
	t.Helper()
	const count, size = 20, 400_000
	topic := p.cluster.Topic(t, "bulk-"+p.transport)
	records := numbered(topic, count)
	for n, r := range records {
		r.Key = payload(n, size)
	}
	begin := time.Now()
	produce(t, p.franz(t), records)
	sent := time.Since(begin)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	client := p.franz(t, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	arrived := newArrivals()
	for len(arrived.seen) < count && ctx.Err() == nil {
		client.PollFetches(ctx).EachRecord(func(r *kgo.Record) { arrived.addWith(r, size) })
	}
	arrived.check(t, count)
	t.Logf("%.1f MB sent in %v and read in %v", count*size/1e6, sent.Round(time.Millisecond), (time.Since(begin) - sent).Round(time.Millisecond))
}

// addWith is add for a record with a payload.
func (a *arrivals) addWith(r *kgo.Record, size int) int {
	different := a.add(r.Partition, r.Value)
	if n, _ := strconv.Atoi(string(r.Value)); !bytes.Equal(r.Key, payload(n, size)) {
		a.note(fmt.Sprintf("record %d came with other bytes than it was sent with", n))
	}
	return different
}

// await waits until ok returns true.
func await(t *testing.T, patience time.Duration, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), patience, errors.New("not within "+patience.String()))
	defer cancel()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, context.Cause(ctx))
		case <-time.After(10 * time.Millisecond):
		}
	}
}
