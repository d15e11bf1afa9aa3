package tunnel

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"time"

	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/exchange"
)

// TransportH2 names POST over HTTP/2 in settings, logs and metrics.
const TransportH2 = "h2"

// maxShared is how many streams share an HTTP/2 connection before another is dialled, up to
// Dialer.Carriers connections. One packet that TCP loses delays all streams of its connection, but
// a connection per stream would cost a TLS handshake each.
const maxShared = 8

// maxPicks is how many chosen connections may turn out to be closing before take gives up.
const maxPicks = 3

// An h2Carrier is an HTTP/2 connection to the gateway, possibly still being dialled.
type h2Carrier struct {
	giveUp context.CancelFunc // cancels the dial

	ready chan struct{} // closed when the fields below are set
	conn  *settingsConn
	http  *http.ClientConn
	err   error

	carrierState
	expected int // room until the peer's SETTINGS say how much there is; guarded by carriers.mu
}

func (c *h2Carrier) state() *carrierState { return &c.carrierState }
func (c *h2Carrier) dead() bool           { return c.isReady() && (c.err != nil || c.http.Err() != nil) }
func (c *h2Carrier) usable() bool         { return true }
func (c *h2Carrier) stands() bool         { return c.isReady() && c.err == nil && c.conn.isSettled() }

// room returns how many streams the connection may carry at once: fewer than maxStreams if the peer
// says so, and none after a GOAWAY.
func (c *h2Carrier) room() int {
	if !c.isReady() || c.err == nil && !c.conn.isSettled() {
		return c.expected
	}
	free := c.http.Available()
	if free == 0 {
		return 0
	}
	return min(maxStreams, free+c.http.InFlight())
}

// isReady reports whether the dial has ended.
func (c *h2Carrier) isReady() bool {
	select {
	case <-c.ready:
		return true
	default:
		return false
	}
}

// close closes the connection. If it is still being dialled, close cancels the dial and waits for
// its end.
func (c *h2Carrier) close() {
	c.giveUp()
	if <-c.ready; c.err == nil {
		c.http.Close()
	}
}

// h2Pool holds the HTTP/2 connections of a Dialer. net/http closes idle ones.
type h2Pool struct {
	env *poolEnv

	carriers[*h2Carrier]
	granted int // streams on the last connection whose peer has sent SETTINGS, up to maxShared; 0: none has; guarded by mu
	tasks   sync.WaitGroup
}

// take opens a POST. It returns when the request has been sent; the response is read in the
// background. A connection may reach its end in the moment in which it is chosen, so take tries
// several times.
func (p *h2Pool) take(ctx context.Context, open []byte, fresh bool) (s *Conn, ready bool, err error) {
	header, err := p.env.header(ctx)
	if err != nil {
		return nil, false, err
	}
	header.Set("Content-Type", exchange.PostType)
	for tries := 1; ; tries++ {
		c, ready, err := p.conn(ctx, fresh)
		if err != nil {
			return nil, ready, err
		}
		x, err := p.post(ctx, c, header)
		if err == nil {
			s, err = p.env.newStream(x, TransportH2, open)
			return s, ready, err
		}
		if tries == maxPicks || ctx.Err() != nil {
			return nil, ready, err
		}
	}
}

// missing wants enough connections for n streams to find one with few streams on it.
func (p *h2Pool) missing(n int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	each := cmp.Or(p.granted, maxShared)
	more := (n - p.roomToShare() + each - 1) / each
	return max(0, min(more, p.env.carriers-p.usable()))
}

// prepare dials a connection.
func (p *h2Pool) prepare(ctx context.Context) error { return p.env.introduce(ctx, TransportH2) }

// roomToShare returns how many streams the connections can take before each has maxShared. The
// caller holds mu.
func (p *h2Pool) roomToShare() (n int) {
	p.leastLoaded() // removes dead connections
	for _, c := range p.list {
		if !c.left {
			n += max(0, min(maxShared, c.room())-c.streams)
		}
	}
	return n
}

// drop leaves all connections. Those without streams are closed.
func (p *h2Pool) drop() {
	for _, c := range p.all() {
		p.leave(c)
	}
}

