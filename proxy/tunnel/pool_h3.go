package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/exchange"
)

// TransportH3 names HTTP/3 in settings, logs and metrics.
const TransportH3 = "h3"

const (
	// DefaultCarriers is how many carriers streams are spread over. Each QUIC connection has one
	// congestion window, and quic-go uses NewReno: at 20 ms and 0.5 % loss, one QUIC connection per
	// Kafka connection carried 11 MB/s where one per broker carried 4.
	DefaultCarriers = 16

	// maxIdle is how many carriers without streams are kept for longer than timing.idle.
	maxIdle = 2
)

// h3Pool holds the QUIC connections of a Dialer. Those without a stream are its spares.
type h3Pool struct {
	env *poolEnv
	// Open streams with POST although SETTINGS allow extended CONNECT, because a hello found that
	// only POST gets through.
	post atomic.Bool

	sockets udpSockets
	buffers bufferReport

	carriers[*h3Carrier]
	keep    int           // how many carriers without streams are wanted; guarded by mu
	dialled int           // dials in progress; guarded by mu
	dialEnd chan struct{} // closed when a dial has ended; nil if nobody waits; guarded by mu
	tasks   sync.WaitGroup
}

// An h3Carrier is the client's end of a QUIC connection to the gateway.
type h3Carrier struct {
	conn     *quic.Conn
	stale    time.Duration // usable returns false after this much silence
	settings chan struct{} // closed when SETTINGS have arrived
	read     atomic.Uint64 // bytes read from its streams
	extended bool          // SETTINGS allow extended CONNECT; valid after settings is closed

	// Guarded by carriers.mu.
	carrierState
	granted int // how many streams the gateway grants at least, or maxStreams while we do not know
	idle    *time.Timer
	packets uint64 // received when usable looked last
	heard   int64  // exchange.Clock when usable saw that more had arrived
}

func (c *h3Carrier) state() *carrierState { return &c.carrierState }
func (c *h3Carrier) dead() bool           { return c.conn.Context().Err() != nil }
func (c *h3Carrier) stands() bool         { return true }
func (c *h3Carrier) room() int            { return c.granted }

// usable reports whether packets have arrived lately. QUIC's own keep-alive makes sure that some do
// on a connection that works.
func (c *h3Carrier) usable() bool {
	if n := c.conn.ConnectionStats().PacketsReceived; n != c.packets {
		c.packets, c.heard = n, exchange.Clock()
	}
	return time.Duration(exchange.Clock()-c.heard) <= c.stale
}

// close closes the connection; its streams are cut.
func (c *h3Carrier) close() {
	c.conn.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "")
}

// take opens a stream. The request is not sent yet: it leaves with OPEN and the first bytes.
func (p *h3Pool) take(ctx context.Context, open []byte, fresh bool) (c *Conn, ready bool, err error) {
	if p.env.url.Scheme != "https" {
		return nil, false, errors.New("h3 needs an https:// URL")
	}
	header, err := p.env.header(ctx)
	if err != nil {
		return nil, false, err
	}
	k, stream, ready, err := p.stream(ctx, fresh)
	if err != nil {
		return nil, ready, err
	}
	// The request leaves with the first write, and the first read reads its response.
	request := exchange.H3Request(p.env.target(), header, p.post.Load() || !k.extended)
	refused := func(e *AnswerError) error { return p.env.refused(TransportH3, header, e) }
	x := exchange.NewH3(k.conn, stream, request, &k.read, func() { p.free(k) }, p.env.front.answered, refused)
	c, err = p.env.newStream(x, TransportH3, open)
	return c, ready, err
}

// stream opens a QUIC stream on a carrier and counts it there. If the gateway grants the carrier no
// more streams it takes another one.
func (p *h3Pool) stream(ctx context.Context, fresh bool) (k *h3Carrier, s *quic.Stream, ready bool, err error) {
	for {
		if k, ready, err = p.carrier(ctx, fresh); err != nil {
			return nil, nil, false, err
		}
		s, err = k.conn.OpenStream()
		if _, full := errors.AsType[quic.StreamLimitReachedError](err); full {
			if ready {
				p.full(k)
				continue
			}
			s, err = k.conn.OpenStreamSync(ctx) // there is no carrier with more room than a new one
		}
		if err != nil {
			p.free(k)
			return nil, nil, ready, err
		}
		return k, s, ready, nil
	}
}

