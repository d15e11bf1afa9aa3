package tunnel

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gobwas/ws"
)

// A Dialer is the agent's end of the tunnel to one gateway. Set the fields before the first use; then it may be used concurrently.
type Dialer struct {
	// URL is that of the gateway, https://host[:port][/prefix]. http:// means ws without TLS, for places that are private by other means.
	URL *url.URL

	// Transport is "h3", "ws", "h2", or "auto", which also the empty string means: whichever works, the first of these if several do.
	Transport string

	// Unlikely are transports that are not expected to work at this gateway, because of the ingress before it: auto tries them when the others
	// have failed, and otherwise seldom.
	Unlikely []string

	// Carriers is how many streams get a carrier of their own, where streams can share one; 0 means DefaultCarriers.
	Carriers int

	// TLS says whom to trust and what certificate to show; nil means the system's roots. ServerName is taken from URL if empty.
	TLS *tls.Config

	// Token is sent with every exchange; nil means none.
	Token func() (string, error)

	// Ingress is what stands before the gateway and wants credentials of its own; nil means nothing. Several Dialers may share one.
	Ingress Ingress

	// Proxy is asked, once, for the proxy through which TCP to the gateway goes: http:// and https:// by CONNECT, or socks5://. A nil URL
	// means none. nil means what HTTPS_PROXY, HTTP_PROXY and NO_PROXY say. With a proxy, auto does not try h3.
	Proxy func(gateway *url.URL) (*url.URL, error)

	// DialContext dials TCP, to the gateway or its proxy; nil means a net.Dialer.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)

	// Memory is how many bytes the process may have in use before QUIC connections are closed, first that over which most has come that nobody
	// has read; 0 is no limit.
	Memory int64

	// OnDial is told how each dial of a transport went, those of hellos and spares included, unless it was given up because nobody waited
	// any more.
	OnDial func(transport string, err error, took time.Duration)

	// OnState is told when what auto uses, or knows, has changed. It must not call the Dialer.
	OnState func(State)

	// OnUDPBuffers is told, when h3 is first tried, how many bytes the buffers of its socket hold, where the system tells.
	OnUDPBuffers func(receive, send int)

	Logger *slog.Logger // nil discards

	timing  timing  // zero means defaultTiming
	windows windows // zero means defaultWindows

	once   sync.Once
	log    *slog.Logger
	t      timing
	w      windows
	tls    *tls.Config // TLS with what a resumed session needs
	race   *race
	h3     *h3Pool
	h2     *h2Pool
	pools  map[string]pool
	ledger ledger       // of memory alone
	rtt    atomic.Int64 // of the last OPEN that was answered, in nanoseconds

	spares  atomic.Int64
	refill  chan struct{}
	keeping context.Context // of the goroutine that keeps spares
	stop    context.CancelFunc
	tasks   sync.WaitGroup

	proxy    *url.URL // nil means none
	proxyErr error
	tcp      tuner
	proxyTLS *tls.Config // with the proxy, for tests; nil means the system's roots

	mu      sync.Mutex
	closed  bool
	kept    bool // the goroutine was started
	streams map[*Conn]struct{}
	pending sync.WaitGroup // a count for each of streams, and for each dial in progress
}

func (d *Dialer) init() {
	d.once.Do(func() {
		d.log, d.t = d.Logger, d.timing
		if d.log == nil {
			d.log = slog.New(slog.DiscardHandler)
		}
		if d.t == (timing{}) {
			d.t = defaultTiming
		}
		d.w = cmp.Or(d.windows, defaultWindows)
		d.tls = &tls.Config{}
		if d.TLS != nil {
			d.tls = d.TLS.Clone()
		}
		if d.tls.ServerName == "" {
			d.tls.ServerName = d.URL.Hostname()
		}
		if d.tls.ClientSessionCache == nil {
			d.tls.ClientSessionCache = tls.NewLRUClientSessionCache(64)
		}
		d.tls.DynamicRecordSizingDisabled = true
		d.findProxy()
		d.streams = make(map[*Conn]struct{})
		d.refill = make(chan struct{}, 1)
		d.keeping, d.stop = context.WithCancel(context.Background())
		d.h3, d.h2 = &h3Pool{d: d, watch: quicWatch{limit: d.Memory, ledger: &d.ledger, log: d.log}}, &h2Pool{d: d}
		d.pools = map[string]pool{TransportWS: &wsPool{d: d}, TransportH3: d.h3, TransportH2: d.h2}
		d.startRace()
	})
}

