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
	"net/netip"
	"sync"
	"time"

	"github.com/culvert-proxy/culvert/proxy/hints"
)

// A Server is the gateway's end of the tunnel. Set the fields before Run; it may run once.
type Server struct {
	// Authenticate returns the identity of whoever sends a request. An error is answered with 401
	// and its text, or with 403 if it is a [Forbidden]. It may return an identity together with an
	// error, for OnRefused. nil accepts everybody.
	Authenticate func(*http.Request) (identity string, err error)

	// Grant returns what a request was accepted for, for a later call of Judge; nil means nothing.
	// The value must not contain the secret itself.
	Grant func(*http.Request) any

	// Judge reads the credentials in force, and returns a function that says why a Grant would not
	// be accepted any more; that returns nil if it would. A nil Judge accepts everything. Judge is
	// called when an OPEN arrives, which may be long after the request, and by
	// [Server.EndRevokedSpares].
	Judge func() func(grant any) error

	// User returns the user that the ingress authenticated, for logs only; nil means none.
	User func(http.Header) string

	// OnRefused is called when Authenticate has refused somebody; nil means nobody is told.
	OnRefused func(error, Peer)

	// ProxyProtocol are the networks of load balancers that begin each TCP connection with a header
	// of the PROXY protocol, version 1 or 2. They must send one, and nobody else may. The address in
	// it is then the client's in all that the Server says and counts. There is no such header over
	// UDP: h3 has the address of the peer.
	ProxyProtocol []netip.Prefix

	// OnProxyHeader is called when a TCP connection is refused because it began with a PROXY header,
	// or without one; nil means nobody is told.
	OnProxyHeader func(error, Peer)

	// Serve serves one stream, on a goroutine of its own. It owns c, which is closed when Serve
	// returns. OPEN has been answered already. ctx is canceled when Shutdown cuts the remaining
	// streams. Serve is not called for TargetHello. o and p are pointers because the frames of
	// Serve stay on the stack as long as the stream.
	Serve func(ctx context.Context, c *Conn, o *Open, p *Peer)

	// Opened returns the answer to OPEN; nil answers with the version alone.
	Opened func() Opened

	// Tickets returns what hellos receive; nil means none.
	Tickets func() []Ticket

	// TLS is used for TCP and UDP; nil means plain HTTP/1.1 and HTTP/2 on TCP, for use behind an
	// ingress, and no h3.
	TLS *tls.Config

	// ResetKey tells agents over h3, as soon as they send something, that this process does not
	// know their connection, as after a restart on the same address with the same key (stateless
	// reset, RFC 9000 §10.3). It has at least MinResetKey secret bytes. nil means that agents
	// notice by silence. With several replicas behind one address, set it only if packets are
	// routed by connection ID (RFC 9000 §21.11).
	ResetKey []byte

	// OnUDPBuffers is called with the sizes of the buffers of h3's socket in bytes, where the
	// system tells them.
	OnUDPBuffers func(receive, send int)

	// When one of Limits is reached, the stream ends with ERROR limit, and OnLimit is called unless
	// it is nil.
	Limits  Limits
	OnLimit func(Limit, *Error, Peer)

	// Linger is how long, after its last stream has ended, a draining Server still answers new
	// agents that it is draining, within the time that Shutdown has. A load balancer in front of it
	// needs a while to notice. A Server that had no streams does not linger.
	Linger time.Duration

	Names  hints.Names  // names of settings, for messages to agents
	Logger *slog.Logger // nil discards

	timing    timing       // zero means defaultTiming
	windows   windows      // zero means windowsWithin what Limits permit
	h3Handler http.Handler // handles requests over HTTP/3, in tests; nil means the Server

	once sync.Once
	serving
}

// serving is the state of a Server. init sets it up once, when the first method is called.
type serving struct {
	log             *slog.Logger
	t               timing
	w               windows
	limiter         limiter
	registry        *registry
	streams         *streamServer
	tcp             tcpServer
	unauthenticated unauthenticatedTCP
	links           linkCounts // on which a request has authenticated
	altSvc          string

	carriers context.Context // done when no stream needs a carrier any more
	cut      context.CancelFunc
	tasks    sync.WaitGroup // the goroutines of Run
	draining sync.Once

	mu sync.Mutex
	h3 *h3Server // nil until Run serves h3
}

