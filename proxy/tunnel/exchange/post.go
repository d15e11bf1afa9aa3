package exchange

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-proxy/culvert/proxy/printable"
)

// PostType is the Content-Type of both bodies. It says nothing on purpose: intermediaries that compress, scan or transform what they know
// let this pass.
const PostType = "application/octet-stream"

// What one frame of HTTP/2 carries. With its header it fills TLS records of 16 KiB: a byte more would be a record, and a system call, of its
// own. Requests have the smaller frames, because net/http holds a buffer of the size of a frame for each.
const (
	MaxRequestFrame = 16 << 10
	MaxAnswerFrame  = 64 << 10
	maxRequestData  = MaxRequestFrame - 9
	maxAnswerData   = MaxAnswerFrame - 9
)

// A Post is a POST whose two bodies carry capsules at the same time, at either end and as net/http has it. A pipe and a goroutine of
// net/http's stand between each body and the stream.
type Post struct {
	local, remote net.Addr
	in, out       *pipe
	hangUp        func(clean bool) // ends the HTTP exchange; called once

	noWait   bool // owned by the reader
	lastByte atomic.Int64
	sawEnd   atomic.Bool // the peer's body has ended
	closed   atomic.Bool // CloseWrite was called
	once     sync.Once
}

var _ Exchange = (*Post)(nil)

// NewPost returns a POST's exchange, for which the caller runs [Post.Send] at the agent's end, and [Post.Receive] and [Post.Answer] at the gateway's.
// hangUp ends the HTTP exchange, and is called once; clean says that both ends had finished, so that what is on its way is left alone.
func NewPost(local, remote net.Addr, hangUp func(clean bool)) *Post {
	x := &Post{local: local, remote: remote, in: newPipe(), out: newPipe(), hangUp: hangUp}
	x.lastByte.Store(Clock())
	return x
}

func (x *Post) LocalAddr() net.Addr        { return x.local }
func (x *Post) RemoteAddr() net.Addr       { return x.remote }
func (x *Post) SetWait(wait bool)          { x.noWait = !wait }
func (x *Post) LastByte() int64            { return x.lastByte.Load() }
func (x *Post) OnDirty(func())             {}
func (x *Post) Read(p []byte) (int, error) { return x.in.read(p, !x.noWait) }
func (x *Post) Write(b []byte) error       { return x.out.write(b[Headroom:]) }
func (x *Post) Flush() error               { return x.out.flush() }

// Dirty is false: what a deadline left behind leaves by itself.
func (x *Post) Dirty() bool { return false }

func (x *Post) SetReadDeadline(t time.Time) error {
	x.in.setDeadline(&x.in.reader, t)
	return nil
}

func (x *Post) SetWriteDeadline(t time.Time) error {
	x.out.setDeadline(&x.out.writer, t)
	return nil
}

// CloseWrite ends the request's body. The answer's ends with the exchange: net/http cannot end it and still read.
func (x *Post) CloseWrite() error {
	x.closed.Store(true)
	x.out.finish(io.EOF)
	return nil
}

// Abort leaves what is on its way alone when both ends have finished.
func (x *Post) Abort() {
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

// Receive passes on what the peer sends, until that ends. It waits for more with a small buffer, and while bytes come in bulk with a large one.
func (x *Post) Receive(body io.Reader) {
	idle := make([]byte, smallSize)
	for bulk := false; ; {
		n, err := 0, error(nil)
		if bulk {
			n, err = x.receiveBulk(body)
		} else {
			n, err = x.receiveInto(idle, body)
		}
		bulk = n == len(idle) || n >= bulkRead
		if err != nil {
			x.sawEnd.Store(err == io.EOF)
			x.in.finish(err)
			return
		}
	}
}

func (x *Post) receiveBulk(body io.Reader) (int, error) {
	b := Buffer(ChunkSize)
	defer Release(b)
	return x.receiveInto((*b)[:ChunkSize], body)
}

func (x *Post) receiveInto(b []byte, body io.Reader) (n int, err error) {
	n, err = body.Read(b)
	if n == 0 {
		return 0, err
	}
	x.lastByte.Store(Clock())
	if failed := x.in.write(b[:n]); failed != nil {
		return n, failed
	}
	return n, err
}

// Body is the request's body.
func (x *Post) Body() io.ReadCloser { return postBody{x.out} }

// A postBody is what net/http reads as a request's body.
type postBody struct{ out *pipe }

func (b postBody) Read(p []byte) (int, error) {
	return b.out.read(p[:min(len(p), maxRequestData)], true)
}

func (b postBody) Close() error {
	b.out.leave()
	return nil
}

// Send has the request answered and receives the answer's body. It returns what went wrong before that, which the stream is told too.
func (x *Post) Send(c *http.ClientConn, req *http.Request, refused func(*AnswerError) error) error {
	resp, err := c.RoundTrip(req)
	if err != nil {
		return x.notAnswered(err)
	}
	defer resp.Body.Close()
	if err := refusal(resp, refused); err != nil {
		return x.fail(err)
	}
	x.Receive(resp.Body)
	x.out.fail(errAnswerEnded)
	return nil
}

// notAnswered tells the stream why its request has no answer. Strings are all that net/http gives to tell by.
func (x *Post) notAnswered(err error) error {
	switch text := err.Error(); {
	case strings.Contains(text, "GOAWAY"), strings.Contains(text, "REFUSED_STREAM"):
		err = &Refused{&Error{CodeDraining, "the request came too late for its HTTP/2 connection, and was not looked at: " + printable.Text(text, printable.Sentence)}}
	case strings.Contains(text, "looked like an HTTP/1.1 header"):
		err = ErrNoH2
	default:
		err = fmt.Errorf("POST not answered: %w", err)
	}
	return x.fail(err)
}

func (x *Post) fail(err error) error {
	x.in.finish(err)
	x.out.fail(err)
	return err
}

// Stalled is the [Clock] since when something that came waits for somebody to read it, or 0.
func (x *Post) Stalled() int64 { return x.in.waits() }

// ErrNoH2 is what a peer ends with that does not speak HTTP/2.
var ErrNoH2 = errors.New("what answered does not speak HTTP/2")

// errAnswerEnded is what ends a request of which net/http sends no more, since the answer is over.
var errAnswerEnded = errors.New("HTTP answer ended")

// refusal is what an answer says that opens no tunnel. A success counts only if it is a gateway's: any web server may answer a POST with 200.
func refusal(resp *http.Response, refused func(*AnswerError) error) error {
	if _, ours := resp.Header[HeaderGateway]; ours && resp.StatusCode/100 == 2 {
		return nil
	}
	late := time.AfterFunc(time.Second, func() { resp.Body.Close() }) // for the body's end, which may never come
	defer late.Stop()
	return &Refused{refused(answerOf(resp.StatusCode, resp.Header, resp.Body))}
}

// Answer sends what is written as the answer's body, until CloseWrite or Abort.
func (x *Post) Answer(w io.Writer, c *http.ResponseController) {
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

func (x *Post) answerSome(n int, w io.Writer, c *http.ResponseController) error {
	b := Buffer(n)
	defer Release(b)
	n, err := x.out.read((*b)[:min(len(*b), maxAnswerData)], true)
	if err != nil {
		return err
	}
	if _, err := w.Write((*b)[:n]); err != nil {
		return err
	}
	return c.Flush()
}