func (d *Dialer) startRace() {
	order := []string{d.Transport}
	auto := d.Transport == "" || d.Transport == TransportAuto
	if auto {
		order = transports(d.URL.Scheme)
	}
	if auto && d.proxied() {
		order = slices.DeleteFunc(order, func(transport string) bool { return transport == TransportH3 })
	}
	d.race = newRace(order, d.t, d.log, d.welcome)
	d.race.say = d.OnState
	if auto {
		for _, transport := range d.Unlikely {
			d.race.putOff(transport)
		}
	}
}

func (d *Dialer) carriers() int { return cmp.Or(d.Carriers, DefaultCarriers) }

// State says which transport is used, and why, and what is known of the others.
func (d *Dialer) State() State {
	d.init()
	return d.race.state()
}

// maxTries is how often Dial tries: over what is ready, over a fresh carrier, and once more where another transport has taken over.
const maxTries = 3

// Dial opens a stream and returns when the gateway has answered OPEN, which is before it dials the target.
//
// first leaves in one flight with OPEN, so that its answer can be here after one round trip. When no answer to OPEN comes soon over what was
// ready beforehand, or the gateway is draining, OPEN and first go again over a fresh carrier, and the caller notices nothing. So first must
// be bytes that may arrive twice; it may be nil. ctx bounds Dial alone.
func (d *Dialer) Dial(ctx context.Context, o Open, first []byte) (c *Conn, err error) {
	d.init()
	if err := d.start(); err != nil {
		return nil, err
	}
	defer d.pending.Done()
	for try := 1; ; try++ {
		var again bool
		c, again, err = d.try(ctx, o, first, try > 1)
		if err == nil || !again || try == maxTries || ctx.Err() != nil {
			return c, err
		}
		d.log.Debug("stream is opened again", "err", err)
	}
}

// try opens a stream over the best transport. again says that another try may do better at once. patient says that what is ready now was made
// lately, and deserves to be waited for: on a slow network an answer may take long.
func (d *Dialer) try(ctx context.Context, o Open, first []byte, patient bool) (c *Conn, again bool, err error) {
	chosen, err := d.race.choose(ctx)
	if err != nil {
		return nil, false, err
	}
	open, err := encodeOpen(o)
	if err != nil {
		return nil, false, err
	}
	pool := d.pools[chosen.transport]
	start := time.Now()
	c, ready, err := d.attempt(ctx, chosen.transport, open, false, func(c *Conn, ready bool) error {
		return d.await(ctx, c, ready && !patient, first)
	})
	if err == nil {
		return c, false, nil
	}
	answered := false
	if c != nil {
		c.Close()
		answered = c.told.Load()
	}
	if e, ok := errors.AsType[*Error](err); ok && e.Code == CodeVersion {
		answered = true
	}
	slow := errors.Is(ctx.Err(), context.DeadlineExceeded) && time.Since(start) > d.t.handshake/2
	switch {
	case draining(err): // a fresh carrier may lead to another gateway
		pool.drop()
		return nil, true, err
	case answered || ctx.Err() != nil && !slow:
		return nil, false, err
	case ready && !authoritative(err):
		d.race.unanswered(chosen, err, pool.drop)
		return nil, true, err
	}
	return nil, d.race.refused(chosen, err), err
}

func encodeOpen(o Open) ([]byte, error) {
	o.Version = Version
	value, err := encodeJSON(capsuleOpen, o)
	if err != nil {
		return nil, err
	}
	return appendCapsule(nil, capsuleOpen, value), nil
}

// await sends OPEN and first, and waits for the answer to OPEN: not for long where the stream is made of what was ready.
func (d *Dialer) await(ctx context.Context, c *Conn, ready bool, first []byte) error {
	wait := d.t.handshake
	if ready {
		wait = max(d.t.answer, 3*time.Duration(d.rtt.Load()))
	}
	ctx, cancel := context.WithTimeoutCause(ctx, wait, fmt.Errorf("no answer to OPEN within %v", wait))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { c.SetWriteDeadline(aLongTimeAgo) })
	defer stop()
	start := time.Now()
	if len(first) > 0 {
		if _, err := c.Write(first); err != nil {
			return d.dialError(ctx, c.Transport(), err)
		}
	}
	if _, err := c.Opened(ctx); err != nil {
		return d.dialError(ctx, c.Transport(), err)
	}
	if !stop() {
		return d.dialError(ctx, c.Transport(), context.Cause(ctx))
	}
	d.rtt.Store(int64(time.Since(start)))
	return nil
}

