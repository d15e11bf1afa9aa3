package tunnel

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gobwas/ws"

	"github.com/culvert-proxy/culvert/proxy/printable"
)

// Headers of our own. Every answer of a gateway carries headerGateway, so that it can be told from an ingress's.
const (
	headerGateway       = "Culvert-Gateway"
	headerAuthorization = "Culvert-Authorization"
)

const (
	maxHeader = 16 << 10 // of a request or an answer: tokens are the largest part
	maxEcho   = 1 << 20  // what a hello echoes at most
)

// Peer is who dialled a stream.
type Peer struct {
	Identity  string // what Authenticate said
	Grant     any    // what Grant said
	User      string // what User said
	Addr      string // of the agent, or of the ingress before us
	Transport string
}

// Forbidden is why somebody may not come in whose token is not to blame.
type Forbidden string

func (f Forbidden) Error() string { return string(f) }

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

	Logger *slog.Logger // nil discards

	timing  timing  // zero means defaultTiming
	windows windows // zero means defaultWindows

	once            sync.Once
	log             *slog.Logger
	t               timing
	w               windows
	ledger          ledger
	unauthenticated unauthenticated
	altSvc          string
	buffers         bufferReport
	ctx             context.Context // of all streams
	cancel          context.CancelFunc

	carriers context.Context // ends when no stream needs them any more
	cut      context.CancelFunc

	http   *http.Server
	late   *http.Server   // takes over from http when that drains
	serves sync.WaitGroup // the goroutines of Run
	served sync.WaitGroup // those of serveStream

	mu       sync.Mutex
	draining bool
	linger   time.Duration // 0 if there were no streams
	streams  map[*Conn]struct{}
	spares   map[*Conn]any // those of streams that have no OPEN yet, and whose agent knows, with their Grant
	empty    chan struct{} // closed when draining and streams is empty
	porch    *porch
	drainH3  func()
	closeH3  func()

	strangers *strangers // over QUIC

	h3Handler http.Handler // of requests over HTTP/3, for tests; nil means the Server

	serving atomic.Int64 // streams that are served, as opposed to those that only linger
	quic    atomic.Int64 // QUIC connections
}

// pollStreams is how often Shutdown looks whether the streams that are left only linger.
const pollStreams = 250 * time.Millisecond

// lastWordsTimeout is how long agents may take, when the time to drain is over, to take why their streams end.
const lastWordsTimeout = time.Second

func (s *Server) init() {
	s.once.Do(func() {
		s.log, s.t = s.Logger, s.timing
		if s.log == nil {
			s.log = slog.New(slog.DiscardHandler)
		}
		if s.t == (timing{}) {
			s.t = defaultTiming
		}
		s.ledger.Limits = s.Limits
		s.unauthenticated.within, s.unauthenticated.onFull = s.t.handshake, s.evicted
		s.w = cmp.Or(s.windows, defaultWindows)
		s.ctx, s.cancel = context.WithCancel(context.Background())
		s.carriers, s.cut = context.WithCancel(context.Background())
		s.streams = make(map[*Conn]struct{})
		s.spares = make(map[*Conn]any)
		s.empty = make(chan struct{})
		s.http, s.late = s.newHTTP(), s.newHTTP()
		if s.h3Handler == nil {
			s.h3Handler = s
		}
	})
}

