package exchange

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// H3Protocol is the value of :protocol in the extended CONNECT (RFC 9220) that opens a stream.
const H3Protocol = "culvert"

// An H3 is an HTTP/3 request stream that carries capsules in DATA frames. It does its own framing
// instead of using http3.Stream, for three reasons. A frame header leaves in one write with its
// payload. A read that times out inside a frame header can be repeated. And the response is read
// when somebody reads, without a goroutine per stream that waits for it.
type H3 struct {
	stream *quic.Stream
	conn   *quic.Conn
	free   func() // called once, by Abort
	once   sync.Once

	read     *atomic.Uint64 // bytes read from all streams of the connection
	lastByte atomic.Int64
	sawEnd   atomic.Bool // the peer's FIN has been read
	closed   atomic.Bool // CloseWrite was called

	in  h3Frames
	out h3Unsent
}

// h3Frames is the reader's position in the frames of an H3.
type h3Frames struct {
	noWait   bool
	header   TypeLength
	typ      uint64                   // of the current frame
	left     uint64                   // bytes of its payload still to come
	answered bool                     // the peer's HEADERS have been read
	block    []byte                   // of HEADERS, as far as it has arrived
	onHeader func(block []byte) error // sets answered, unless these HEADERS open no tunnel
}

// h3Unsent is what the writer of an H3 still has to send.
type h3Unsent struct {
	request []byte      // a HEADERS frame that leaves with the first write
	rest    []byte      // what a deadline left unsent
	dirty   atomic.Bool // rest is not empty
}

var _ Exchange = (*H3)(nil)

// NewH3 returns the exchange of a request that has not been sent. frame is its HEADERS frame, made
// by [H3Request]; it leaves with the first Write. read counts the bytes read from all streams of
// conn. free is called once, when the exchange has ended. accepted is called with the header of a
// response that opens a tunnel, and refused returns the error for one that does not.
func NewH3(conn *quic.Conn, stream *quic.Stream, frame []byte, read *atomic.Uint64, free func(), accepted func(http.Header), refused func(*AnswerError) error) *H3 {
	x := &H3{stream: stream, conn: conn, read: read, free: free}
	x.out.request = frame
	x.in.onHeader = func(block []byte) error { return x.answer(block, accepted, refused) }
	x.lastByte.Store(Clock())
	return x
}

// Conn returns the QUIC connection that carries the exchange.
func (x *H3) Conn() *quic.Conn { return x.conn }

func (x *H3) LocalAddr() net.Addr                { return x.conn.LocalAddr() }
func (x *H3) RemoteAddr() net.Addr               { return x.conn.RemoteAddr() }
func (x *H3) SetReadDeadline(t time.Time) error  { return x.stream.SetReadDeadline(t) }
func (x *H3) SetWriteDeadline(t time.Time) error { return x.stream.SetWriteDeadline(t) }
func (x *H3) SetWait(wait bool)                  { x.in.noWait = !wait }
func (x *H3) LastByte() int64                    { return x.lastByte.Load() }
func (x *H3) OnDirty(func())                     {}
func (x *H3) Dirty() bool                        { return x.out.dirty.Load() }

// Abort ends the stream. If both ends have finished, it leaves data in flight alone.
func (x *H3) Abort() {
	x.stream.CancelRead(quic.StreamErrorCode(http3.ErrCodeNoError))
	if !x.closed.Load() || !x.sawEnd.Load() {
		x.stream.CancelWrite(quic.StreamErrorCode(http3.ErrCodeRequestCanceled))
	}
	x.once.Do(x.free)
}

// CloseWrite sends a FIN.
func (x *H3) CloseWrite() error {
	x.closed.Store(true)
	return x.stream.Close()
}

// Write sends b in one DATA frame, preceded by the request if that is still unsent.
func (x *H3) Write(b []byte) error {
	var buf [Headroom]byte
	head := AppendTypeLength(buf[:0], frameData, uint64(len(b)-Headroom))
	b = b[Headroom-copy(b[Headroom-len(head):], head):]
	if x.out.request != nil {
		b = append(x.out.request, b...)
		x.out.request = nil
	}
	return x.send(b)
}

// send writes b, and keeps what a deadline leaves unsent.
func (x *H3) send(b []byte) error {
	n, err := x.stream.Write(b)
	if err != nil && IsTimeout(err) {
		x.out.rest = append(x.out.rest[:0], b[n:]...)
		x.out.dirty.Store(true)
	}
	return err
}

