package tunnel

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/qpack"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

const (
	// DefaultCarriers is how many streams get a carrier of their own before they share. One QUIC connection is one congestion window, and
	// quic-go's is NewReno's: at 20 ms and 0.5 % loss one connection per Kafka connection carried 11 MB/s where one per broker carried 4.
	DefaultCarriers = 16

	// maxIdle is how many carriers without streams are kept for longer than timing.idle.
	maxIdle = 2
)

// A carrier is a QUIC connection to the gateway, as an HTTP/3 client has it.
type carrier struct {
	conn     *quic.Conn
	on       *socket
	settings chan struct{} // closed when SETTINGS came
	read     atomic.Uint64 // bytes of its streams
	extended bool          // SETTINGS allow extended CONNECT; valid after settings is closed

	// Guarded by h3Pool.mu.
	streams int
	goaway  bool // takes no new streams
	idle    *time.Timer
	packets uint64 // that had come when we looked last
	heard   int64  // the clock when we saw that more had come
}

// A socket is a UDP socket, which carriers share. A balancer that knows nothing of QUIC sends all that comes from one socket to one gateway,
// so to leave a gateway takes another socket.
type socket struct {
	tr *quic.Transport

	// Guarded by h3Pool.mu.
	users int // carriers, and dials in progress
	left  bool
}

// h3Pool are the carriers of a Dialer. Those that have no stream are its spares.
type h3Pool struct {
	d    *Dialer
	post atomic.Bool // POST opens streams also where SETTINGS allow extended CONNECT: a hello has found out that only POST gets through

	buffers bufferReport
	watch   quicWatch

	mu      sync.Mutex
	socket  *socket // for new carriers; nil until it is needed
	list    []*carrier
	dialled int           // dials in progress
	change  chan struct{} // closed when one has ended; nil if nobody waits
	keep    int           // how many without streams are wanted
	tasks   sync.WaitGroup
}

func (p *h3Pool) take(ctx context.Context, open []byte, fresh bool) (c *Conn, ready bool, err error) {
	if p.d.URL.Scheme != "https" {
		return nil, false, errors.New("h3 needs an https:// URL")
	}
	header, err := p.d.header(ctx)
	if err != nil {
		return nil, false, err
	}
	k, ready, err := p.carrier(ctx, fresh)
	if err != nil {
		return nil, false, err
	}
	x, err := p.open(ctx, k, header)
	if err != nil {
		return nil, ready, err
	}
	c, err = p.d.newStream(x, open)
	return c, ready, err
}

// open opens a request stream. The request leaves with the first write, and its answer is read by the first read.
func (p *h3Pool) open(ctx context.Context, c *carrier, header http.Header) (exchange, error) {
	d := p.d
	stream, err := c.conn.OpenStreamSync(ctx)
	if err != nil {
		p.free(c)
		return nil, err
	}
	x := &h3Exchange{stream: stream, conn: c.conn, taken: &c.read, free: func() { p.free(c) }}
	x.request = d.request(header, p.post.Load() || !c.extended)
	x.onHeader = x.answer
	x.wrap = func(err error) error { return d.wrapAnswer(TransportH3, header, err) }
	x.lastByte.Store(clock())
	return x, nil
}

// request is the HEADERS frame of an extended CONNECT, or of a POST.
func (d *Dialer) request(header http.Header, post bool) []byte {
	var block bytes.Buffer
	enc := qpack.NewEncoder(&block)
	field := func(name, value string) { enc.WriteField(qpack.HeaderField{Name: name, Value: value}) }
	u := d.target()
	if post {
		header.Set("Content-Type", postType)
		field(":method", http.MethodPost)
	} else {
		field(":method", http.MethodConnect)
		field(":protocol", h3Protocol)
	}
	field(":scheme", u.Scheme)
	field(":authority", u.Host)
	field(":path", u.EscapedPath())
	for _, name := range slices.Sorted(maps.Keys(header)) {
		field(strings.ToLower(name), header.Get(name))
	}
	frame := appendVarint([]byte{frameHeaders}, uint64(block.Len()))
	return append(frame, block.Bytes()...)
}

