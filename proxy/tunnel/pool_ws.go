package tunnel

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/gobwas/ws"

	"github.com/culvert-proxy/culvert/proxy/tunnel/exchange"
)

// TransportWS names WebSocket over HTTP/1.1 in settings, logs and metrics.
const TransportWS = "ws"

// wsPool has upgraded sockets, on which no OPEN was sent, as spares. Both ends send KEEPALIVEs on them.
type wsPool struct {
	env *poolEnv

	mu     sync.Mutex
	spares []*spare
	full   time.Time // until then the gateway is not asked to hold more
	tasks  sync.WaitGroup
}

// whileFull is how long an agent whose spare the gateway refused for a limit makes no more: each costs a handshake, and streams go without.
const whileFull = time.Minute

// A spare is a stream without OPEN. Its goroutine reads until it is taken, so that it is known to be alive or gone.
type spare struct {
	*Conn
	over chan struct{} // closed when nothing reads any more
	err  error         // valid after over: why; a timeout if it was taken
}

func (p *wsPool) take(ctx context.Context, open []byte, fresh bool) (c *Conn, ready bool, err error) {
	for !fresh {
		s := p.pop()
		if s == nil {
			break
		}
		if s.use(open) {
			return s.Conn, true, nil
		}
		s.Close()
	}
	x, err := p.dial(ctx)
	if err != nil {
		return nil, false, err
	}
	c, err = p.env.newStream(x, TransportWS, open)
	return c, false, err
}

// pop takes the spare that was made last: the others are more likely to be dead.
func (p *wsPool) pop() *spare {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.spares)
	if n == 0 {
		return nil
	}
	s := p.spares[n-1]
	p.spares = p.spares[:n-1]
	return s
}

func (p *wsPool) fill(ctx context.Context, n int) error {
	p.trim(n)
	for range n { // and not until there are n: they may die as fast as they are made
		p.mu.Lock()
		enough := len(p.spares) >= n || time.Now().Before(p.full)
		p.mu.Unlock()
		if enough {
			return nil
		}
		c, err := p.env.dialSpare(ctx, TransportWS)
		if err != nil {
			return err
		}
		p.add(c)
	}
	return nil
}

// trim closes all spares but the n that were made last.
func (p *wsPool) trim(n int) {
	p.mu.Lock()
	more := max(0, len(p.spares)-n)
	surplus := p.spares[:more]
	p.spares = slices.Clone(p.spares[more:]) // or its array would keep the others in memory
	p.mu.Unlock()
	for _, s := range surplus {
		s.Close()
	}
}

func (p *wsPool) add(c *Conn) {
	s := &spare{Conn: c, over: make(chan struct{})}
	p.mu.Lock()
	p.spares = append(p.spares, s)
	p.mu.Unlock()
	p.tasks.Go(func() { p.watch(s) })
}

// watch reads from a spare, for which only KEEPALIVEs can come, until it is taken or gone.
func (p *wsPool) watch(s *spare) {
	start := time.Now()
	s.err = s.keepReady()
	close(s.over)
	if exchange.IsTimeout(s.err) {
		return
	}
	p.mu.Lock()
	p.spares = slices.DeleteFunc(p.spares, func(other *spare) bool { return other == s })
	if e, ok := errors.AsType[*Error](s.err); ok && e.Code == CodeLimit {
		p.full = time.Now().Add(whileFull)
	}
	p.mu.Unlock()
	s.Close()
	if time.Since(start) > p.env.t.spares {
		p.env.wantSpares()
	}
}

// use makes a stream of a spare, and reports whether it was alive.
func (s *spare) use(open []byte) bool {
	s.x.SetReadDeadline(aLongTimeAgo)
	<-s.over
	if !exchange.IsTimeout(s.err) || s.silent() > s.t.stale || s.setOpen(open) != nil {
		return false
	}
	return s.SetReadDeadline(noDeadline) == nil
}

func (p *wsPool) drop() { p.trim(0) }

// otherWay is nil: there is but one way to upgrade.
func (p *wsPool) otherWay() func() (by string, undo func()) { return nil }

func (p *wsPool) close() error {
	p.drop()
	p.tasks.Wait()
	return nil
}

// dial makes a WebSocket to the gateway.
func (p *wsPool) dial(ctx context.Context) (exchange.Exchange, error) {
	header, err := p.env.header(ctx)
	if err != nil {
		return nil, err
	}
	tcp, err := p.env.dialTCP(ctx)
	if err != nil {
		return nil, err
	}
	w := newWire(tcp)
	x, err := p.upgrade(ctx, w, header)
	if err != nil {
		tcp.Close()
		return nil, err
	}
	return x, nil
}

// upgrade makes a WebSocket of a TCP connection.
func (p *wsPool) upgrade(ctx context.Context, w *exchange.Wire, header http.Header) (exchange.Exchange, error) {
	stop := context.AfterFunc(ctx, func() { w.SetDeadline(aLongTimeAgo) })
	defer stop()
	conn := net.Conn(w)
	if p.env.url.Scheme != "http" {
		cfg := p.env.tls.Clone()
		cfg.NextProtos = []string{"http/1.1"} // an ingress that gets the choice takes h2, where there is no upgrade
		t := tls.Client(w, cfg)
		if err := t.HandshakeContext(ctx); err != nil {
			return nil, fmt.Errorf("TLS handshake: %w", err)
		}
		conn = t
	}
	early, err := p.handshake(w, conn, header)
	if err != nil {
		return nil, err
	}
	if !stop() {
		return nil, context.Cause(ctx)
	}
	return exchange.NewWS(w, conn, true, early), nil
}

// handshake asks for the upgrade, and returns what came behind the answer.
func (p *wsPool) handshake(w *exchange.Wire, conn net.Conn, header http.Header) (early []byte, err error) {
	var answer *AnswerError
	h := ws.Dialer{
		Protocols: []string{exchange.WSProtocol},
		Header:    ws.HandshakeHeaderHTTP(header),
		OnStatusError: func(_ int, _ []byte, resp io.Reader) {
			w.SetReadDeadline(time.Now().Add(time.Second)) // for the body, whose end may never come
			answer = exchange.ReadAnswer(resp)
		},
	}
	br, _, err := h.Upgrade(struct {
		io.Reader
		io.Writer
	}{io.LimitReader(conn, exchange.MaxHeader), conn}, p.env.target())
	switch {
	case answer != nil:
		return nil, p.env.complete(TransportWS, header, answer)
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

// errSpareAnswered says that something came on a spare that has no place there.
var errSpareAnswered = errors.New("an answer where nothing was asked")

// keepReady says with a KEEPALIVE that this stream's OPEN comes later, and then reads until something ends that: a timeout when the read
// deadline was set to the past.
func (c *Conn) keepReady() error {
	c.writing.lock <- struct{}{}
	_, err := c.writeCapsule(capsuleKeepalive, nil)
	c.unlockWrite()
	if err != nil {
		return err
	}
	c.reading.lock <- struct{}{}
	defer c.unlockRead()
	if err := c.readOpened(); err != nil {
		return err
	}
	return errSpareAnswered
}

// setOpen gives a spare its OPEN, which leaves with the first write.
func (c *Conn) setOpen(open []byte) error {
	c.writing.lock <- struct{}{}
	defer c.unlockWrite()
	if c.ending.over.Load() {
		return net.ErrClosed
	}
	c.writing.open = open
	return nil
}
