package tunnel

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/culvert-proxy/culvert/proxy/printable"
	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/exchange"
)

// An h3Server is the gateway's end of HTTP/3. It is our own and not an http3.Server for two
// reasons. http3.Server starts a goroutine for each stream that a peer opens, whether or not the
// peer has authenticated, so an attacker could make us hold thousands. And a server that accepts
// the streams itself gets no access to http3's control stream, which it needs to send GOAWAY when
// it drains.
type h3Server struct {
	handler  http.Handler
	t        timing
	w        windows
	log      *slog.Logger
	links    *linkCounts
	draining func() bool // new connections are answered that the gateway is draining

	unauthenticated *unauthenticatedQUIC
	memory          *memoryWatch
	buffers         bufferReport

	tr     *quic.Transport
	ln     *quic.EarlyListener
	goaway context.Context // done when existing connections must take no new streams
	drain  context.CancelFunc
	tasks  sync.WaitGroup
	served chan struct{} // closed when serve has returned
	open   atomic.Int64  // number of connections

	mu    sync.Mutex
	conns map[*quic.Conn]struct{}
}

// listen prepares to serve udp; serve then serves until close or the end of ctx.
func (h *h3Server) listen(ctx context.Context, udp net.PacketConn, base *tls.Config, resetKey []byte, onBuffers func(receive, send int)) (err error) {
	if err := checkQUIC(); err != nil {
		return err
	}
	if h.tr, err = quicTransport(udp, resetKey); err != nil {
		return err
	}
	h.conns, h.served = make(map[*quic.Conn]struct{}), make(chan struct{})
	h.tr.ConnContext = h.unauthenticated.arrive
	h.tr.VerifySourceAddress = func(net.Addr) bool { return h.unauthenticated.many() }
	// Early, so that SETTINGS leave with the handshake and a connection can be closed before the
	// handshake ends. Requests are accepted only after it.
	h.ln, err = h.tr.ListenEarly(h.tls(base), unauthenticatedConfig(quicConfig(int64(h.w.streams), h.t, h.w)))
	if err != nil {
		return err
	}
	h.buffers.tell(udp, h.log, onBuffers)
	h.goaway, h.drain = context.WithCancel(ctx)
	return nil
}

// tls returns the TLS configuration for QUIC. It notices when a complete ClientHello has arrived.
func (h *h3Server) tls(base *tls.Config) *tls.Config {
	c := serverTLS(base, http3.NextProtoH3)
	each := c.GetConfigForClient
	c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		h.unauthenticated.helloCame(hello.Context())
		if each == nil {
			return nil, nil
		}
		return each(hello)
	}
	return c
}

// altSvc returns the Alt-Svc header that announces this server to HTTP clients.
func altSvc(udp net.PacketConn) string {
	addr, ok := udp.LocalAddr().(*net.UDPAddr)
	if !ok {
		return ""
	}
	return fmt.Sprintf(`%s=":%d"; ma=86400`, http3.NextProtoH3, addr.Port)
}

// serve accepts connections until ctx is done or the server is closed.
func (h *h3Server) serve(ctx context.Context) error {
	defer close(h.served)
	for {
		conn, err := h.ln.Accept(ctx)
		if err != nil {
			return http.ErrServerClosed // there is no other reason
		}
		h.mu.Lock()
		h.conns[conn] = struct{}{}
		h.mu.Unlock()
		h.open.Add(1)
		h.tasks.Go(func() {
			h.serveConn(conn)
			h.links.remove(quicLink{conn})
			h.mu.Lock()
			delete(h.conns, conn)
			h.mu.Unlock()
			h.open.Add(-1)
		})
	}
}

// close closes all connections, waits for their goroutines, and closes the socket. serve must have
// been called.
func (h *h3Server) close() {
	h.ln.Close()
	<-h.served
	h.drain()
	h.mu.Lock()
	conns := slices.Collect(maps.Keys(h.conns))
	h.mu.Unlock()
	var closing sync.WaitGroup
	for _, c := range conns {
		closing.Go(func() { c.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "") })
	}
	closing.Wait()
	h.tr.Close()
	h.tr.Conn.Close()
	h.tasks.Wait()
}

// serveConn serves one connection until it ends. Until a request on it has authenticated, it
// accepts no more than maxEarlyRequests requests at once. After GOAWAY it rejects new requests, and
// those that are running continue.
func (h *h3Server) serveConn(conn *quic.Conn) {
	var tasks sync.WaitGroup
	defer tasks.Wait()
	control, err := exchange.OpenControl(conn, true)
	if err != nil {
		conn.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeInternalError), "")
		return
	}
	peer := &exchange.H3Peer{Conn: conn}
	tasks.Go(peer.Serve)

	known := h.unauthenticated.accepted(conn)
	h.memory.add(conn, &quicPeerOf(conn.Context()).read)
	early := make(chan struct{}, maxEarlyRequests)
	goaway, rejecting := h.goaway, false
	if h.draining() { // a new connection is answered 503 instead of a GOAWAY
		goaway = conn.Context()
	}
	for next := quic.StreamID(0); ; {
		done := func() {}
		select {
		case <-known:
		case early <- struct{}{}:
			done = func() { <-early }
		case <-conn.Context().Done():
			return
		}
		str, err := conn.AcceptStream(goaway)
		switch {
		case err == nil && rejecting:
			exchange.ResetH3(str, http3.ErrCodeRequestRejected)
			done()
		case err == nil:
			next = str.StreamID() + 4
			tasks.Go(func() {
				defer done()
				h.serveRequest(conn, str)
			})
		case conn.Context().Err() != nil || goaway.Err() == nil:
			return
		default:
			goaway, rejecting = conn.Context(), true
			tasks.Go(func() { control.Goaway(next) })
			done()
		}
	}
}

// serveRequest answers one request. If the request opens a tunnel, that outlives serveRequest.
func (h *h3Server) serveRequest(conn *quic.Conn, str *quic.Stream) {
	defer func() {
		if v := recover(); v != nil {
			h.log.Error("request panicked", "err", v, "stack", string(debug.Stack()))
			exchange.ResetH3(str, http3.ErrCodeInternalError)
		}
	}()
	r, w, err := exchange.ReadH3Request(conn, str, &quicPeerOf(conn.Context()).read, h.t.handshake)
	if err != nil {
		return
	}
	h.handler.ServeHTTP(w, r)
	w.Finish()
}

// refuseH3 answers a request that cannot carry a tunnel, and reports whether it did.
func refuseH3(w http.ResponseWriter, r *http.Request) (done bool) {
	switch {
	case r.Method == http.MethodPost:
		return refusePost(w, r)
	case r.Proto != exchange.H3Protocol:
		refuse(w, http.StatusNotImplemented, "extended CONNECT with :protocol "+printable.Text(r.Proto, printable.Name)+", want "+exchange.H3Protocol)
		return true
	}
	return false
}

// serveH3 answers 200 and hands the stream to a goroutine of its own, so that the request and its
// goroutine are freed.
func serveH3(s *streamServer, w http.ResponseWriter, r *http.Request, p Peer) {
	if r.Method == http.MethodPost {
		describePost(w.Header())
	}
	w.WriteHeader(http.StatusOK)
	s.begin(w.(*exchange.H3Writer).Exchange(), p)
}
