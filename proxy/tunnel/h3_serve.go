package tunnel

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/quic-go/qpack"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// An h3Server is the gateway's end of HTTP/3. It is no http3.Server, because that gives each stream which a peer opens a goroutine, with or
// without credentials, and whoever accepts the streams in its stead gets no hand on its control stream, for GOAWAY.
type h3Server struct {
	s         *Server
	tr        *quic.Transport
	ln        *quic.EarlyListener
	strangers *strangers
	watch     quicWatch
	goaway    context.Context // ends when the connections that there are take no new streams
	drain     context.CancelFunc

	mu    sync.Mutex
	conns map[*quic.Conn]struct{}
}

// listenH3 prepares to serve h3 on udp, and returns what serves until Shutdown.
func (s *Server) listenH3(udp net.PacketConn) (serve func() error, err error) {
	if err := checkQUIC(); err != nil {
		return nil, err
	}
	h := &h3Server{s: s, strangers: newStrangers(s), conns: make(map[*quic.Conn]struct{})}
	h.watch = quicWatch{limit: 2 * s.Limits.Memory, ledger: &s.ledger, log: s.log}
	if h.tr, err = s.quicTransport(udp); err != nil {
		return nil, err
	}
	h.tr.ConnContext = h.strangers.arrive
	h.tr.VerifySourceAddress = func(net.Addr) bool { return h.strangers.many() }
	// Early: SETTINGS leave with the handshake, and a connection can be closed before that is over. Requests come after it all the same.
	h.ln, err = h.tr.ListenEarly(h.tls(), strangersConfig(quicConfig(int64(s.w.streams), s.t, s.w)))
	if err != nil {
		return nil, err
	}
	s.buffers.tell(udp, s.log, s.OnUDPBuffers)
	h.goaway, h.drain = context.WithCancel(context.Background())
	s.mu.Lock()
	s.strangers, s.drainH3 = h.strangers, h.drain
	s.closeH3 = func() {
		h.close()
		udp.Close()
	}
	s.mu.Unlock()
	if addr, ok := udp.LocalAddr().(*net.UDPAddr); ok {
		s.altSvc = fmt.Sprintf(`%s=":%d"; ma=86400`, http3.NextProtoH3, addr.Port)
	}
	return h.serve, nil
}

// tls is the gateway's, and tells when a ClientHello has come.
func (h *h3Server) tls() *tls.Config {
	c := serverTLS(h.s.TLS, http3.NextProtoH3)
	each := c.GetConfigForClient
	c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		h.strangers.helloCame(hello.Context())
		if each == nil {
			return nil, nil
		}
		return each(hello)
	}
	return c
}

func (h *h3Server) serve() error {
	for {
		conn, err := h.ln.Accept(context.Background())
		if err != nil {
			return http.ErrServerClosed // that is all that can happen
		}
		h.mu.Lock()
		h.conns[conn] = struct{}{}
		h.mu.Unlock()
		h.s.quic.Add(1)
		h.s.serves.Go(func() {
			h.serveConn(conn)
			h.mu.Lock()
			delete(h.conns, conn)
			h.mu.Unlock()
			h.s.quic.Add(-1)
		})
	}
}

func (h *h3Server) close() {
	h.ln.Close()
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
}

// serveConn serves one connection, until it ends.
func (h *h3Server) serveConn(conn *quic.Conn) {
	var tasks sync.WaitGroup
	defer tasks.Wait()
	control, err := openControl(conn, settingMaxHeader, maxHeader, settingExtendedConnect, 1)
	if err != nil {
		conn.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeInternalError), "")
		return
	}
	peer := &h3Peer{conn: conn}
	tasks.Go(peer.accept)

	known := h.strangers.accepted(conn)
	h.watch.add(conn, &strangerOf(conn.Context()).read)
	strange := make(chan struct{}, maxStrangeRequests)
	goaway, rejecting := h.goaway, false
	if h.s.isDraining() { // who comes now is told in an answer
		goaway = context.Background()
	}
	for next := quic.StreamID(0); ; {
		done := func() {}
		select {
		case <-known:
		case strange <- struct{}{}:
			done = func() { <-strange }
		case <-conn.Context().Done():
			return
		}
		str, err := conn.AcceptStream(goaway)
		switch {
		case err == nil && rejecting:
			reject(str, http3.ErrCodeRequestRejected)
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
			goaway, rejecting = context.Background(), true
			tasks.Go(func() {
				id := appendVarint(nil, uint64(next))
				control.Write(append([]byte{frameGoaway, byte(len(id))}, id...))
			})
			done()
		}
	}
}