func (s *Server) newHTTP() *http.Server {
	h := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: s.t.handshake,
		IdleTimeout:       2 * s.t.idle, // the agents' end goes first, and no request meets a connection that is just being closed
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		Protocols:         new(http.Protocols),
		HTTP2:             h2Config(s.w, maxRequestFrame),
		ConnContext:       withConn,

		DisableGeneralOptionsHandler: true, // "OPTIONS *" would be answered without us
	}
	h.Protocols.SetHTTP1(true)
	h.Protocols.SetHTTP2(s.TLS != nil)
	h.Protocols.SetUnencryptedHTTP2(s.TLS == nil)
	return h
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
		s.serves.Go(func() { failed <- serve() })
	}
	serve := s.listenTCP(tcp)
	s.serves.Go(func() { failed <- serve() })
	if s.Limits.Memory > 0 {
		s.serves.Go(func() { s.relieve(s.carriers) })
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

// listenTCP prepares to serve HTTP/1.1 and HTTP/2, and returns what serves until Shutdown. Draining, the first server has said GOAWAY, and the
// second tells who comes anew.
func (s *Server) listenTCP(tcp net.Listener) (serve func() error) {
	p := newPorch(&wireListener{Listener: tcp, log: s.log, guard: s.guard}, s.log)
	s.mu.Lock()
	s.porch = p
	s.mu.Unlock()
	s.serves.Go(p.run)
	door := func() net.Listener {
		if s.TLS == nil {
			return p.door()
		}
		return tls.NewListener(p.door(), serverTLS(s.TLS, "h2", "http/1.1"))
	}
	first, second := door(), door()
	return func() error {
		if err := s.http.Serve(first); !s.isDraining() {
			return err
		}
		return s.late.Serve(second)
	}
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

// A wireListener prepares the connections it accepts for carrying tunnels.
type wireListener struct {
	net.Listener
	log   *slog.Logger
	tcp   tuner
	guard func(*wire)
}

func (l *wireListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.tcp.tune(c, l.log)
	w := &wire{Conn: c}
	l.guard(w)
	return w, nil
}

func (s *Server) drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return
	}
	s.draining = true
	if len(s.streams) > 0 {
		s.linger = s.Linger
	}
	for c := range s.spares {
		s.sendAway(c)
	}
	if len(s.streams) == 0 {
		close(s.empty)
	}
	s.serves.Go(func() { s.http.Shutdown(s.carriers) })
	if s.drainH3 != nil {
		s.drainH3()
	}
}

// Drained reports whether the last stream has ended, and no other begins.
func (s *Server) Drained() bool {
	select {
	case <-s.empty:
		return true
	default:
		return false
	}
}

// QUICConns is how many QUIC connections are open.
func (s *Server) QUICConns() int { return int(s.quic.Load()) }

// Shutdown refuses new streams, waits until those that are open have ended or ctx is done, cuts what is left, and closes the listeners.
// Streams that were closed here and not yet there are waited for no longer than some seconds.
func (s *Server) Shutdown(ctx context.Context) error {
	s.init()
	s.drain()
	err := s.waitForStreams(ctx)
	s.waitForBalancers(ctx)
	s.cancel()
	s.cut()
	s.http.Close()
	s.late.Close()
	s.mu.Lock()
	porch, closeH3 := s.porch, s.closeH3
	s.mu.Unlock()
	if porch != nil {
		porch.close()
	}
	if closeH3 != nil {
		closeH3()
	}
	s.serves.Wait()
	<-s.empty
	s.served.Wait() // for what Serve has to say of its last stream
	return err
}