// full takes a stream off a carrier that has no room for it. Until another stream ends there, it
// has none; if there is no other, the carrier is of no use.
func (p *h3Pool) full(k *h3Carrier) {
	p.mu.Lock()
	defer p.mu.Unlock()
	k.streams--
	k.granted = k.streams
	if k.streams == 0 {
		k.left = true
		k.idle = time.AfterFunc(0, func() { p.retire(k) })
	}
}

// otherMethod switches between extended CONNECT and POST. Some intermediaries refuse extended
// CONNECT, and some accept it and then carry nothing; a POST may get through both.
func (p *h3Pool) otherMethod() func() (by string, undo func()) {
	return func() (string, func()) {
		post := !p.post.Load()
		p.post.Store(post)
		by := http.MethodConnect
		if post {
			by = http.MethodPost
		}
		return by, func() { p.post.Store(!post) }
	}
}

// otherSending stops giving the system several packets at once. Whatever is on the way may take
// them for one packet: Envoy without prefer_gro loses all but the first.
func (p *h3Pool) otherSending() (how string, try func() (undo func())) {
	single := &p.sockets.single
	if !canSegment || single.Load() {
		return "", nil
	}
	return "without GSO", func() func() {
		single.Store(true)
		return func() { single.Store(false) }
	}
}

// carrier returns a carrier with room for a stream, and counts that stream. A stream does not wait
// for a dial where a carrier stands: it takes the least loaded one, which is one without streams if
// there is any. If all are full it dials one. If that fails, an existing carrier with room will do.
func (p *h3Pool) carrier(ctx context.Context, fresh bool) (c *h3Carrier, ready bool, err error) {
	for {
		c, dialled := p.find(fresh)
		if c != nil {
			return c, true, nil
		}
		if dialled == nil {
			break
		}
		select {
		case <-dialled:
		case <-ctx.Done():
			return nil, false, context.Cause(ctx)
		}
	}
	c, err = p.add(ctx)
	if err == nil {
		return c, false, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if c, ok := p.leastLoaded(); !fresh && ok && ctx.Err() == nil {
		p.use(c)
		return c, true, nil
	}
	return nil, false, err
}

// find returns a carrier for a stream, or a channel that is closed when a dial in progress ends, or
// neither. In the last case the caller must dial, and find has counted that dial.
func (p *h3Pool) find(fresh bool) (c *h3Carrier, dialled <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !fresh {
		c, ok := p.leastLoaded()
		many := p.usable()+p.dialled >= p.env.carriers
		if ok {
			p.use(c)
			if p.unused() == 0 && !many {
				p.env.wantOne() // for the next stream
			}
			return c, nil
		}
		if many && p.dialled > 0 {
			return nil, p.waitForDial()
		}
	}
	p.dialled++
	return nil, nil
}

// waitForDial returns a channel that is closed when a dial in progress ends. The caller holds mu.
func (p *h3Pool) waitForDial() <-chan struct{} {
	if p.dialEnd == nil {
		p.dialEnd = make(chan struct{})
	}
	return p.dialEnd
}

// add dials a carrier, for a dial that find has counted, and counts a stream on it.
func (p *h3Pool) add(ctx context.Context) (*h3Carrier, error) {
	c, err := p.dial(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dialled--
	if p.dialEnd != nil {
		close(p.dialEnd)
		p.dialEnd = nil
	}
	if err != nil {
		return nil, err
	}
	_, room := p.leastLoaded()
	c.left = room && p.usable() >= p.env.carriers // for one stream that wanted a new carrier
	c.heard = exchange.Clock()
	p.list = append(p.list, c)
	p.use(c)
	return c, nil
}

// missing keeps n carriers without streams, and wants as many, unless there are enough carriers.
func (p *h3Pool) missing(n int) int {
	p.setKeep(n)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leastLoaded() // removes dead carriers
	return max(0, min(n-p.unused(), p.env.carriers-p.usable()-p.dialled))
}

// prepare dials a carrier.
func (p *h3Pool) prepare(ctx context.Context) error { return p.env.introduce(ctx, TransportH3) }

// setKeep sets how many carriers without streams are wanted. If that is fewer than before, the idle
// time of all unused carriers starts again, and retire closes the surplus.
func (p *h3Pool) setKeep(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fewer := n < p.keep
	p.keep = n
	for _, c := range p.list {
		if fewer && c.idle != nil {
			c.idle.Reset(p.env.t.idle)
		}
	}
}

// drop leaves all carriers, and their socket.
func (p *h3Pool) drop() {
	for _, c := range p.all() {
		p.leave(c)
	}
	p.elsewhere()
}

// elsewhere leaves the socket that new carriers share.
func (p *h3Pool) elsewhere() { p.sockets.leave(nil) }

// use counts a stream on c. The caller holds mu.
func (p *h3Pool) use(c *h3Carrier) {
	c.streams++
	if c.idle != nil {
		c.idle.Stop()
		c.idle = nil
	}
}

// free takes a stream off a carrier. A carrier without streams is closed after a while, unless it
// is one of those that are kept, and at once if there are more than Dialer.Carriers.
func (p *h3Pool) free(c *h3Carrier) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.streams--
	c.granted = maxStreams
	if c.streams > 0 || c.dead() {
		return
	}
	c.left = c.left || p.usable() > p.env.carriers
	after := p.env.t.idle
	if c.left {
		after = 0
	}
	c.idle = time.AfterFunc(after, func() { p.retire(c) })
}

// ended removes a carrier that has ended. That also frees what it had received and nobody had read.
func (p *h3Pool) ended(c *h3Carrier) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.idle != nil {
		c.idle.Stop()
	}
	p.leastLoaded() // removes it
}

