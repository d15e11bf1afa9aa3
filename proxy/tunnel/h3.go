package tunnel

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

// h3Protocol is the :protocol of the extended CONNECT (RFC 9220) that opens a stream.
const h3Protocol = "culvert"

// HTTP/3 frame types, RFC 9114 §7.2.
const (
	frameData    = 0x00
	frameHeaders = 0x01
)

// firstWindow is the window that a stream begins with. QUIC enlarges those that are used.
const firstWindow = 1 << 20

func quicConfig(incoming int64, t timing, w windows) *quic.Config {
	return &quic.Config{
		HandshakeIdleTimeout:           5 * time.Second,
		MaxIdleTimeout:                 t.quicIdle,
		KeepAlivePeriod:                t.quicKeepalive,
		InitialStreamReceiveWindow:     uint64(min(firstWindow, w.stream)),
		MaxStreamReceiveWindow:         uint64(w.stream),
		InitialConnectionReceiveWindow: uint64(w.connection),
		MaxConnectionReceiveWindow:     uint64(w.connection),
		MaxIncomingStreams:             incoming,
		MaxIncomingUniStreams:          maxUniStreams,
		InitialPacketSize:              packetSize,
	}
}

// An h3Exchange is an HTTP/3 request stream that carries capsules in DATA frames. It frames and parses by itself what http3.Stream would,
// for three reasons: a header goes out in one write with its payload; a read that times out between the bytes of a frame header can be
// repeated; and the answer is read when somebody reads, without a goroutine that waits for it.
type h3Exchange struct {
	stream *quic.Stream
	conn   *quic.Conn
	free   func() // called once, by Abort
	once   sync.Once

	// Owned by the reader.
	noWait   bool
	head     [16]byte
	have     int                      // bytes in head
	typ      uint64                   // of the current frame
	left     uint64                   // bytes of its payload still to come
	answered bool                     // the peer's HEADERS are read
	block    []byte                   // of HEADERS, as far as it came
	onHeader func(block []byte) error // sets answered, unless the HEADERS were none that open a tunnel
	wrap     func(error) error

	taken    *atomic.Uint64 // counts what is read of the connection
	lastByte atomic.Int64
	sawEnd   atomic.Bool // the peer's FIN
	closed   atomic.Bool // CloseWrite was called

	// Owned by the writer.
	request []byte // a HEADERS frame that the first write takes along
	rest    []byte // what a deadline left unsent
	unsent  atomic.Bool
}

func (x *h3Exchange) Transport() string                  { return TransportH3 }
func (x *h3Exchange) LocalAddr() net.Addr                { return x.conn.LocalAddr() }
func (x *h3Exchange) RemoteAddr() net.Addr               { return x.conn.RemoteAddr() }
func (x *h3Exchange) SetReadDeadline(t time.Time) error  { return x.stream.SetReadDeadline(t) }
func (x *h3Exchange) SetWriteDeadline(t time.Time) error { return x.stream.SetWriteDeadline(t) }
func (x *h3Exchange) SetWait(wait bool)                  { x.noWait = !wait }
func (x *h3Exchange) LastByte() int64                    { return x.lastByte.Load() }
func (x *h3Exchange) OnDirty(func())                     {}
func (x *h3Exchange) Dirty() bool                        { return x.unsent.Load() }

// Abort leaves what is on its way alone when both ends have finished.
func (x *h3Exchange) Abort() {
	x.stream.CancelRead(quic.StreamErrorCode(http3.ErrCodeNoError))
	if !x.closed.Load() || !x.sawEnd.Load() {
		x.stream.CancelWrite(quic.StreamErrorCode(http3.ErrCodeRequestCanceled))
	}
	x.once.Do(x.free)
}

func (x *h3Exchange) CloseWrite() error {
	x.closed.Store(true)
	return x.stream.Close()
}