// carrier returns a carrier with room for a stream, and counts that stream: an idle one, a new one until there are Dialer.Carriers, the least
// loaded one, or again a new one when all are full.
func (p *h3Pool) carrier(ctx context.Context, fresh bool) (c *carrier, ready bool, err error) {
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
	if c := p.leastLoaded(); !fresh && c != nil && ctx.Err() == nil {
		p.use(c)
		return c, true, nil
	}
	return nil, false, err
}

// find returns a carrier for a stream, or what is closed when a dial has ended that is worth waiting for, or neither: then it has counted a dial
// for the caller to make.
func (p *h3Pool) find(fresh bool) (c *carrier, dialled <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !fresh {
		c = p.leastLoaded()
		many := p.usable()+p.dialled >= p.d.carriers()
		if c != nil && (c.streams == 0 || many) {
			p.use(c)
			return c, nil
		}
		if many && p.dialled > 0 {
			return nil, p.waitForDial()
		}
	}
	p.dialled++
	return nil, nil
}

// waitForDial returns what is closed when a dial in progress has ended. The caller holds mu.
func (p *h3Pool) waitForDial() <-chan struct{} {
	if p.change == nil {
		p.change = make(chan struct{})
	}
	return p.change
}

// usable is how many carriers take streams. The caller holds mu.
func (p *h3Pool) usable() (n int) {
	for _, c := range p.list {
		if !c.goaway && p.alive(c) {
			n++
		}
	}
	return n
}

// add makes a carrier, which is counted as dialled already, and counts a stream of it.
func (p *h3Pool) add(ctx context.Context) (*carrier, error) {
	c, err := p.dial(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dialled--
	if p.change != nil {
		close(p.change)
		p.change = nil
	}
	if err != nil {
		return nil, err
	}
	c.heard = clock()
	p.list = append(p.list, c)
	p.use(c)
	return c, nil
}

func (p *h3Pool) fill(ctx context.Context, n int) error {
	for range n {
		p.mu.Lock()
		p.keep = n
		p.leastLoaded()
		enough := p.unused() >= n || p.usable()+p.dialled >= p.d.carriers()
		p.mu.Unlock()
		if enough {
			return nil
		}
		if err := p.d.introduce(ctx, TransportH3); err != nil {
			return err
		}
	}
	return nil
}

// unused is how many carriers have no stream. The caller holds mu.
func (p *h3Pool) unused() (n int) {
	for _, c := range p.list {
		if c.streams == 0 && !c.goaway && p.alive(c) {
			n++
		}
	}
	return n
}

func (p *h3Pool) drop() {
	p.mu.Lock()
	list := slices.Clone(p.list)
	p.mu.Unlock()
	for _, c := range list {
		p.leave(c)
	}
	p.leaveSocket(nil)
}

// leastLoaded forgets the dead, and returns nil when there is no room. The caller holds mu.
func (p *h3Pool) leastLoaded() *carrier {
	p.list = slices.DeleteFunc(p.list, func(c *carrier) bool { return c.conn.Context().Err() != nil })
	var best *carrier
	for _, c := range p.list {
		if c.streams < maxStreams && !c.goaway && p.alive(c) && (best == nil || c.streams < best.streams) {
			best = c
		}
	}
	return best
}

// alive reports whether packets have come over a carrier lately. QUIC's keep-alive sees to it that some do. The caller holds mu.
func (p *h3Pool) alive(c *carrier) bool {
	if n := c.conn.ConnectionStats().PacketsReceived; n != c.packets {
		c.packets, c.heard = n, clock()
	}
	return time.Duration(clock()-c.heard) <= p.d.t.stale
}

func (p *h3Pool) use(c *carrier) {
	c.streams++
	if c.idle != nil {
		c.idle.Stop()
		c.idle = nil
	}
}

// free takes a stream off a carrier. One that has none left is closed after a while, unless it is one of the few that are kept.
func (p *h3Pool) free(c *carrier) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.streams--
	if c.streams > 0 || c.conn.Context().Err() != nil {
		return
	}
	after := p.d.t.idle
	if c.goaway {
		after = 0
	}
	c.idle = time.AfterFunc(after, func() { p.retire(c) })
}

// bury forgets a carrier that has ended, and with it what came over it and was not read.
func (p *h3Pool) bury(c *carrier) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.idle != nil {
		c.idle.Stop()
	}
	p.leastLoaded()
}

func (p *h3Pool) retire(c *carrier) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.streams > 0 || c.idle == nil || p.unused() <= max(maxIdle, p.keep) && !c.goaway {
		return
	}
	p.list = slices.DeleteFunc(p.list, func(other *carrier) bool { return other == c })
	c.conn.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "")
}