// retire closes an idle carrier, unless it is one of those that are kept.
func (p *h3Pool) retire(c *h3Carrier) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.streams > 0 || c.idle == nil || p.unused() <= max(maxIdle, p.keep) && !c.left {
		return
	}
	p.list = slices.DeleteFunc(p.list, func(other *h3Carrier) bool { return other == c })
	c.close()
}

// close closes all carriers and waits for their goroutines.
func (p *h3Pool) close() error {
	p.mu.Lock()
	for _, c := range p.list {
		if c.idle != nil {
			c.idle.Stop()
		}
		c.close()
	}
	p.list = nil
	p.mu.Unlock()
	p.tasks.Wait()
	return p.sockets.leave(nil)
}

// dial makes a carrier that is ready for requests.
func (p *h3Pool) dial(ctx context.Context) (*h3Carrier, error) {
	c, err := dialHost(ctx, p.env.route, "udp", p.env.addr(), p.dialAt, (*h3Carrier).close)
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		err = p.env.explain(ctx, err)
	}
	return c, err
}

// dialAt makes a carrier to one address of the gateway.
func (p *h3Pool) dialAt(ctx context.Context, at netip.AddrPort) (*h3Carrier, error) {
	cfg := p.env.config(http3.NextProtoH3)
	cfg.MinVersion = tls.VersionTLS13
	s, err := p.sockets.use()
	if err != nil {
		return nil, err
	}
	conn, err := handshake(ctx, s.tr, net.UDPAddrFromAddrPort(at), cfg, quicConfig(-1, p.env.t, p.env.w))
	p.buffers.tell(s.tr.Conn, p.env.log, p.env.onUDPBuffers)
	if err != nil {
		p.sockets.free(s)
		return nil, err
	}
	c := &h3Carrier{conn: conn, stale: p.env.t.stale, settings: make(chan struct{}), granted: maxStreams}
	p.env.links.add(TransportH3, quicLink{conn})
	p.env.front.showed(conn.ConnectionState().TLS)
	p.tasks.Go(func() {
		<-conn.Context().Done()
		p.env.links.remove(quicLink{conn})
		p.sockets.free(s)
		p.ended(c)
	})
	p.env.memory.add(conn, &c.read)
	if err := p.exchangeSettings(ctx, c, s); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// exchangeSettings sends our SETTINGS and waits for the gateway's, which say whether extended
// CONNECT is allowed (RFC 9220 §3). A gateway sends them with its part of the handshake, so that
// this costs no extra round trip.
func (p *h3Pool) exchangeSettings(ctx context.Context, c *h3Carrier, s *udpSocket) error {
	if _, err := exchange.OpenControl(c.conn, false); err != nil {
		return err
	}
	peer := &exchange.H3Peer{Conn: c.conn}
	peer.OnSettings = func(extended bool) {
		c.extended = extended
		close(c.settings)
	}
	peer.OnGoaway = func() {
		p.leave(c)
		p.sockets.leave(s)
	}
	p.tasks.Go(peer.Serve)
	select {
	case <-c.settings:
	case <-c.conn.Context().Done():
		return context.Cause(c.conn.Context())
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

// leave puts no more streams on a carrier, and closes it if it has none.
func (p *h3Pool) leave(c *h3Carrier) {
	if p.carriers.leave(c) {
		c.close()
	}
}
