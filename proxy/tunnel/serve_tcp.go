package tunnel

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"sync"

	"github.com/culvert-proxy/culvert/proxy/tunnel/exchange"
)

// A tcpServer serves HTTP/1.1 and HTTP/2 on TCP.
type tcpServer struct {
	handler http.Handler
	tls     *tls.Config // nil means plain HTTP
	t       timing
	w       windows
	log     *slog.Logger

	draining func() bool // drain was called

	http  *http.Server
	late  *http.Server // takes over from http when that drains
	tasks sync.WaitGroup

	mu       sync.Mutex
	listener *sharedListener
}

func (s *tcpServer) init() { s.http, s.late = s.newHTTP(), s.newHTTP() }

// listen prepares to serve tcp, whose connections guard bounds until a request of theirs has authenticated, and returns what serves until close.
func (s *tcpServer) listen(tcp net.Listener, guard func(*exchange.Wire)) (serve func() error) {
	l := newSharedListener(&wireListener{Listener: tcp, log: s.log, guard: guard}, s.log)
	s.mu.Lock()
	s.listener = l
	s.mu.Unlock()
	s.tasks.Go(l.run)
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
		return s.late.Serve(second)
	}
}

// drain has the connections that there are take no new requests: the first server says GOAWAY, and the second tells who comes anew.
func (s *tcpServer) drain(ctx context.Context) {
	s.tasks.Go(func() { s.http.Shutdown(ctx) })
}

// close ends all connections, and waits for what they started.
func (s *tcpServer) close() {
	s.http.Close()
	s.late.Close()
	s.mu.Lock()
	l := s.listener
	s.mu.Unlock()
	if l != nil {
		l.close()
	}
	s.tasks.Wait()
}

func (s *tcpServer) newHTTP() *http.Server {
	h := &http.Server{
		Handler:           s.handler,
		ReadHeaderTimeout: s.t.handshake,
		IdleTimeout:       2 * s.t.idle, // the agents' end goes first, and no request meets a connection that is just being closed
		MaxHeaderBytes:    exchange.MaxHeader,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		Protocols:         new(http.Protocols),
		HTTP2:             h2Config(s.w, exchange.MaxRequestFrame),
		ConnContext:       withConn,

		DisableGeneralOptionsHandler: true, // "OPTIONS *" would be answered without us
	}
	h.Protocols.SetHTTP1(true)
	h.Protocols.SetHTTP2(s.tls != nil)
	h.Protocols.SetUnencryptedHTTP2(s.tls == nil)
	return h
}

// serverTLS is ours for some protocols. Records have their full size from the start: small ones cost more than they win on a tunnel.
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

func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// wireOf is what carries a request over TCP, and nil for one over QUIC.
func wireOf(r *http.Request) *exchange.Wire {
	c, _ := r.Context().Value(connKey{}).(net.Conn)
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	w, _ := c.(*exchange.Wire)
	return w
}