func (s *Server) waitForBalancers(ctx context.Context) {
	s.mu.Lock()
	t := time.NewTimer(s.linger)
	s.mu.Unlock()
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

func (s *Server) waitForStreams(ctx context.Context) error {
	for idle := time.Duration(0); ; {
		tick := time.NewTimer(pollStreams)
		select {
		case <-s.empty:
			tick.Stop()
			return nil
		case <-ctx.Done():
			tick.Stop()
			return fmt.Errorf("drain: %d streams cut: %w", s.endStreams(), context.Cause(ctx))
		case <-tick.C:
		}
		if idle += pollStreams; s.serving.Load() > 0 {
			idle = 0
		}
		if idle >= s.t.reset {
			s.cutStreams()
			return nil
		}
	}
}

// endStreams tells agents why their streams end, so that they do not blame the way, and cuts those that have not taken it after a while.
func (s *Server) endStreams() int {
	late := time.After(lastWordsTimeout)
	s.mu.Lock()
	n := len(s.streams)
	var resets sync.WaitGroup
	for c := range s.streams {
		resets.Go(func() { c.Reset(errDraining) })
	}
	s.mu.Unlock()
	said := make(chan struct{})
	s.serves.Go(func() {
		resets.Wait()
		close(said)
	})
	for _, over := range []<-chan struct{}{said, s.empty} {
		select {
		case <-over:
			s.cancel() // not before: Serve may return then, and close a stream before it is told
		case <-late:
			s.cutStreams()
			return n
		}
	}
	return n
}

func (s *Server) cutStreams() {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.cancel()
	for c := range s.streams {
		c.end(net.ErrClosed)
		c.x.Abort()
	}
}

// ServeHTTP answers one request. What is not a tunnel's is answered with a sentence for whoever reads it.
//
// An HTTP/1.1 connection ends with the answer. What a front door passes on behind a request may be another one that it has not seen, with headers
// of its own: behind an upgrade that it believes in and we have refused, or where it and we do not agree about a body's length.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if g := guardOf(r); g != nil {
		g.begin()
		defer g.done()
	}
	h := w.Header()
	h.Set(headerGateway, s.opened().Gateway)
	if s.altSvc != "" && r.ProtoMajor < 3 {
		h.Set("Alt-Svc", s.altSvc)
	}
	if r.ProtoMajor == 1 {
		h.Set("Connection", "close")
	}
	switch {
	case !strings.HasSuffix(r.URL.Path, Path):
		refuse(w, http.StatusNotFound, "this is a culvert gateway; its tunnel is at "+Path)
	case r.Header["Origin"] != nil:
		refuse(w, http.StatusForbidden, fmt.Sprintf("a culvert gateway takes no requests from web pages (Origin: %s)", printable.Text(r.Header.Get("Origin"), 100)))
	case !slices.Contains(methods(r), r.Method):
		h.Set("Allow", strings.Join(methods(r), ", "))
		refuse(w, http.StatusMethodNotAllowed, "this is the tunnel of a culvert gateway; point culvert agent --gateway-url here")
	case r.Method == http.MethodPost && refusePost(w, r):
	case r.Method == http.MethodGet && !strings.EqualFold(r.Header.Get("Upgrade"), "websocket"):
		h.Set("Upgrade", "websocket")
		h.Add("Connection", "Upgrade")
		refuse(w, http.StatusUpgradeRequired, "this is the tunnel of a culvert gateway; point culvert agent --gateway-url here. If an agent sent this, something on the way removed its Upgrade header")
	case r.Method == http.MethodConnect && r.Proto != h3Protocol:
		refuse(w, http.StatusNotImplemented, "extended CONNECT with :protocol "+printable.Text(r.Proto, printable.Name)+", want "+h3Protocol)
	default:
		s.serveTunnel(w, r)
	}
}

// methods are those that open a tunnel over the HTTP version of r.
func methods(r *http.Request) []string {
	switch r.ProtoMajor {
	case 3:
		return []string{http.MethodConnect, http.MethodPost}
	case 2:
		return []string{http.MethodPost}
	}
	return []string{http.MethodGet, http.MethodPost}
}

// refusedTimeout is how long the rest of a request may take that is refused.
const refusedTimeout = time.Second

func refuse(w http.ResponseWriter, status int, sentence string) {
	http.NewResponseController(w).SetReadDeadline(time.Now().Add(refusedTimeout)) // net/http reads a body's rest, however long that takes
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	io.WriteString(w, printable.Text(sentence, maxMessage)+"\n")
}

func (s *Server) serveTunnel(w http.ResponseWriter, r *http.Request) {
	p := Peer{Addr: r.RemoteAddr, Transport: transportOf(r)}
	if s.User != nil {
		p.User = s.User(r.Header)
	}
	if s.Authenticate != nil {
		var err error
		if p.Identity, err = s.Authenticate(r); err != nil {
			if s.OnRefused != nil {
				s.OnRefused(err, p)
			}
			status := http.StatusForbidden
			if _, ok := errors.AsType[Forbidden](err); !ok {
				w.Header().Set("WWW-Authenticate", `Bearer realm="culvert"`)
				status = http.StatusUnauthorized
			}
			refuse(w, status, err.Error())
			return
		}
	}
	if s.Grant != nil {
		p.Grant = s.Grant(r)
	}
	if g := guardOf(r); g != nil {
		g.lift()
	}
	authenticated(r.Context())
	if s.isDraining() {
		if r.ProtoMajor == 2 {
			w.Header().Set("Connection", "close") // which is a GOAWAY there
		}
		refuse(w, http.StatusServiceUnavailable, "this gateway is draining")
		return
	}
	switch p.Transport {
	case TransportH3:
		s.serveH3(w, r, p)
	case TransportH2:
		s.servePost(w, r, p)
	default:
		s.serveWS(w, r, p)
	}
}

