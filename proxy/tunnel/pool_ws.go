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
	"strings"
	"sync"
	"time"

	"github.com/gobwas/ws"

	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/exchange"
	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/race"
)

// TransportWS names WebSocket over HTTP/1.1 in settings, logs and metrics.
const TransportWS = "ws"

// wsPool holds spares: upgraded WebSockets on which no OPEN has been sent. Both ends send
// KEEPALIVEs on them.
type wsPool struct {
	env *poolEnv

	mu           sync.Mutex
	spares       []*spare
	refusedUntil time.Time // the gateway has refused a spare for a limit: dial no more until then; zero once there were enough
	tasks        sync.WaitGroup
}

// spareBackoff is how long no spares are dialled after the gateway has refused one for a limit.
// Each attempt would cost a handshake; new streams dial for themselves meanwhile.
const spareBackoff = time.Minute

// A spare is a stream without OPEN. A goroutine reads from it until it is taken, so that its end is
// noticed.
type spare struct {
	*Conn
	over chan struct{} // closed when the goroutine has ended
	err  error         // valid after over: why it ended; a timeout if the spare was taken
}

// take returns the newest spare that is alive, or dials. A spare that has died is closed, and the
// next one tried.
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

// pop removes and returns the newest spare; older ones are more likely to be dead.
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

// missing closes spares beyond n. After a refusal it asks for one spare at a time, until there are n:
// of several that are dialled together each would be refused.
func (p *wsPool) missing(n int) int {
	p.trim(n)
	p.mu.Lock()
	defer p.mu.Unlock()
	more := n - len(p.spares)
	switch {
	case more == 0:
		p.refusedUntil = time.Time{}
	case time.Now().Before(p.refusedUntil):
		return 0
	case !p.refusedUntil.IsZero():
		return 1
	}
	return more
}

// prepare dials a spare.
func (p *wsPool) prepare(ctx context.Context) error {
	c, err := p.env.dialSpare(ctx, TransportWS)
	if err != nil {
		return err
	}
	p.add(c)
	return nil
}

// trim closes all spares except the n newest.
func (p *wsPool) trim(n int) {
	p.mu.Lock()
	more := max(0, len(p.spares)-n)
	surplus := p.spares[:more]
	p.spares = slices.Clone(p.spares[more:]) // a copy, so that the old array does not keep the others in memory
	p.mu.Unlock()
	for _, s := range surplus {
		s.Close()
	}
}

// add keeps c as a spare.
func (p *wsPool) add(c *Conn) {
	s := &spare{Conn: c, over: make(chan struct{})}
	p.mu.Lock()
	p.spares = append(p.spares, s)
	p.mu.Unlock()
	p.tasks.Go(func() { p.watch(s) })
}

// watch reads from a spare until it is taken or ends. Only KEEPALIVEs can arrive.
func (p *wsPool) watch(s *spare) {
	start := time.Now()
	s.err = s.keepReady()
	close(s.over)
	if exchange.IsTimeout(s.err) {
		return
	}
	p.mu.Lock()
	p.spares = slices.DeleteFunc(p.spares, func(other *spare) bool { return other == s })
	e, ok := errors.AsType[*Error](s.err)
	refused := ok && e.Code == CodeLimit
	if refused {
		p.refusedUntil = time.Now().Add(spareBackoff)
	}
	p.mu.Unlock()
	s.Close()
	switch {
	case time.Since(start) > p.env.t.spares:
		p.env.wantSpares()
	case !refused:
		p.env.forgetBursts() // what does not last is not worth many dials
	}
}

// use turns a spare into a stream and reports whether it was alive. It stops the spare's goroutine
// with a read deadline in the past.
func (s *spare) use(open []byte) bool {
	s.x.SetReadDeadline(aLongTimeAgo)
	<-s.over
	if !exchange.IsTimeout(s.err) || s.silent() > s.t.stale || s.setOpen(open) != nil {
		return false
	}
	return s.SetReadDeadline(noDeadline) == nil
}

func (p *wsPool) drop() { p.trim(0) }

// elsewhere does nothing: each TCP connection has a port of its own.
func (p *wsPool) elsewhere() {}

// otherMethod returns nil: there is only one way to upgrade.
func (p *wsPool) otherMethod() func() (by string, undo func()) { return nil }

// otherSending returns "": there is nothing to change.
func (p *wsPool) otherSending() (how string, try func() (undo func())) { return "", nil }

// close closes the spares and waits for their goroutines.
func (p *wsPool) close() error {
	p.drop()
	p.tasks.Wait()
	return nil
}

// dial opens a WebSocket to the gateway.
func (p *wsPool) dial(ctx context.Context) (exchange.Exchange, error) {
	header, err := p.env.header(ctx)
	if err != nil {
		return nil, err
	}
	c, err := dialGateway(asCarrier(ctx, TransportWS), p.env.route, p.secure)
	if err != nil {
		return nil, err
	}
	x, err := p.upgrade(ctx, c, header)
	if err != nil {
		if race.Draining(err) {
			p.env.leave("tcp", c.RemoteAddr())
		}
		c.Close()
		return nil, err
	}
	return x, nil
}

