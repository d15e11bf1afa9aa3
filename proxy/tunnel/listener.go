package tunnel

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/culvert-proxy/culvert/proxy/internal/backoff"
	"github.com/culvert-proxy/culvert/proxy/remedies"
	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/exchange"
)

const (
	// maxAcceptDelay bounds the wait after a failed accept. Without free file descriptors, for
	// example, accept fails until some are closed.
	maxAcceptDelay = time.Second

	// acceptQuiet is how long no accept has failed when such failures are over: each connection that
	// ends lets one accept succeed.
	acceptQuiet = 10 * time.Second
)

// A sharedListener accepts connections for several HTTP servers in turn: for one until the gateway
// drains, then for another, which answers new agents that the gateway is draining. net/http would
// close the listener together with the first server.
type sharedListener struct {
	ln     net.Listener
	log    *slog.Logger
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once

	waiting sync.WaitGroup // for PROXY headers; used by run
}

// newSharedListener returns a listener that accepts from ln once run is called. It owns ln.
func newSharedListener(ln net.Listener, log *slog.Logger) *sharedListener {
	return &sharedListener{ln: ln, log: log, conns: make(chan net.Conn), closed: make(chan struct{})}
}

// run accepts connections until the listener is closed. Those that wait for their PROXY header are
// closed then, or when ctx is done.
func (l *sharedListener) run(ctx context.Context) {
	ctx, stop := context.WithCancel(ctx)
	defer l.waiting.Wait()
	defer stop()
	defer l.close()
	failures := 0
	failing := backoff.Episode{Quiet: acceptQuiet}
	for {
		c, err := l.ln.Accept()
		if err == nil {
			failures = 0
			if lasted, ends := failing.Worked(); ends {
				l.log.Info("connections are accepted again", "after", lasted.Round(time.Second))
			}
			l.welcome(ctx, c)
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if failing.Failed() {
			l.log.Warn("accept failed, trying again", "listener", l.ln.Addr(), "err", remedies.ExplainAccept(err))
		}
		select {
		case <-time.After(backoff.Delay(failures, 5*time.Millisecond, maxAcceptDelay)):
			failures++
		case <-l.closed:
			return
		}
	}
}

// welcome passes c on, at once or when its PROXY header was read. Nobody waits for that.
func (l *sharedListener) welcome(ctx context.Context, c net.Conn) {
	w, ok := c.(*exchange.Wire)
	if !ok {
		l.pass(c)
		return
	}
	headed := headedOf(w)
	if headed == nil || !headed.mustBegin() {
		l.pass(c)
		return
	}
	l.waiting.Go(func() {
		if err := headed.awaitHeader(ctx); err != nil {
			l.log.Debug("connection closed: no PROXY header", "client_addr", headed.RemoteAddr(), "err", err)
			c.Close()
			return
		}
		if g, ok := w.Guard().(*guard); ok {
			g.list.move(g.entry, headed.peer())
		}
		l.pass(c)
	})
}

// pass hands c to the server that accepts now, or closes it.
func (l *sharedListener) pass(c net.Conn) {
	select {
	case l.conns <- c:
	case <-l.closed:
		c.Close()
	}
}

func (l *sharedListener) close() {
	l.once.Do(func() {
		close(l.closed)
		l.ln.Close()
	})
}

// share returns a listener for one server. Closing it does not close the others.
func (l *sharedListener) share() net.Listener {
	return &share{sharedListener: l, shut: make(chan struct{})}
}

// A share is the listener of one of the servers.
type share struct {
	*sharedListener
	shut chan struct{}
	once sync.Once
}

func (s *share) Accept() (net.Conn, error) {
	select {
	case c := <-s.conns:
		return c, nil
	case <-s.shut:
	case <-s.closed:
	}
	return nil, net.ErrClosed
}

func (s *share) Close() error {
	s.once.Do(func() { close(s.shut) })
	return nil
}

func (s *share) Addr() net.Addr { return s.ln.Addr() }

// A wireListener wraps each connection it accepts in a Wire, sets its socket options and guards it.
type wireListener struct {
	net.Listener
	log     *slog.Logger
	tcp     tuner
	links   *linkCounts
	headers *proxyHeaders
	guard   func(*exchange.Wire)
}

func (l *wireListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.tcp.tune(c, l.log)
	w := exchange.NewWire(&tcpLink{Conn: l.headers.wrap(c), counts: l.links}, nil)
	l.guard(w)
	return w, nil
}