// dial makes a stream over one transport, up to where OPEN can leave.
func (d *Dialer) dial(ctx context.Context, transport string, open []byte, fresh bool) (c *Conn, ready bool, err error) {
	if err := d.start(); err != nil {
		return nil, false, err
	}
	defer d.pending.Done()
	ctx, cancel := d.bound(ctx)
	defer cancel()
	start := time.Now()
	p, ok := d.pools[transport]
	if !ok {
		return nil, false, fmt.Errorf("dial gateway %s over %s: no such transport", d.addr(), transport)
	}
	c, ready, err = p.take(ctx, open, fresh)
	if !ready {
		d.dialled(transport, err, start)
	}
	if err != nil {
		return nil, ready, d.dialError(ctx, transport, err)
	}
	if ready {
		d.wantSpares()
	}
	return c, ready, nil
}

// dialFresh is dial where nothing that is ready will do, and the gateway's answer is not waited for.
func (d *Dialer) dialFresh(ctx context.Context, transport string, open []byte) (*Conn, error) {
	c, _, err := d.attempt(ctx, transport, open, true, func(*Conn, bool) error { return nil })
	return c, err
}

// bound is how long a dial may take.
func (d *Dialer) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, d.t.handshake, fmt.Errorf("no exchange within %v", d.t.handshake))
}

// dialled reports a dial of a transport.
func (d *Dialer) dialled(transport string, err error, start time.Time) {
	if d.OnDial != nil && !errors.Is(err, context.Canceled) {
		d.OnDial(transport, err, time.Since(start))
	}
}

// dialError says what was done, and why it failed.
func (d *Dialer) dialError(ctx context.Context, transport string, err error) error {
	if ctx.Err() != nil && !errors.Is(err, context.Cause(ctx)) {
		err = context.Cause(ctx)
	}
	if e, ok := errors.AsType[*Error](err); ok && err == error(e) {
		return err // the gateway's word
	}
	prefix := fmt.Sprintf("dial gateway %s: ", d.way(transport))
	if strings.HasPrefix(err.Error(), prefix) {
		return err
	}
	return Explain(fmt.Errorf("%s%w", prefix, err))
}

// start counts a dial, which Close waits for.
func (d *Dialer) start() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return net.ErrClosed
	}
	if err := d.w.check(); err != nil {
		return err
	}
	d.pending.Add(1)
	return nil
}

func (d *Dialer) newStream(x exchange, open []byte) (*Conn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		x.Abort()
		return nil, net.ErrClosed
	}
	d.pending.Add(1)
	var c *Conn
	c = newDialled(x, d.t, open, func() { d.forget(c) })
	d.streams[c] = struct{}{}
	return c, nil
}

func (d *Dialer) forget(c *Conn) {
	if c.wasCut.Load() && c.isOpened() {
		d.race.cut(c.Transport())
	}
	d.mu.Lock()
	delete(d.streams, c)
	d.mu.Unlock()
	d.pending.Done()
}

// SetSpares says how many streams are to be ready, so that their OPEN can leave at once. They are made in the background, over the transport
// that is used. 0, where a Dialer begins, means none.
func (d *Dialer) SetSpares(n int) {
	d.init()
	d.spares.Store(int64(n))
	d.mu.Lock()
	start := !d.kept && !d.closed && n > 0
	d.kept = d.kept || start
	if start {
		d.tasks.Go(d.keepSpares)
	}
	d.mu.Unlock()
	d.wantSpares()
}

// wantSpares has the spares looked after soon.
func (d *Dialer) wantSpares() {
	select {
	case d.refill <- struct{}{}:
	default:
	}
}

