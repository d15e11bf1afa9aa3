package tunnel

import (
	"context"
	"crypto/tls"
	"log"
	"log/slog"
	"net"
	"net/http"
	"sync"

	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/exchange"
)

// A tcpServer serves HTTP/1.1 and HTTP/2 over TCP.
type tcpServer struct {
	handler http.Handler
	tls     *tls.Config // nil means plain HTTP
	t       timing
	w       windows
	log     *slog.Logger
	links   *linkCounts
	headers *proxyHeaders

	draining func() bool // drain was called

	http *http.Server
	// Accepts in place of http once that drains, and answers that the gateway is draining.
	httpDraining *http.Server
	tasks        sync.WaitGroup

	mu       sync.Mutex
	listener *sharedListener
}

func (s *tcpServer) init() { s.http, s.httpDraining = s.newHTTP(), s.newHTTP() }

// listen prepares to serve tcp, and returns the function that serves until close. guard bounds each
// connection until a request on it has authenticated. ctx is done when no connection is needed any
// more.
func (s *tcpServer) listen(ctx context.Context, tcp net.Listener, guard func(*exchange.Wire)) (serve func() error) {
	l := newSharedListener(&wireListener{Listener: tcp, log: s.log, links: s.links, headers: s.headers, guard: guard}, s.log)
	s.mu.Lock()
	s.listener = l
	s.mu.Unlock()
	s.tasks.Go(func() { l.run(ctx) })
	share := func() net.Listener {
		if s.tls == nil {
			return l.share()
		}
		return tls.NewListener(l.share(), serverTLS(s.tls, "h2", "http/1.1"))
	}
	first, second := share(), share()
	return func() error {
		if err := s.http.Serve(first); !s.draining() {
			return err
		}
		return s.httpDraining.Serve(second)
	}
}

// drain makes existing connections take no new requests: the first server sends GOAWAY. The second
// server answers new connections.
func (s *tcpServer) drain(ctx context.Context) {
	s.tasks.Go(func() { s.http.Shutdown(ctx) })
}

// close closes all connections and waits for the goroutines.
func (s *tcpServer) close() {
	s.http.Close()
	s.httpDraining.Close()
	s.mu.Lock()
	l := s.listener
	s.mu.Unlock()
	if l != nil {
		l.close()
	}
	s.tasks.Wait()
}

// newHTTP returns one of the two HTTP servers.
func (s *tcpServer) newHTTP() *http.Server {
	h := &http.Server{
		Handler:           s.handler,
		ReadHeaderTimeout: s.t.handshake,
		// Longer than the agent's, so that no request arrives on a connection that is being closed.
		IdleTimeout:    2 * s.t.idle,
		MaxHeaderBytes: exchange.MaxHeader,
		ErrorLog:       log.New(&httpLog{log: s.log}, "", 0),
		Protocols:      new(http.Protocols),
		HTTP2:          h2Config(s.w, exchange.MaxRequestFrame),
		ConnContext:    withConn,

		DisableGeneralOptionsHandler: true, // or net/http answers "OPTIONS *" without us
	}
	h.Protocols.SetHTTP1(true)
	h.Protocols.SetHTTP2(s.tls != nil)
	h.Protocols.SetUnencryptedHTTP2(s.tls == nil)
	return h
}

// serverTLS returns the configuration base for the given ALPN protocols. Dynamic record sizing is
// off: it starts with small records, which cost a tunnel more than they gain.
func serverTLS(base *tls.Config, alpn ...string) *tls.Config {
	c := base.Clone()
	c.NextProtos = alpn
	c.MinVersion = tls.VersionTLS13
	c.DynamicRecordSizingDisabled = true
	if each := base.GetConfigForClient; each != nil {
		c.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			own, err := each(h)
			if own == nil || err != nil {
				return nil, err
			}
			own = own.Clone()
			own.GetConfigForClient = nil
			return serverTLS(own, alpn...), nil
		}
	}
	return c
}

// connKey is the context key of a request's net.Conn.
type connKey struct{}

// withConn is http.Server.ConnContext.
func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// wireOf returns the wire that carries a TCP request, or nil for a request over QUIC.
func wireOf(r *http.Request) *exchange.Wire {
	c, _ := r.Context().Value(connKey{}).(net.Conn)
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	w, _ := c.(*exchange.Wire)
	return w
}
