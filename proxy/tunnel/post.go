package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-proxy/culvert/proxy/printable"
)

// postType is the Content-Type of both bodies. It says nothing on purpose: intermediaries that compress, scan or transform what they know
// let this pass.
const postType = "application/octet-stream"

// What one frame of HTTP/2 carries. With its header it fills TLS records of 16 KiB: a byte more would be a record, and a system call, of its
// own. Requests have the smaller frames, because net/http holds a buffer of the size of a frame for each.
const (
	maxRequestFrame = 16 << 10
	maxAnswerFrame  = 64 << 10
	maxRequestData  = maxRequestFrame - 9
	maxAnswerData   = maxAnswerFrame - 9
)

// A postExchange is a POST whose two bodies carry capsules at the same time, at either end and as net/http has it. A pipe and a goroutine of
// net/http's stand between each body and the stream.
type postExchange struct {
	transport     string
	local, remote net.Addr
	in, out       *pipe
	hangUp        func(clean bool) // ends the HTTP exchange; called once

	noWait   bool // owned by the reader
	lastByte atomic.Int64
	sawEnd   atomic.Bool // the peer's body has ended
	closed   atomic.Bool // CloseWrite was called
	once     sync.Once
}

var _ exchange = (*postExchange)(nil)

func newPost(transport string, local, remote net.Addr) *postExchange {
	x := &postExchange{transport: transport, local: local, remote: remote, in: newPipe(), out: newPipe()}
	x.lastByte.Store(clock())
	return x
}

func (x *postExchange) Transport() string          { return x.transport }
func (x *postExchange) LocalAddr() net.Addr        { return x.local }
func (x *postExchange) RemoteAddr() net.Addr       { return x.remote }
func (x *postExchange) SetWait(wait bool)          { x.noWait = !wait }
func (x *postExchange) LastByte() int64            { return x.lastByte.Load() }
func (x *postExchange) OnDirty(func())             {}
func (x *postExchange) Read(p []byte) (int, error) { return x.in.read(p, !x.noWait) }
func (x *postExchange) Write(b []byte) error       { return x.out.write(b[headroom:]) }
func (x *postExchange) Flush() error               { return x.out.flush() }

// Dirty is false: what a deadline left behind leaves by itself.
func (x *postExchange) Dirty() bool { return false }

func (x *postExchange) SetReadDeadline(t time.Time) error {
	x.in.setDeadline(&x.in.reader, t)
	return nil
}

func (x *postExchange) SetWriteDeadline(t time.Time) error {
	x.out.setDeadline(&x.out.writer, t)
	return nil
}

// CloseWrite ends the request's body. The answer's ends with the exchange: net/http cannot end it and still read.
func (x *postExchange) CloseWrite() error {
	x.closed.Store(true)
	x.out.finish(io.EOF)
	return nil
}

// Abort leaves what is on its way alone when both ends have finished.
func (x *postExchange) Abort() {
	x.once.Do(func() {
		clean := x.closed.Load() && x.sawEnd.Load()
		x.in.fail(net.ErrClosed)
		if !clean {
			x.out.fail(net.ErrClosed)
		}
		x.hangUp(clean)
		x.hangUp = nil // by which whoever still has the stream would have what net/http keeps of it, too
	})
}

// receive passes on what the peer sends, until that ends. It waits for more with a small buffer, and while bytes come in bulk with a large one.
func (x *postExchange) receive(body io.Reader) {
	small := make([]byte, smallSize)
	for bulk := false; ; {
		n, err := 0, error(nil)
		if bulk {
			n, err = x.receiveBulk(body)
		} else {
			n, err = x.receiveInto(small, body)
		}
		bulk = n == len(small) || n >= bulkRead
		if err != nil {
			x.sawEnd.Store(err == io.EOF)
			x.in.finish(err)
			return
		}
	}
}

func (x *postExchange) receiveBulk(body io.Reader) (int, error) {
	b := framePool.Get().(*[]byte)
	defer framePool.Put(b)
	return x.receiveInto((*b)[:chunkSize], body)
}

func (x *postExchange) receiveInto(b []byte, body io.Reader) (n int, err error) {
	n, err = body.Read(b)
	if n == 0 {
		return 0, err
	}
	x.lastByte.Store(clock())
	if failed := x.in.write(b[:n]); failed != nil {
		return n, failed
	}
	return n, err
}

// A postBody is what net/http reads as a request's body.
type postBody struct{ out *pipe }

func (b postBody) Read(p []byte) (int, error) {
	return b.out.read(p[:min(len(p), maxRequestData)], true)
}

func (b postBody) Close() error {
	b.out.leave()
	return nil
}