func (x *h3Exchange) Write(b []byte) error {
	n := len(b) - headroom
	var buf [headroom]byte
	head := appendVarint(append(buf[:0], frameData), uint64(n))
	b = b[headroom-copy(b[headroom-len(head):], head):]
	if x.request != nil {
		b = append(x.request, b...)
		x.request = nil
	}
	return x.send(b)
}

func (x *h3Exchange) send(b []byte) error {
	n, err := x.stream.Write(b)
	if err != nil && isTimeout(err) {
		x.rest = append(x.rest[:0], b[n:]...)
		x.unsent.Store(true)
	}
	return err
}

func (x *h3Exchange) Flush() error {
	if !x.unsent.Load() {
		return nil
	}
	n, err := x.stream.Write(x.rest)
	x.rest = x.rest[n:]
	if len(x.rest) == 0 {
		x.rest = nil
		x.unsent.Store(false)
	}
	return err
}

// Read reads payload of DATA frames.
func (x *h3Exchange) Read(p []byte) (int, error) {
	if x.noWait {
		return 0, errNoMore // QUIC fills p as far as it can by itself
	}
	for x.typ != frameData || x.left == 0 || !x.answered {
		if err := x.step(); err != nil {
			return 0, err
		}
	}
	n, err := x.read(p[:min(uint64(len(p)), x.left)])
	x.left -= uint64(n)
	if n > 0 {
		return n, nil
	}
	return 0, err
}

func (x *h3Exchange) read(p []byte) (int, error) {
	n, err := x.stream.Read(p)
	if n > 0 {
		x.lastByte.Store(clock())
		x.taken.Add(uint64(n))
	}
	if err == io.EOF {
		x.sawEnd.Store(true)
	}
	return n, err
}

// step goes on to the next frame, and through those that carry no capsules.
func (x *h3Exchange) step() error {
	if x.left > 0 {
		return x.pass()
	}
	for need := x.headerLen(); x.have < need; need = x.headerLen() {
		n, err := x.read(x.head[x.have:need])
		x.have += n
		if err != nil && x.have < x.headerLen() {
			return err
		}
	}
	k := varintLen(x.head[0])
	x.typ, x.left = parseVarint(x.head[:k]), parseVarint(x.head[k:x.have])
	x.have = 0
	switch {
	case x.typ == frameData && !x.answered:
		return protocolError("HTTP/3 DATA before HEADERS")
	case x.typ == frameHeaders && !x.answered && x.left > maxHeader:
		return errHeaderTooLarge
	}
	return nil
}

func (x *h3Exchange) headerLen() int {
	if x.have == 0 {
		return 2
	}
	k := varintLen(x.head[0])
	if x.have <= k {
		return k + 1
	}
	return k + varintLen(x.head[k])
}

// pass reads the payload of a frame that carries no capsules: the peer's header, trailers, or what we do not know.
func (x *h3Exchange) pass() error {
	var scratch [512]byte
	n, err := x.read(scratch[:min(uint64(len(scratch)), x.left)])
	x.left -= uint64(n)
	isHeader := x.typ == frameHeaders && !x.answered
	if isHeader {
		x.block = append(x.block, scratch[:n]...)
	}
	switch {
	case x.left > 0:
		return err
	case isHeader:
		block := x.block
		x.block = nil
		return x.onHeader(block)
	}
	return nil
}

// answer takes the answer's header.
func (x *h3Exchange) answer(block []byte) error {
	status, header, err := decodeAnswer(block)
	_, ours := header[headerGateway]
	switch {
	case err != nil:
		return protocolError("HTTP/3 answer: %v", err)
	case status/100 == 1:
	case status/100 == 2 && ours: // front doors answer 200 by themselves, and any web server does
		x.answered = true
	default:
		return &refused{x.wrap(answerOf(status, header, x.body()))}
	}
	return nil
}

// refused is an answer other than a tunnel. err says all of it.
type refused struct{ err error }

func (e *refused) Error() string { return e.err.Error() }

// body reads the body of an answer, for a second at most.
func (x *h3Exchange) body() io.Reader {
	x.answered = true
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
