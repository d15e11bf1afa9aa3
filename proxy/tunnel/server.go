package tunnel

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/culvert-proxy/culvert/proxy/hints"
)

// A Server is the gateway's end of the tunnel. Set the fields before Run; it may run once.
type Server struct {
	// Authenticate says who sends a request. An error is answered with 401 and its text, or with 403 if it is a [Forbidden]; then too it says
	// who it was, as far as it knows. nil lets everybody in.
	Authenticate func(*http.Request) (identity string, err error)

	// Grant says by what Authenticate has let a request in, for Judge; nil says nothing. It must not hold the secret itself.
	Grant func(*http.Request) any

	// Judge takes one look at the credentials in force, and returns what says why a Grant would not be let in any more, or nil. nil judges
	// nobody. It is asked when an OPEN comes, which may be long after the request that it comes on, and by [Server.EndRevokedSpares].
	Judge func() func(grant any) error

	// User says, for logs alone, whom an ingress before us let in; nil says nobody.
	User func(http.Header) string

	// OnRefused is told why Authenticate let somebody not in, unless it is nil.
	OnRefused func(error, Peer)

	// Serve serves one stream, on a goroutine of its own, and owns c, which is closed when it returns. The answer to OPEN is sent already.
	// ctx ends when Shutdown cuts the streams that are left. Serve is not called for TargetHello.
	Serve func(ctx context.Context, c *Conn, o Open, p Peer)

	// Opened is what to answer to OPEN; nil answers with nothing but the version.
	Opened func() Opened

	// Tickets are what a hello is told. nil means none.
	Tickets func() []Ticket

	// TLS is for both TCP and UDP; nil means plain HTTP/1.1 and HTTP/2 on TCP, behind an ingress, and no h3.
	TLS *tls.Config

	// ResetKey lets agents know over h3, when they send something, that this process has no part in their connection any more, as after a
	// restart on the same address with the same key: MinResetKey bytes that nobody else knows. nil means that they notice by silence. With
	// several replicas behind one address it is right only if packets are routed by connection ID (RFC 9000 §21.11).
	ResetKey []byte

	// OnUDPBuffers is told how many bytes the buffers of h3's socket hold, where the system tells.
	OnUDPBuffers func(receive, send int)

	// Limits are answered with ERROR limit when they are reached, and OnLimit is told, unless it is nil.
	Limits  Limits
	OnLimit func(Limit, *Error, Peer)

	// Linger is for how long a Server that had streams when it was told to drain says so to who comes after the last of them has ended, within
	// the time that Shutdown has: a balancer before it needs a while to see it.
	Linger time.Duration

	Names  hints.Names  // of settings, in what agents are told
	Logger *slog.Logger // nil discards

	timing    timing       // zero means defaultTiming
	windows   windows      // zero means defaultWindows
	h3Handler http.Handler // of requests over HTTP/3, for tests; nil means the Server

	once sync.Once
	serving
}

// serving is the state of a Server.
type serving struct {
	log             *slog.Logger
	t               timing
	w               windows
	limiter         limiter
	registry        *registry
	streams         *streamServer
	tcp             tcpServer
	unauthenticated unauthenticatedTCP
	altSvc          string

	carriers context.Context // ends when no stream needs them any more
	cut      context.CancelFunc
	tasks    sync.WaitGroup // the goroutines of Run
	draining sync.Once

	mu sync.Mutex
	h3 *h3Server // nil until Run serves it
}

func (s *Server) init() {
	s.once.Do(func() {
		s.log, s.t = s.Logger, s.timing
		if s.log == nil {
			s.log = slog.New(slog.DiscardHandler)
		}
		if s.t == (timing{}) {
			s.t = defaultTiming
		}
		s.w = cmp.Or(s.windows, defaultWindows)
		s.limiter.Limits, s.limiter.names = s.Limits, s.Names
		s.carriers, s.cut = context.WithCancel(context.Background()) // streams outlive what Run is given: they drain
		s.registry = newRegistry(s.carriers, s.t)
		s.streams = &streamServer{
			registry: s.registry, limiter: &s.limiter, t: s.t, log: s.log,
			serve: s.Serve, judge: s.Judge, opened: s.Opened, tickets: s.Tickets, onLimit: s.OnLimit,
		}
		s.unauthenticated.within, s.unauthenticated.onFull, s.unauthenticated.log = s.t.handshake, s.evicted, s.log
		s.tcp = tcpServer{handler: s, tls: s.TLS, t: s.t, w: s.w, log: s.log, draining: s.registry.isDraining}
		s.tcp.init()
	})
}