// send has the request answered and receives the answer's body. It returns what went wrong before that, which the stream is told too.
func (x *postExchange) send(c *http.ClientConn, req *http.Request, wrap func(error) error) error {
	resp, err := c.RoundTrip(req)
	if err != nil {
		return x.notAnswered(err)
	}
	defer resp.Body.Close()
	if err := refusal(resp, wrap); err != nil {
		return x.fail(err)
	}
	x.receive(resp.Body)
	x.out.fail(errAnswerEnded)
	return nil
}

// notAnswered tells the stream why its request has no answer. Strings are all that net/http gives to tell by.
func (x *postExchange) notAnswered(err error) error {
	switch text := err.Error(); {
	case strings.Contains(text, "GOAWAY"), strings.Contains(text, "REFUSED_STREAM"):
		err = &refused{&Error{CodeDraining, "the request came too late for its HTTP/2 connection, and was not looked at: " + printable.Text(text, printable.Sentence)}}
	case strings.Contains(text, "looked like an HTTP/1.1 header"):
		err = errNoH2
	default:
		err = fmt.Errorf("POST not answered: %w", err)
	}
	return x.fail(err)
}

func (x *postExchange) fail(err error) error {
	x.in.finish(err)
	x.out.fail(err)
	return err
}

// errAnswerEnded is what ends a request of which net/http sends no more, since the answer is over.
var errAnswerEnded = errors.New("HTTP answer ended")

// refusal is what an answer says that opens no tunnel. A success counts only if it is a gateway's: any web server may answer a POST with 200.
func refusal(resp *http.Response, wrap func(error) error) error {
	if _, ours := resp.Header[headerGateway]; ours && resp.StatusCode/100 == 2 {
		return nil
	}
	late := time.AfterFunc(time.Second, func() { resp.Body.Close() }) // for the body's end, which may never come
	defer late.Stop()
	return &refused{wrap(answerOf(resp.StatusCode, resp.Header, resp.Body))}
}

// connKey is the context key of a request's net.Conn.
type connKey struct{}

func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// describePost asks intermediaries for what an answer's body needs.
func describePost(h http.Header) {
	h.Set("Content-Type", postType)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // nginx
}

// servePost serves a stream as long as it lasts.
func (s *Server) servePost(w http.ResponseWriter, r *http.Request, p Peer) {
	answer := http.NewResponseController(w)
	answer.EnableFullDuplex()
	describePost(w.Header())
	w.WriteHeader(http.StatusOK)
	if err := answer.Flush(); err != nil {
		s.log.Debug("POST not answered", "err", err, "agent_addr", p.Addr)
		return
	}
	conn := r.Context().Value(connKey{}).(net.Conn)
	x := newPost(p.Transport, conn.LocalAddr(), conn.RemoteAddr())
	over := make(chan bool, 1)
	x.hangUp = func(clean bool) {
		if clean {
			answer.SetWriteDeadline(time.Now().Add(s.t.reset))
		} else {
			answer.SetReadDeadline(aLongTimeAgo)
			answer.SetWriteDeadline(aLongTimeAgo)
		}
		over <- clean
	}
	if c := s.newStream(x); c != nil {
		go s.serveStream(c, p)
	}
	var receiving sync.WaitGroup
	receiving.Go(func() { x.receive(r.Body) })
	x.answer(w, answer)
	clean := <-over
	receiving.Wait()
	if !clean {
		panic(http.ErrAbortHandler)
	}
}

// answer sends what is written as the answer's body, until CloseWrite or Abort.
func (x *postExchange) answer(w io.Writer, c *http.ResponseController) {
	for {
		n, err := x.out.offered()
		if err == nil {
			err = x.answerSome(n, w, c)
		}
		if err != nil {
			x.out.fail(err)
			return
		}
	}
}

func (x *postExchange) answerSome(n int, w io.Writer, c *http.ResponseController) error {
	pool := &framePool
	if n <= smallSize {
		pool = &smallPool
	}
	b := pool.Get().(*[]byte)
	defer pool.Put(b)
	n, err := x.out.read((*b)[:min(len(*b), maxAnswerData)], true)
	if err != nil {
		return err
	}
	if _, err := w.Write((*b)[:n]); err != nil {
		return err
	}
	return c.Flush()
}

// refusePost answers a POST that cannot carry a tunnel.
func refusePost(w http.ResponseWriter, r *http.Request) (done bool) {
	typ, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch {
	case typ != postType:
		refuse(w, http.StatusUnsupportedMediaType, "this is the tunnel of a culvert gateway, and takes POSTs of "+postType+" alone; point culvert agent --gateway-url here")
	case r.ContentLength >= 0:
		refuse(w, http.StatusBadRequest, fmt.Sprintf("a tunnel is a POST of no known length, and this one has %d bytes: something on the way keeps a request until it is whole", r.ContentLength))
	default:
		return false
	}
	return true
}