// keepSpares makes spares until Close.
func (d *Dialer) keepSpares() {
	last := ""
	for d.keeping.Err() == nil {
		chosen, err := d.race.choose(d.keeping)
		if err == nil {
			if last != "" && last != chosen.transport {
				d.pools[last].drop()
			}
			last = chosen.transport
			err = d.pools[last].fill(d.keeping, int(d.spares.Load()))
			if err != nil {
				d.log.Debug("no spare made", "transport", last, "err", err)
				d.race.refused(chosen, err)
			}
		}
		refill := d.refill
		if err != nil {
			refill = nil // not before its time
		}
		wait := time.NewTimer(d.t.spares)
		select {
		case <-refill:
		case <-wait.C:
		case <-d.keeping.Done():
		}
		wait.Stop()
	}
}

// Close cuts the streams that are open, gives those that were closed some seconds until the gateway has taken everything, and frees the
// carriers.
func (d *Dialer) Close() error {
	d.init()
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.stop()
	for _, c := range d.open() {
		c.Close() // those that linger are closed already, and go on
	}
	d.race.close()
	d.tasks.Wait()
	hurry := time.AfterFunc(d.t.reset, func() {
		for _, c := range d.open() {
			c.x.Abort()
		}
	})
	defer hurry.Stop()
	d.pending.Wait()
	var errs []error
	for _, p := range d.pools {
		errs = append(errs, p.close())
	}
	return errors.Join(errs...)
}

// open are the streams that are not over.
func (d *Dialer) open() []*Conn {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Collect(maps.Keys(d.streams))
}

// addr is the host and port of the gateway.
func (d *Dialer) addr() string {
	port := d.URL.Port()
	switch {
	case port != "":
	case d.URL.Scheme == "http":
		port = "80"
	default:
		port = "443"
	}
	return net.JoinHostPort(d.URL.Hostname(), port)
}

// target is the URL of the tunnel.
func (d *Dialer) target() *url.URL {
	u := *d.URL
	u.Path = strings.TrimSuffix(u.Path, "/") + Path
	u.RawPath, u.RawQuery, u.Fragment, u.User = "", "", "", nil
	return &u
}

func (d *Dialer) dialWS(ctx context.Context) (exchange, error) {
	header, err := d.header(ctx)
	if err != nil {
		return nil, err
	}
	tcp, err := d.dialTCP(ctx)
	if err != nil {
		return nil, err
	}
	w := newWire(tcp)
	x, err := d.upgrade(ctx, w, header)
	if err != nil {
		tcp.Close()
		return nil, err
	}
	return x, nil
}

// upgrade makes a WebSocket of a TCP connection.
func (d *Dialer) upgrade(ctx context.Context, w *wire, header http.Header) (exchange, error) {
	stop := context.AfterFunc(ctx, func() { w.SetDeadline(aLongTimeAgo) })
	defer stop()
	conn := net.Conn(w)
	if d.URL.Scheme != "http" {
		cfg := d.tls.Clone()
		cfg.NextProtos = []string{"http/1.1"} // an ingress that gets the choice takes h2, where there is no upgrade
		t := tls.Client(w, cfg)
		if err := t.HandshakeContext(ctx); err != nil {
			return nil, fmt.Errorf("TLS handshake: %w", err)
		}
		conn = t
	}
	early, err := d.handshake(w, conn, header)
	if err != nil {
		return nil, err
	}
	if !stop() {
		return nil, context.Cause(ctx)
	}
	return newWS(w, conn, true, early), nil
}

// handshake asks for the upgrade, and returns what came behind the answer.
func (d *Dialer) handshake(w *wire, conn net.Conn, header http.Header) (early []byte, err error) {
	var answer *AnswerError
	h := ws.Dialer{
		Protocols: []string{wsProtocol},
		Header:    ws.HandshakeHeaderHTTP(header),
		OnStatusError: func(_ int, _ []byte, resp io.Reader) {
			w.SetReadDeadline(time.Now().Add(time.Second)) // for the body, whose end may never come
			answer = readAnswer(resp)
		},
	}
	br, _, err := h.Upgrade(struct {
		io.Reader
		io.Writer
	}{io.LimitReader(conn, maxHeader), conn}, d.target())
	switch {
	case answer != nil:
		return nil, d.answered(TransportWS, header, answer)
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return nil, fmt.Errorf("WebSocket handshake: connection closed before the answer was complete")
	case err != nil:
		return nil, fmt.Errorf("WebSocket handshake: %w", err)
	}
	if br != nil {
		b, _ := br.Peek(br.Buffered())
		early = bytes.Clone(b)
		ws.PutReader(br)
	}
	return early, nil
}