// elsewhere does nothing: each TCP connection has a port of its own.
func (p *h2Pool) elsewhere() {}

// otherMethod returns nil: HTTP/2 streams are always opened with POST.
func (p *h2Pool) otherMethod() func() (by string, undo func()) { return nil }

// otherSending returns "": there is nothing to change.
func (p *h2Pool) otherSending() (how string, try func() (undo func())) { return "", nil }

// post sends a request over a connection on which the stream is already counted. It returns an
// error only if the request has not left.
func (p *h2Pool) post(ctx context.Context, c *h2Carrier, header http.Header) (exchange.Exchange, error) {
	lasting, cancel := context.WithCancel(context.WithoutCancel(ctx)) // the request outlives the dial
	x := exchange.NewPost(c.conn.LocalAddr(), c.conn.RemoteAddr(), func(bool) { cancel() })
	left := make(chan struct{})
	req := (&http.Request{
		Method:        http.MethodPost,
		URL:           p.env.target(),
		Header:        header,
		Body:          x.Body(),
		ContentLength: -1,
	}).WithContext(httptrace.WithClientTrace(lasting, &httptrace.ClientTrace{WroteHeaders: func() { close(left) }}))
	failed := make(chan error, 1)
	p.tasks.Go(func() {
		defer p.free(c)
		failed <- x.Send(c.http, req, p.env.front.answered, func(e *AnswerError) error {
			if e.Temporary() {
				p.leave(c)
			}
			return p.env.refused(TransportH2, header, e)
		})
	})
	select {
	case <-left:
		return x, nil
	case <-ctx.Done():
		x.Abort()
		return nil, context.Cause(ctx)
	case err := <-failed:
		select {
		case <-left: // and has been answered already
			return x, nil
		default:
			x.Abort()
			return nil, err
		}
	}
}

// conn returns a connection with room for a stream, and counts that stream. A stream does not wait
// for a dial where a connection stands: it takes the least loaded one. Of connections that are being
// dialled it takes one that fewer than maxShared streams wait for; then it dials one, up to
// Dialer.Carriers; then again the least loaded one; and a new one if all are full. ready reports
// whether the connection was established already. If a dial fails, an existing connection with room
// will do.
func (p *h2Pool) conn(ctx context.Context, fresh bool) (c *h2Carrier, ready bool, err error) {
	for {
		c, own, ready := p.choose(ctx, fresh)
		if err := c.wait(ctx, own); err != nil {
			p.free(c)
			return nil, ready, err
		}
		if c.err != nil {
			p.free(c)
			if other := p.useLeastLoaded(); other != nil && !fresh {
				return other, true, nil
			}
			return nil, false, c.err
		}
		if own || p.fits(c) {
			return c, ready, nil
		}
		p.free(c)
	}
}