// transportOf names the transport of a request that opens a tunnel. A POST over HTTP/1.1 is what front doors make of one over HTTP/2.
func transportOf(r *http.Request) string {
	switch {
	case r.ProtoMajor == 3:
		return TransportH3
	case r.Method == http.MethodPost:
		return TransportH2
	}
	return TransportWS
}

func (s *Server) isDraining() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.draining
}

// serveWS moves the stream to a goroutine of its own: that of net/http holds its buffers and the request as long as it lives.
func (s *Server) serveWS(w http.ResponseWriter, r *http.Request, p Peer) {
	up := ws.HTTPUpgrader{
		Timeout:  s.t.handshake,
		Header:   http.Header{headerGateway: w.Header()[headerGateway]},
		Protocol: func(name string) bool { return name == wsProtocol },
	}
	conn, rw, _, err := up.Upgrade(r, w)
	if err != nil {
		s.log.Debug("websocket refused", "err", err, "agent_addr", p.Addr)
		if conn != nil {
			conn.Close()
		}
		return
	}
	early, _ := rw.Reader.Peek(rw.Reader.Buffered())
	x := newWS(wireOf(r), conn, false, append([]byte(nil), early...))
	if c := s.newStream(x); c != nil {
		go s.serveStream(c, p)
	}
}

// newStream makes a stream that Shutdown knows of, or aborts the exchange and returns nil when it came too late.
func (s *Server) newStream(x exchange) *Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining && len(s.streams) == 0 {
		x.Abort()
		return nil
	}
	var c *Conn
	c = newConn(x, s.t, func() { s.forget(c) })
	s.streams[c] = struct{}{}
	s.served.Add(1) // serveStream follows
	return c
}

// addSpare notes that a stream has no OPEN yet, so that drain ends it.
func (s *Server) addSpare(c *Conn, grant any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, have := s.spares[c]; !have && s.draining {
		s.sendAway(c)
	}
	s.spares[c] = grant
}

func (s *Server) removeSpare(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.spares, c)
}

// errDraining must not be changed.
var errDraining = &Error{CodeDraining, "this gateway is draining"}

// errRevoked must not be changed. The code is that of a gateway which drains, for the same is to be done: what was made ready counts for nothing,
// and the next request, with the credentials that the agent has by then, is let in or told why not.
var errRevoked = &Error{CodeDraining, "the token or certificate that this stream was opened with is not accepted any more"}

// EndRevokedSpares ends the streams that have no OPEN yet and whose Grant the Judge does not accept.
func (s *Server) EndRevokedSpares() {
	if s.Judge == nil {
		return
	}
	judge := s.Judge()
	s.mu.Lock()
	defer s.mu.Unlock()
	for c, grant := range s.spares {
		if judge(grant) != nil {
			go c.Reset(errRevoked)
		}
	}
}

// sendAway ends a stream because this gateway does.
func (s *Server) sendAway(c *Conn) { go c.Reset(errDraining) }

func (s *Server) forget(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.streams, c)
	if s.draining && len(s.streams) == 0 {
		close(s.empty)
	}
}

func (s *Server) serveStream(c *Conn, p Peer) {
	defer s.served.Done()
	s.serving.Add(1)
	defer s.serving.Add(-1)
	defer c.Close()
	log := s.log.With("transport", p.Transport, "agent_addr", p.Addr, "identity", p.Identity)
	defer func() {
		if v := recover(); v != nil {
			log.Error("stream panicked", "err", v, "stack", string(debug.Stack()))
			c.Reset(&Error{CodeInternal, "the gateway met a bug of its own; its log says more"})
		}
	}()
	if err := s.awaitOpen(c, p); err != nil {
		log.Debug("stream not opened", "err", err)
		return
	}
	leave, err := s.admit(c, p)
	if err != nil {
		log.Debug("stream refused", "err", err)
		return
	}
	defer leave()
	if err := s.answer(c); err != nil {
		log.Debug("OPEN not answered", "err", err)
		return
	}
	if c.openIn.Target == TargetHello {
		err := s.hello(c)
		log.Debug("hello answered", "err", err)
		return
	}
	s.Serve(s.ctx, c, c.openIn, p)
}