// A wsConn is a connection to the gateway before the upgrade. The wire lies below TLS, see
// [exchange.Wire].
type wsConn struct {
	net.Conn
	wire *exchange.Wire
}

// Close does not wait for TLS to say goodbye.
func (c wsConn) Close() error { return c.wire.Close() }

// secure does the TLS handshake on tcp, unless the URL is http://.
func (p *wsPool) secure(ctx context.Context, tcp net.Conn) (wsConn, error) {
	w := newWire(tcp)
	if p.env.url.Scheme == "http" {
		return wsConn{w, w}, nil
	}
	t := tls.Client(w, p.env.config("http/1.1")) // given a choice an ingress takes h2, which has no Upgrade
	if err := t.HandshakeContext(ctx); err != nil {
		return wsConn{}, fmt.Errorf("TLS handshake: %w", err)
	}
	p.env.front.showed(t.ConnectionState())
	return wsConn{t, w}, nil
}

// upgrade turns a connection into a WebSocket.
func (p *wsPool) upgrade(ctx context.Context, c wsConn, header http.Header) (exchange.Exchange, error) {
	stop := context.AfterFunc(ctx, func() { c.wire.SetDeadline(aLongTimeAgo) })
	defer stop()
	early, err := p.handshake(c.wire, c.Conn, header)
	if err != nil {
		return nil, err
	}
	if !stop() {
		return nil, context.Cause(ctx)
	}
	return exchange.NewWS(c.wire, c.Conn, true, early), nil
}

// handshake sends the upgrade request, and returns the bytes that arrived after the response.
func (p *wsPool) handshake(w *exchange.Wire, conn net.Conn, header http.Header) (early []byte, err error) {
	var answer *AnswerError
	got := make(http.Header)
	h := ws.Dialer{
		Protocols: []string{exchange.WSProtocol},
		Header:    ws.HandshakeHeaderHTTP(header),
		OnHeader: func(key, value []byte) error {
			got.Add(string(key), string(value))
			return nil
		},
		OnStatusError: func(_ int, _ []byte, resp io.Reader) {
			w.SetReadDeadline(time.Now().Add(time.Second)) // the body may never end
			answer = exchange.ReadAnswer(resp)
		},
	}
	br, _, err := h.Upgrade(struct {
		io.Reader
		io.Writer
	}{io.LimitReader(conn, exchange.MaxHeader), conn}, p.env.target())
	switch {
	case answer != nil:
		answer = p.env.complete(TransportWS, header, answer)
		if answer.Remedy == "" && refusesUpgrades(answer) {
			answer.Remedy = upgradesOff
		}
		return nil, answer
	case errors.Is(err, ws.ErrHandshakeBadProtocol):
		err := errors.New("WebSocket handshake: the server answers in HTTP/1.0, which has no WebSockets")
		if p.env.url.Scheme == "http" { // as a gateway with a certificate answers what is no TLS
			return nil, hints.New(err, "does the gateway have a certificate? Then begin %s with https://. If not, another web server may be using the port", hints.GatewayURL)
		}
		return nil, hints.New(err,
			"is it the gateway or its ingress? Another web server may be using the port in %s. If it is an ingress, set it to HTTP/1.1", hints.GatewayURL)
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return nil, fmt.Errorf("WebSocket handshake: connection closed before the answer was complete")
	case err != nil:
		return nil, fmt.Errorf("WebSocket handshake: %w", err)
	}
	p.env.front.answered(got)
	if br != nil {
		b, _ := br.Peek(br.Buffered())
		early = bytes.Clone(b)
		ws.PutReader(br)
	}
	return early, nil
}

// upgradesOff is the remedy where refusesUpgrades.
const upgradesOff = "Envoy answers so where WebSocket upgrades are off: set upgrade_configs with upgrade_type: websocket or, in Contour, enableWebsockets: true for the route"

// refusesUpgrades reports whether a refusal is Envoy's, or that of a program made of it, for any
// upgrade that its configuration does not allow. Its access rules refuse with a body.
func refusesUpgrades(e *AnswerError) bool {
	return !e.Gateway && !e.Proxy && e.Status == http.StatusForbidden && len(e.Body) == 0 && strings.HasSuffix(e.Header.Get("Server"), "envoy")
}

// errSpareAnswered is the error for an OPENED on a spare, where no OPEN was sent.
var errSpareAnswered = errors.New("unexpected OPENED on a spare")

// keepReady tells the gateway with a KEEPALIVE that OPEN comes later, and then reads until
// something ends the wait. It returns a timeout if the read deadline was set to the past, which is
// how use takes the spare.
func (c *Conn) keepReady() error {
	c.writing.lock <- struct{}{}
	_, err := c.writeCapsule(capsuleKeepalive, nil)
	c.unlockWrite()
	if err != nil {
		return err
	}
	c.reading.lock <- struct{}{}
	defer c.unlockRead()
	if err := c.awaitOpened(nil); err != nil {
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
