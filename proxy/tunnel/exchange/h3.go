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

// H3Protocol is the :protocol of the extended CONNECT (RFC 9220) that opens a stream.
const H3Protocol = "culvert"

// HTTP/3 frame types, RFC 9114 §7.2.
const (
	frameData    = 0x00
	frameHeaders = 0x01
)

// An H3 is an HTTP/3 request stream that carries capsules in DATA frames. It frames and parses by itself what http3.Stream would,
// for three reasons: a header goes out in one write with its payload; a read that times out between the bytes of a frame header can be
// repeated; and the answer is read when somebody reads, without a goroutine that waits for it.
type H3 struct {
	stream *quic.Stream
	conn   *quic.Conn
	free   func() // called once, by Abort
	once   sync.Once

	read     *atomic.Uint64 // counts what is read of the connection
	lastByte atomic.Int64
	sawEnd   atomic.Bool // the peer's FIN
	closed   atomic.Bool // CloseWrite was called

	in  h3Frames
	out h3Unsent
}

// h3Frames is where the reader of an H3 is in what comes.
type h3Frames struct {
	noWait   bool
	header   TypeLength
	typ      uint64                   // of the current frame
	left     uint64                   // bytes of its payload still to come
	answered bool                     // the peer's HEADERS are read
	block    []byte                   // of HEADERS, as far as it came
	onHeader func(block []byte) error // sets answered, unless the HEADERS were none that open a tunnel
}

// h3Unsent is what the writer of an H3 has not sent yet.
type h3Unsent struct {
	request []byte      // a HEADERS frame that the first write takes along
	rest    []byte      // what a deadline left unsent
	dirty   atomic.Bool // there is a rest
}

var _ Exchange = (*H3)(nil)

// NewH3 returns the exchange of a request that has not been sent: frame, which [H3Request] makes, leaves with the first Write. read counts what is
// read of all streams of conn. free is called once, when the exchange has ended. refused makes an error of an answer that opens no tunnel.
func NewH3(conn *quic.Conn, stream *quic.Stream, frame []byte, read *atomic.Uint64, free func(), refused func(*AnswerError) error) *H3 {
	x := &H3{stream: stream, conn: conn, read: read, free: free}
	x.out.request = frame
	x.in.onHeader = func(block []byte) error { return x.answer(block, refused) }
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

// Abort leaves what is on its way alone when both ends have finished.
func (x *H3) Abort() {
	x.stream.CancelRead(quic.StreamErrorCode(http3.ErrCodeNoError))
	if !x.closed.Load() || !x.sawEnd.Load() {
		x.stream.CancelWrite(quic.StreamErrorCode(http3.ErrCodeRequestCanceled))
	}
	x.once.Do(x.free)
}

func (x *H3) CloseWrite() error {
	x.closed.Store(true)
	return x.stream.Close()
}

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

func (x *H3) send(b []byte) error {
	n, err := x.stream.Write(b)
	if err != nil && IsTimeout(err) {
		x.out.rest = append(x.out.rest[:0], b[n:]...)
		x.out.dirty.Store(true)
	}
	return err
}

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

// Read reads payload of DATA frames.
func (x *H3) Read(p []byte) (int, error) {
	if x.in.noWait {
		return 0, ErrNoMore // QUIC fills p as far as it can by itself
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

// rawRead reads the stream as it is, with its frames.
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

// rawH3 reads an H3's stream as it is, with its frames.
type rawH3 H3

func (x *rawH3) Read(p []byte) (int, error) { return (*H3)(x).rawRead(p) }

// step goes on to the next frame, and through those that carry no capsules.
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

// pass reads the payload of a frame that carries no capsules: the peer's header, trailers, or what we do not know.
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
		return x.in.onHeader(block)
	}
	return nil
}

// answer takes the answer's header.
func (x *H3) answer(block []byte, refused func(*AnswerError) error) error {
	status, header, err := decodeAnswer(block)
	_, ours := header[HeaderGateway]
	switch {
	case err != nil:
		return ProtocolError("HTTP/3 answer: %v", err)
	case status/100 == 1:
	case status/100 == 2 && ours: // front doors answer 200 by themselves, and any web server does
		x.in.answered = true
	default:
		return &Refused{refused(answerOf(status, header, x.body()))}
	}
	return nil
}

// body reads the body of an answer, for a second at most.
func (x *H3) body() io.Reader {
	x.in.answered = true
	x.stream.SetReadDeadline(time.Now().Add(time.Second))
	return x
}

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