func reject(str *quic.Stream, code http3.ErrCode) {
	str.CancelRead(quic.StreamErrorCode(code))
	str.CancelWrite(quic.StreamErrorCode(code))
}

// serveRequest answers one request. A tunnel that it opens goes on when it has returned.
func (h *h3Server) serveRequest(conn *quic.Conn, str *quic.Stream) {
	defer func() {
		if v := recover(); v != nil {
			h.s.log.Error("request panicked", "err", v, "stack", string(debug.Stack()))
			reject(str, http3.ErrCodeInternalError)
		}
	}()
	var r *http.Request
	x := &h3Exchange{stream: str, conn: conn, taken: &strangerOf(conn.Context()).read, free: func() {}}
	x.onHeader = func(block []byte) (err error) {
		r, err = decodeRequest(block)
		x.answered = err == nil
		return err
	}
	w := &h3Writer{x: x, header: make(http.Header)}
	str.SetReadDeadline(time.Now().Add(h.s.t.handshake))
	for !x.answered {
		if err := x.step(); errors.Is(err, errHeaderTooLarge) {
			w.WriteHeader(http.StatusRequestHeaderFieldsTooLarge)
			w.finish()
			return
		} else if err != nil {
			reject(str, http3.ErrCodeMessageError)
			return
		}
	}
	str.SetReadDeadline(time.Time{})
	state := conn.ConnectionState().TLS
	r.TLS, r.RemoteAddr = &state, conn.RemoteAddr().String()
	x.lastByte.Store(clock())
	str.SetWriteDeadline(time.Now().Add(h.s.t.handshake)) // for the answer: a peer that gives no credit holds a request no longer
	w.noBody = r.Method == http.MethodHead
	h.s.h3Handler.ServeHTTP(w, r.WithContext(str.Context()))
	if !w.taken {
		w.finish()
	}
}

// serveH3 serves a stream on a goroutine of its own: the request's holds the request as long as it lives.
func (s *Server) serveH3(w http.ResponseWriter, r *http.Request, p Peer) {
	if r.Method == http.MethodPost {
		describePost(w.Header())
	}
	w.WriteHeader(http.StatusOK)
	answer := w.(*h3Writer)
	answer.taken = true
	answer.x.stream.SetWriteDeadline(time.Time{})
	if c := s.newStream(answer.x); c != nil {
		go s.serveStream(c, p)
	}
}

// An h3Writer writes an answer, each part at once.
type h3Writer struct {
	x      *h3Exchange
	header http.Header
	status int
	taken  bool // x is a tunnel's
	noBody bool // the request was a HEAD
}

func (w *h3Writer) Header() http.Header { return w.header }
func (w *h3Writer) Flush()              {}

func (w *h3Writer) WriteHeader(status int) {
	if w.status != 0 {
		return
	}
	w.status = status
	w.header.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	var block bytes.Buffer
	enc := qpack.NewEncoder(&block)
	enc.WriteField(qpack.HeaderField{Name: ":status", Value: strconv.Itoa(status)})
	for name, values := range w.header {
		for _, v := range values {
			enc.WriteField(qpack.HeaderField{Name: strings.ToLower(name), Value: v})
		}
	}
	frame := appendVarint([]byte{frameHeaders}, uint64(block.Len()))
	w.x.stream.Write(append(frame, block.Bytes()...)) // a stream that has ended is found out by the next call
}

func (w *h3Writer) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if w.noBody {
		return len(b), nil
	}
	if _, err := w.x.stream.Write(appendVarint([]byte{frameData}, uint64(len(b)))); err != nil {
		return 0, err
	}
	return w.x.stream.Write(b)
}

// finish ends an answer that is no tunnel.
func (w *h3Writer) finish() {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	w.x.stream.CancelRead(quic.StreamErrorCode(http3.ErrCodeNoError))
	w.x.stream.Close()
}