// awaitOpen waits for OPEN. A KEEPALIVE in its place makes the stream a spare, which waits as long as its agent lives.
func (s *Server) awaitOpen(c *Conn, p Peer) error {
	arrived, full := s.ledger.wait(p.Identity)
	if full != nil {
		return s.refuseByLimit(c, full, p)
	}
	arrived = sync.OnceFunc(arrived)
	defer arrived()
	c.SetDeadline(time.Now().Add(s.t.open))
	var leave func()
	c.rlock <- struct{}{}
	err := c.readSpare(func() {
		if leave == nil {
			arrived()
			leave = s.keepSpare(c, p)
		}
	})
	c.unlockRead()
	if leave != nil {
		leave()
	}
	if isTimeout(err) {
		c.Reset(protocolError("neither OPEN nor KEEPALIVE within %v", s.t.open))
	}
	return err
}

// keepSpare lets a stream wait for its OPEN, or resets it. The end of the wait must be told to leave.
func (s *Server) keepSpare(c *Conn, p Peer) (leave func()) {
	c.SetDeadline(time.Time{})
	free, full := s.ledger.spare(p.Identity)
	if full != nil {
		s.refuseByLimit(c, full, p)
		return func() {}
	}
	s.addSpare(c, p.Grant)
	return func() {
		s.removeSpare(c)
		free()
	}
}

// admit decides about a stream whose OPEN has come, and resets it if there is no place for it. The end of the stream must be told to leave.
func (s *Server) admit(c *Conn, p Peer) (leave func(), err error) {
	if s.isDraining() {
		e := &Error{CodeDraining, "this gateway is draining"}
		c.Reset(e)
		return nil, e
	}
	if s.Judge != nil && s.Judge()(p.Grant) != nil {
		c.Reset(errRevoked)
		return nil, errRevoked
	}
	if c.openIn.Target == TargetHello {
		return func() {}, nil // an agent that was refused it would take the transport for broken
	}
	leave, full := s.ledger.open(p.Identity)
	if full != nil {
		return nil, s.refuseByLimit(c, full, p)
	}
	return leave, nil
}

// evicted tells of a connection that was closed because too many others have not authenticated either.
func (s *Server) evicted(p Peer, why *Error) {
	if s.OnLimit != nil {
		s.OnLimit(LimitUnauthenticated, why, p)
	}
}

func (s *Server) refuseByLimit(c *Conn, full *limitReached, p Peer) error {
	if s.OnLimit != nil {
		s.OnLimit(full.limit, full.err, p)
	}
	c.Reset(full.err)
	return full.err
}

// answer says OPENED.
func (s *Server) answer(c *Conn) error {
	c.SetDeadline(time.Now().Add(s.t.open))
	if err := c.writeJSON(capsuleOpened, s.opened()); err != nil {
		return err
	}
	return c.SetDeadline(time.Time{})
}

func (s *Server) opened() Opened {
	var o Opened
	if s.Opened != nil {
		o = s.Opened()
	}
	o.Version = Version
	return o
}

// hello gives the tickets and echoes until the peer has finished.
func (s *Server) hello(c *Conn) error {
	c.SetDeadline(time.Now().Add(s.t.hello))
	if s.Tickets != nil {
		for _, t := range s.Tickets() {
			if err := c.SendTicket(t); err != nil {
				return err
			}
		}
	}
	n, err := io.Copy(c, io.LimitReader(struct{ io.Reader }{c}, maxEcho))
	if err != nil {
		return err
	}
	if n == maxEcho {
		return c.Reset(&Error{CodeLimit, fmt.Sprintf("a hello echoes %d bytes at most", maxEcho)})
	}
	return c.CloseWrite()
}