// Flush sends what a deadline left unsent.
func (x *H3) Flush() error {
	if !x.out.dirty.Load() {
		return nil
	}
	n, err := x.stream.Write(x.out.rest)
	x.out.rest = x.out.rest[n:]
	if len(x.out.rest) == 0 {
		x.out.rest = nil
		x.out.dirty.Store(false)
	}
	return err
}

// Read returns the payload of DATA frames.
func (x *H3) Read(p []byte) (int, error) {
	if x.in.noWait {
		return 0, ErrNoMore // QUIC has filled p as far as it could
	}
	for x.in.typ != frameData || x.in.left == 0 || !x.in.answered {
		if err := x.step(); err != nil {
			return 0, err
		}
	}
	n, err := x.rawRead(p[:min(uint64(len(p)), x.in.left)])
	x.in.left -= uint64(n)
	if n > 0 {
		return n, nil
	}
	return 0, err
}

// rawRead reads from the stream, including the frame headers.
func (x *H3) rawRead(p []byte) (int, error) {
	n, err := x.stream.Read(p)
	if n > 0 {
		x.lastByte.Store(Clock())
		x.read.Add(uint64(n))
	}
	if err == io.EOF {
		x.sawEnd.Store(true)
	}
	return n, err
}

// A rawH3 is the stream below the frames, as an io.Reader.
type rawH3 H3

func (x *rawH3) Read(p []byte) (int, error) { return (*H3)(x).rawRead(p) }

// step reads the header of the next frame, or some payload of a frame that carries no capsules.
func (x *H3) step() (err error) {
	if x.in.left > 0 {
		return x.pass()
	}
	x.in.typ, x.in.left, err = x.in.header.Read((*rawH3)(x))
	switch {
	case err != nil:
		return err
	case x.in.typ == frameData && !x.in.answered:
		return ProtocolError("HTTP/3 DATA before HEADERS")
	case x.in.typ == frameHeaders && !x.in.answered && x.in.left > MaxHeader:
		return errHeaderTooLarge
	}
	return nil
}

// pass reads the payload of a frame that carries no capsules: HEADERS, trailers, or a frame of
// unknown type, which RFC 9114 §9 says to ignore.
func (x *H3) pass() error {
	var scratch [512]byte
	n, err := x.rawRead(scratch[:min(uint64(len(scratch)), x.in.left)])
	x.in.left -= uint64(n)
	isHeader := x.in.typ == frameHeaders && !x.in.answered
	if isHeader {
		x.in.block = append(x.in.block, scratch[:n]...)
	}
	switch {
	case x.in.left > 0:
		return err
	case isHeader:
		block := x.in.block
		x.in.block = nil
		err := x.in.onHeader(block)
		if x.in.answered {
			x.in.onHeader = nil // with the header of the request, which it keeps in memory
		}
		return err
	}
	return nil
}

// answer handles the HEADERS of the response.
func (x *H3) answer(block []byte, accepted func(http.Header), refused func(*AnswerError) error) error {
	status, header, err := decodeAnswer(block)
	_, ours := header[HeaderGateway]
	switch {
	case err != nil:
		return ProtocolError("HTTP/3 response: %v", err)
	case status/100 == 1:
	// Without the gateway's header it may be an ingress that answers 200 by itself, or any web
	// server.
	case status/100 == 2 && ours:
		x.in.answered = true
		accepted(header)
	default:
		return &Refused{refused(answerOf(status, header, x.body()))}
	}
	return nil
}

// body returns the body of a response, read for at most one second.
func (x *H3) body() io.Reader {
	x.in.answered = true
	x.stream.SetReadDeadline(time.Now().Add(time.Second))
	return x
}

// decodeAnswer decodes the HEADERS of a response.
func decodeAnswer(block []byte) (status int, h http.Header, err error) {
	fields, err := decodeFields(block)
	if err != nil {
		return 0, nil, err
	}
	h = make(http.Header)
	for _, f := range fields {
		if f.Name != ":status" {
			h.Add(f.Name, f.Value)
			continue
		}
		if status, err = strconv.Atoi(f.Value); err != nil || status < 100 || status > 999 {
			return 0, nil, fmt.Errorf(":status %.20q", f.Value)
		}
	}
	if status == 0 {
		return 0, nil, errors.New("no :status")
	}
	return status, h, nil
}