// init makes the state from the settings, at the first call. Every exported method that needs the
// state calls it, because a Server is used without a constructor.
func (s *Server) init() {
	s.once.Do(func() {
		s.log = s.Logger
		if s.log == nil {
			s.log = slog.New(slog.DiscardHandler)
		}
		s.t, s.w = cmp.Or(s.timing, defaultTiming), cmp.Or(s.windows, windowsWithin(s.Limits.mostMemory()))
		s.limiter.Limits, s.limiter.names = s.Limits, s.Names
		// Not Run's context: streams continue after that is done, while the Server drains.
		s.carriers, s.cut = context.WithCancel(context.Background())
		s.registry = newRegistry(s.carriers, s.t)
		s.streams = &streamServer{
			registry: s.registry, limiter: &s.limiter, t: s.t, log: s.log,
			serve: s.Serve, judge: s.Judge, opened: s.Opened, tickets: s.Tickets, onLimit: s.OnLimit,
		}
		s.unauthenticated.within, s.unauthenticated.onFull, s.unauthenticated.log = s.t.handshake, s.evicted, s.log
		s.tcp = tcpServer{handler: s, tls: s.TLS, t: s.t, w: s.w, log: s.log, links: &s.links, draining: s.registry.isDraining,
			headers: &proxyHeaders{from: s.ProxyProtocol, names: s.Names, refused: s.OnProxyHeader}}
		s.tcp.init()
	})
}

// Run serves on tcp, and h3 on udp unless udp or TLS is nil, until ctx is done. Then new streams
// are refused as draining while open ones continue. Shutdown must follow; it closes both listeners.
// An error means that serving ended before ctx was done.
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
	serve := s.tcp.listen(s.carriers, tcp, s.unauthenticated.guard)
	s.tasks.Go(func() { failed <- serve() })
	if s.Limits.Memory > 0 {
		w := &stallWatch{limit: s.Limits.mostMemory(), memory: &s.limiter.memory, registry: s.registry, window: s.w.stream, log: s.log}
		s.tasks.Go(func() { w.run(s.carriers) })
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

// listenH3 prepares to serve h3 on udp, and returns the function that serves until Shutdown.
func (s *Server) listenH3(udp net.PacketConn) (serve func() error, err error) {
	h := &h3Server{handler: s.h3Handler, t: s.t, w: s.w, log: s.log, links: &s.links, draining: s.registry.isDraining}
	if h.handler == nil {
		h.handler = s
	}
	h.unauthenticated = &unauthenticatedQUIC{timeout: s.t.unauthenticated, credit: s.w.connection, onClose: func(a net.Addr, why error) {
		s.evicted(Peer{Addr: a.String(), Transport: TransportH3}, &Error{Code: CodeLimit, Message: why.Error()})
	}}
	h.memory = &memoryWatch{limit: s.Limits.mostMemory(), memory: &s.limiter.memory, log: s.log}
	if err := h.listen(s.carriers, udp, s.TLS, s.ResetKey, s.OnUDPBuffers); err != nil {
		return nil, err
	}
	s.altSvc = altSvc(udp)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.h3 = h
	return func() error { return h.serve(s.carriers) }, nil
}

// evicted reports an unauthenticated connection that was closed because there were too many; over
// QUIC also one that took too long or sent too much.
func (s *Server) evicted(p Peer, why *Error) {
	if s.OnLimit != nil {
		s.OnLimit(LimitUnauthenticated, why, p)
	}
}

// drain refuses new streams from now on. When it returns, draining has begun, whoever called it
// first.
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

// Drained reports whether the last stream has ended after Run's context was done; no more streams
// start then.
func (s *Server) Drained() bool {
	s.init()
	return s.registry.isEmpty()
}

// QUICConns returns the number of open QUIC connections.
func (s *Server) QUICConns() int {
	if h := s.h3Server(); h != nil {
		return int(h.open.Load())
	}
	return 0
}

// EndRevokedSpares ends the streams without OPEN whose Grant Judge no longer accepts. Streams with
// an OPEN are the caller's to end.
func (s *Server) EndRevokedSpares() {
	if s.Judge == nil {
		return
	}
	s.init() // it may be called before Run
	judge := s.Judge()
	s.registry.endSpares(func(grant any) bool { return judge(grant) != nil })
}

// Shutdown refuses new streams, waits until the open ones have ended or ctx is done, cuts what is
// left, and closes the listeners. It waits only some seconds for streams that are closed at this
// end and not yet at the other.
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
	s.registry.served.Wait() // Serve may still log the end of its last stream
	return err
}

// waitForBalancers waits for Linger if there were streams.
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