func (p *h3Pool) close() error {
	p.mu.Lock()
	for _, c := range p.list {
		if c.idle != nil {
			c.idle.Stop()
		}
		c.conn.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "")
	}
	p.list = nil
	p.mu.Unlock()
	p.tasks.Wait()
	return p.leaveSocket(nil)
}

// useSocket returns the UDP socket for new carriers, for one of them.
func (p *h3Pool) useSocket() (*socket, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.socket == nil {
		udp, err := net.ListenUDP("udp", nil)
		if err != nil {
			return nil, err
		}
		p.socket = &socket{tr: &quic.Transport{Conn: steady(udp)}}
	}
	p.socket.users++
	return p.socket, nil
}

// leaveSocket has new carriers use another socket than s, or than the one that there is if s is nil.
func (p *h3Pool) leaveSocket(s *socket) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.socket == nil || s != nil && s != p.socket {
		return nil
	}
	s, p.socket = p.socket, nil
	s.left = true
	return s.closeUnused()
}

func (p *h3Pool) freeSocket(s *socket) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.users--
	s.closeUnused()
}

// closeUnused closes a socket that was left when nobody uses it. The caller holds h3Pool.mu.
func (s *socket) closeUnused() error {
	if !s.left || s.users > 0 {
		return nil
	}
	return errors.Join(s.tr.Close(), s.tr.Conn.Close())
}

// dial makes a carrier that is ready for requests. It tries the gateway's addresses one after the other.
func (p *h3Pool) dial(ctx context.Context) (*carrier, error) {
	host, port, _ := net.SplitHostPort(p.d.addr())
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	n, err := net.DefaultResolver.LookupPort(ctx, "udp", port)
	if err != nil {
		return nil, err
	}
	for i, ip := range ips {
		addr := &net.UDPAddr{IP: ip.Unmap().AsSlice(), Port: n, Zone: ip.Zone()}
		var c *carrier
		if c, err = p.dialAt(ctx, addr, len(ips)-i); err == nil {
			return c, nil
		}
	}
	return nil, err
}

// dialAt spends its share of the time on one of n addresses.
func (p *h3Pool) dialAt(ctx context.Context, addr *net.UDPAddr, n int) (*carrier, error) {
	if by, ok := ctx.Deadline(); ok && n > 1 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(by)/time.Duration(n))
		defer cancel()
	}
	cfg := p.d.tls.Clone()
	cfg.NextProtos = []string{http3.NextProtoH3}
	cfg.MinVersion = tls.VersionTLS13
	s, err := p.useSocket()
	if err != nil {
		return nil, err
	}
	conn, err := handshake(ctx, s.tr, addr, cfg, quicConfig(-1, p.d.t, p.d.w))
	p.buffers.tell(s.tr.Conn, p.d.log, p.d.OnUDPBuffers)
	if err != nil {
		p.freeSocket(s)
		return nil, err
	}
	c := &carrier{conn: conn, on: s, settings: make(chan struct{})}
	p.tasks.Go(func() {
		<-conn.Context().Done()
		p.freeSocket(s)
		p.bury(c)
	})
	p.watch.add(conn, &c.read)
	if err := p.ready(ctx, c); err != nil {
		conn.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "")
		return nil, err
	}
	return c, nil
}

// ready sends our SETTINGS and waits for the gateway's.
func (p *h3Pool) ready(ctx context.Context, c *carrier) error {
	if _, err := openControl(c.conn, settingMaxHeader, maxHeader); err != nil {
		return err
	}
	peer := &h3Peer{conn: c.conn}
	peer.onSettings = func(extended bool) {
		c.extended = extended
		close(c.settings)
	}
	peer.onGoaway = func() {
		p.leave(c)
		p.leaveSocket(c.on)
	}
	p.tasks.Go(peer.accept)
	select {
	case <-c.settings:
	case <-c.conn.Context().Done():
		return context.Cause(c.conn.Context())
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

// leave puts no more streams on a carrier, and closes it when it has none.
func (p *h3Pool) leave(c *carrier) {
	p.mu.Lock()
	c.goaway = true
	unused := c.streams == 0
	p.mu.Unlock()
	if unused {
		c.conn.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "")
	}
}