// wait waits until the connection is dialled and, unless the caller has caused the dial, until the
// peer has said how many streams it grants. The first stream need not wait for that.
func (c *h2Carrier) wait(ctx context.Context, own bool) error {
	select {
	case <-c.ready:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if own || c.err != nil {
		return nil
	}
	select {
	case <-c.conn.settled:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

// fits reports whether a connection has room for the streams that are counted on it, now that its
// peer's SETTINGS are known. They also are the best guess for the next connection.
func (p *h2Pool) fits(c *h2Carrier) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.http.Err() == nil {
		p.granted = max(1, min(maxShared, c.http.Available()+c.http.InFlight()))
	}
	return c.streams <= c.room()
}

// choose returns the connection for conn, and starts to dial one if needed: own reports that.
func (p *h2Pool) choose(ctx context.Context, fresh bool) (c *h2Carrier, own, ready bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, ok := p.leastLoaded()
	if fresh || !ok || !c.stands() && c.streams >= maxShared && p.usable() < p.env.carriers {
		c, own = p.connect(ctx), true
		c.left = ok && p.usable() > p.env.carriers // for one stream that wanted a new connection
	}
	c.streams++
	if !fresh && p.usable() < p.env.carriers && p.roomToShare() == 0 {
		p.env.wantOne() // for the next stream
	}
	return c, own, c.isReady()
}

// useLeastLoaded counts a stream on the least loaded connection that is established. It returns nil
// if none has room.
func (p *h2Pool) useLeastLoaded() *h2Carrier {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, ok := p.leastLoaded()
	if !ok || !c.isReady() {
		return nil
	}
	c.streams++
	return c
}

// leave puts no more streams on a connection, and closes it if it has none. A new connection may
// lead to another gateway.
func (p *h2Pool) leave(c *h2Carrier) {
	if p.carriers.leave(c) {
		c.close()
	}
}

// free takes a stream off a connection. One that was left is closed with its last stream, and so is
// one of more than Dialer.Carriers.
func (p *h2Pool) free(c *h2Carrier) {
	p.mu.Lock()
	c.streams--
	c.left = c.left || c.streams == 0 && p.usable() > p.env.carriers
	done := c.left && c.streams == 0
	p.mu.Unlock()
	if done {
		c.close()
	}
}

// close closes all connections and waits for their goroutines.
func (p *h2Pool) close() error {
	p.mu.Lock()
	list := p.list
	p.list = nil
	p.mu.Unlock()
	for _, c := range list {
		c.close()
	}
	p.tasks.Wait()
	return nil
}

// connect dials a connection in the background. Several callers may wait for it, so the dial
// continues if the first one gives up. The caller holds mu.
func (p *h2Pool) connect(ctx context.Context) *h2Carrier {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.env.t.handshake)
	c := &h2Carrier{giveUp: cancel, ready: make(chan struct{}), expected: cmp.Or(p.granted, maxShared)}
	p.list = append(p.list, c)
	p.tasks.Go(func() {
		defer close(c.ready)
		defer cancel()
		c.conn, c.http, c.err = p.dial(ctx)
	})
	return c
}

// dial connects, does the TLS handshake, and starts HTTP/2.
func (p *h2Pool) dial(ctx context.Context) (*settingsConn, *http.ClientConn, error) {
	conn, err := dialGateway(asCarrier(ctx, TransportH2), p.env.route, p.secure)
	if err != nil {
		return nil, nil, err
	}
	watched := newSettingsConn(conn)
	c, err := p.start(ctx, watched)
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	return watched, c, nil
}

// secure does the TLS handshake on tcp, unless the URL is http://.
func (p *h2Pool) secure(ctx context.Context, tcp net.Conn) (net.Conn, error) {
	if p.env.url.Scheme == "http" {
		return tcp, nil
	}
	t := tls.Client(tcp, p.env.config("h2"))
	switch err := t.HandshakeContext(ctx); {
	case err != nil && strings.HasSuffix(err.Error(), "no application protocol"):
		return nil, exchange.ErrNoH2
	case err != nil:
		return nil, fmt.Errorf("TLS handshake: %w", err)
	case t.ConnectionState().NegotiatedProtocol != "h2":
		return nil, exchange.ErrNoH2
	}
	p.env.front.showed(t.ConnectionState())
	return t, nil
}

// start starts HTTP/2 on conn. Each connection has an http.Transport of its own, because that is
// how net/http accepts a connection that we have dialled. It need not know about TLS: of a
// connection that it takes for TLS it wants the tls.Conn itself.
func (p *h2Pool) start(ctx context.Context, conn net.Conn) (*http.ClientConn, error) {
	t := &http.Transport{
		DialContext:            func(context.Context, string, string) (net.Conn, error) { return conn, nil },
		Protocols:              new(http.Protocols),
		HTTP2:                  h2Config(p.env.w, exchange.MaxAnswerFrame),
		DisableCompression:     true,
		MaxResponseHeaderBytes: exchange.MaxHeader,
		IdleConnTimeout:        p.idle(),
	}
	t.Protocols.SetUnencryptedHTTP2(true)
	return t.NewClientConn(ctx, "http", p.env.addr())
}

// idle returns how long a connection without streams is kept. It is longer if spares are wanted, so
// that they are not dialled anew every minute.
func (p *h2Pool) idle() time.Duration {
	if p.env.spares() > 0 {
		return 10 * p.env.t.idle
	}
	return p.env.t.idle
}
