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

// PostType is the Content-Type of both bodies. It is deliberately meaningless: intermediaries that
// compress, scan or transform the types they know leave this one alone.
const PostType = "application/octet-stream"

// These are the sizes of HTTP/2 frames. With its header a frame fills TLS records of 16 KiB; one
// more byte would need a further record and a further system call. Requests have smaller frames
// because net/http allocates a buffer of frame size for each of them.
const (
	MaxRequestFrame = 16 << 10
	MaxAnswerFrame  = 64 << 10
	maxRequestData  = MaxRequestFrame - 9
	maxAnswerData   = MaxAnswerFrame - 9
)

// A Post is a POST whose two bodies carry capsules at the same time, at either end, on top of
// net/http. Between each body and the stream there are a pipe and a goroutine of net/http.
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

var (
	_ Exchange  = (*Post)(nil)
	_ Buffering = (*Post)(nil)
)

// NewPost returns the exchange of a POST. The caller runs [Post.Send] at the agent's end, or
// [Post.Receive] and [Post.Answer] at the gateway's. hangUp ends the HTTP exchange and is called
// once. clean means that both ends have finished, so that data in flight must be left alone.
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

// Dirty returns false: the pipe passes on what a deadline left behind.
func (x *Post) Dirty() bool { return false }

func (x *Post) SetReadDeadline(t time.Time) error {
	x.in.setDeadline(&x.in.reader, t)
	return nil
}

func (x *Post) SetWriteDeadline(t time.Time) error {
	x.out.setDeadline(&x.out.writer, t)
	return nil
}

// CloseWrite ends the request's body. At the gateway's end the response's body ends only with the
// exchange, because net/http cannot end it and continue to read.
func (x *Post) CloseWrite() error {
	x.closed.Store(true)
	x.out.finish(io.EOF)
	return nil
}

// Abort ends the exchange. If both ends have finished, it leaves data in flight alone.
func (x *Post) Abort() {
	x.once.Do(func() {
		clean := x.closed.Load() && x.sawEnd.Load()
		x.in.fail(net.ErrClosed)
		if !clean {
			x.out.fail(net.ErrClosed)
		}
		x.hangUp(clean)
		x.hangUp = nil // so that whoever still holds the stream does not also keep net/http's memory alive
	})
}

// Receive passes on what the peer sends, until the body ends. It waits for bytes with a small
// buffer, and uses a large one while they arrive in bulk: most streams are idle.
func (x *Post) Receive(body io.Reader) {
	idle := make([]byte, idleSize)
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

// receiveBulk reads once with a large buffer from the pool.
func (x *Post) receiveBulk(body io.Reader) (int, error) {
	b := Buffer(ChunkSize)
	defer Release(b)
	return x.receiveInto((*b)[:ChunkSize], body)
}

// receiveInto reads once into b and waits until the stream has taken the bytes.
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

// Body returns the body of the request.
func (x *Post) Body() io.ReadCloser { return postBody{x.out} }

// A postBody is the body of a request, for net/http to read.
type postBody struct{ out *pipe }

// Read fills at most one frame, so that net/http makes no second, small one of the rest.
func (b postBody) Read(p []byte) (int, error) {
	return b.out.read(p[:min(len(p), maxRequestData)], true)
}

// Close is called by net/http when it reads no more. The reason arrives with the response or the
// error of the round trip.
func (b postBody) Close() error {
	b.out.leave()
	return nil
}

// Send sends the request and receives the body of its response. It returns what went wrong before
// the response, which the stream's calls return too. accepted and refused are as those of [NewH3].
func (x *Post) Send(c *http.ClientConn, req *http.Request, accepted func(http.Header), refused func(*AnswerError) error) error {
	resp, err := c.RoundTrip(req)
	if err != nil {
		return x.notAnswered(err)
	}
	defer resp.Body.Close()
	if err := refusal(resp, refused); err != nil {
		return x.fail(err)
	}
	accepted(resp.Header)
	x.Receive(resp.Body)
	x.out.fail(errAnswerEnded)
	return nil
}

// notAnswered returns the error for a request without a response. It compares strings because
// net/http exports no errors for these cases.
func (x *Post) notAnswered(err error) error {
	switch text := err.Error(); {
	case strings.Contains(text, "GOAWAY"), strings.Contains(text, "REFUSED_STREAM"):
		err = &Refused{&Error{Code: CodeDraining, Message: "the HTTP/2 connection was closing and did not take the request: " + printable.Text(text, printable.Sentence)}}
	case strings.Contains(text, "looked like an HTTP/1.1 header"):
		err = ErrNoH2
	default:
		err = fmt.Errorf("no response to POST: %w", err)
	}
	return x.fail(err)
}

// fail ends the exchange with err and returns err.
func (x *Post) fail(err error) error {
	x.in.finish(err)
	x.out.fail(err)
	return err
}

// StalledSince returns the [Clock] when received bytes began to wait for a reader, or 0.
func (x *Post) StalledSince() int64 { return x.in.waitingSince() }

// ErrNoH2 is returned if the server does not speak HTTP/2.
var ErrNoH2 = errors.New("the server does not speak HTTP/2")

// errAnswerEnded ends the request's body when the response has ended: net/http sends no more of it
// then.
var errAnswerEnded = errors.New("HTTP response ended")

// refusal returns the error for a response that opens no tunnel, or nil. A 2xx response counts only
// if it is a gateway's, because any web server may answer a POST with 200.
func refusal(resp *http.Response, refused func(*AnswerError) error) error {
	if _, ours := resp.Header[HeaderGateway]; ours && resp.StatusCode/100 == 2 {
		return nil
	}
	late := time.AfterFunc(time.Second, func() { resp.Body.Close() }) // the body may never end
	defer late.Stop()
	return &Refused{refused(answerOf(resp.StatusCode, resp.Header, resp.Body))}
}

// Answer sends what is written as the body of the response, until CloseWrite or Abort.
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

// answerSome sends up to one frame. It waits for n bytes before it takes a buffer, so that an idle
// stream holds none.
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