// Run serves on tcp, and on udp with h3 unless it is nil, until ctx is done; then new streams are refused as draining while those that are
// open go on. Shutdown must follow, and closes both. An error means that serving ended before ctx did.
func (s *Server) Run(ctx context.Context, tcp net.Listener, udp net.PacketConn) error {
	s.init()
	if err := s.w.check(); err != nil {
		return fmt.Errorf("serve the tunnel: %w", err)
	}
	failed := make(chan error, 2)
	if udp != nil && s.TLS != nil {
		serve, err := s.listenH3(udp)
		if err != nil {
			return fmt.Errorf("serve the tunnel: %w", err)
		}
		s.tasks.Go(func() { failed <- serve() })
	}
	serve := s.tcp.listen(tcp, s.unauthenticated.guard)
	s.tasks.Go(func() { failed <- serve() })
	if s.Limits.Memory > 0 {
		s.tasks.Go(func() { relieve(s.carriers, &s.limiter, s.registry, 2*s.Limits.Memory, s.log) })
	}
	select {
	case <-ctx.Done():
		s.drain()
		return nil
	case err := <-failed:
		if errors.Is(err, http.ErrServerClosed) {
			return nil
		}
		return fmt.Errorf("serve the tunnel: %w", err)
	}
}

// listenH3 prepares to serve h3 on udp, and returns what serves until Shutdown.
func (s *Server) listenH3(udp net.PacketConn) (serve func() error, err error) {
	h := &h3Server{handler: s.h3Handler, t: s.t, w: s.w, log: s.log, draining: s.registry.isDraining}
	if h.handler == nil {
		h.handler = s
	}
	h.unauthenticated = &unauthenticatedQUIC{timeout: s.t.stranger, credit: s.w.connection, told: func(a net.Addr, why error) {
		s.evicted(Peer{Addr: a.String(), Transport: TransportH3}, &Error{Code: CodeLimit, Message: why.Error()})
	}}
	h.memory = &memoryWatch{limit: 2 * s.Limits.Memory, limiter: &s.limiter, log: s.log}
	if err := h.listen(s.carriers, udp, s.TLS, s.ResetKey, s.OnUDPBuffers); err != nil {
		return nil, err
	}
	s.altSvc = altSvc(udp)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.h3 = h
	return func() error { return h.serve(s.carriers) }, nil
}

// evicted tells of a connection that was closed because too many others have not authenticated either.
func (s *Server) evicted(p Peer, why *Error) {
	if s.OnLimit != nil {
		s.OnLimit(LimitUnauthenticated, why, p)
	}
}

// drain returns when draining has begun, whoever called it first.
func (s *Server) drain() {
	s.draining.Do(func() {
		s.registry.drain()
		s.tcp.drain(s.carriers)
		if h := s.h3Server(); h != nil {
			h.drain()
		}
	})
}

// h3Server returns nil until Run serves h3.
func (s *Server) h3Server() *h3Server {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.h3
}

// Drained reports whether the last stream has ended, and no other begins.
func (s *Server) Drained() bool {
	s.init()
	return s.registry.isEmpty()
}

// QUICConns is how many QUIC connections are open.
func (s *Server) QUICConns() int {
	if h := s.h3Server(); h != nil {
		return int(h.open.Load())
	}
	return 0
}

// EndRevokedSpares ends the streams that have no OPEN yet and whose Grant the Judge does not accept.
func (s *Server) EndRevokedSpares() {
	if s.Judge == nil {
		return
	}
	s.init() // a gateway may look before Run has begun
	judge := s.Judge()
	s.registry.endSpares(func(grant any) bool { return judge(grant) != nil })
}

// Shutdown refuses new streams, waits until those that are open have ended or ctx is done, cuts what is left, and closes the listeners.
// Streams that were closed here and not yet there are waited for no longer than some seconds.
func (s *Server) Shutdown(ctx context.Context) error {
	s.init()
	s.drain()
	err := s.registry.wait(ctx)
	s.waitForBalancers(ctx)
	s.registry.cancel()
	s.cut()
	s.tcp.close()
	if h := s.h3Server(); h != nil {
		h.close()
	}
	s.tasks.Wait()
	<-s.registry.empty
	s.registry.served.Wait() // for what Serve has to say of its last stream
	return err
}

// waitForBalancers waits for Linger, if there were streams.
func (s *Server) waitForBalancers(ctx context.Context) {
	linger := s.Linger
	if !s.registry.hadStreams() {
		linger = 0
	}
	t := time.NewTimer(linger)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
