package exchange

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gobwas/ws"
)

// WSProtocol is the WebSocket subprotocol that an agent requests. A gateway confirms it but does
// not require it.
const WSProtocol = "culvert"

// A WS is a WebSocket (RFC 6455). It carries capsules in binary messages, whose boundaries have no
// meaning. It writes every frame as a whole message and accepts fragmented ones.
//
// Frames are encoded here and not by a WebSocket library, because each must leave in one write:
// header and payload in one buffer, so that TLS makes full records of them and the kernel gets one
// system call. The reader, too, must be able to continue after a timeout inside a frame header,
// which the libraries cannot.
type WS struct {
	wire   *Wire
	conn   net.Conn // TLS over the wire, or the wire itself
	plain  bool
	client bool // masks what it sends and requires that the peer does not

	in    wsFrames
	reply wsReply
}

// wsFrames is the reader's position in the frames of a WS.
type wsFrames struct {
	br         *bufio.Reader // small, for headers only; payload bypasses it
	head       [ws.MaxHeaderSize]byte
	have       int // bytes in head
	op         ws.OpCode
	left       int64 // payload of the current frame still to come
	mask       [4]byte
	maskPos    int
	inMessage  bool // the last data frame did not end its message
	control    [ws.MaxControlFramePayloadSize]byte
	controlLen int
}

// maxReply is the size of the largest control frame.
const maxReply = ws.MaxHeaderSize + ws.MaxControlFramePayloadSize

// wsReply is the control frame that a WS has to send. The reader leaves it here for the writer.
type wsReply struct {
	onDirty func()
	dirty   atomic.Bool // there is a frame

	mu    sync.Mutex
	frame [maxReply]byte
	n     int // bytes in frame

	out [maxReply]byte // the writer's copy
}

// closeTimeout bounds how long the peer may take to read the end of a connection.
const closeTimeout = 5 * time.Second

// readAhead has room for the headers of a frame (14 bytes) and of a capsule (at most 16), and for a
// whole KEEPALIVE. It is small because every stream has such a buffer.
const readAhead = 64

// NewWS returns the exchange of an upgraded connection. conn is TLS over w, or w itself. early is
// what was read after the handshake.
func NewWS(w *Wire, conn net.Conn, client bool, early []byte) *WS {
	w.Hold()
	w.lastByte.Store(Clock())
	x := &WS{wire: w, conn: conn, plain: conn == net.Conn(w), client: client}
	var r io.Reader = conn
	if len(early) > 0 {
		r = &earlyReader{early: early, r: conn}
	}
	x.in.br = bufio.NewReaderSize(r, readAhead)
	return x
}

// An earlyReader returns early before it reads from r.
type earlyReader struct {
	early []byte
	r     io.Reader
}

func (e *earlyReader) Read(p []byte) (int, error) {
	if len(e.early) == 0 {
		return e.r.Read(p)
	}
	n := copy(p, e.early)
	e.early = e.early[n:]
	return n, nil
}

func (x *WS) LocalAddr() net.Addr                { return x.wire.LocalAddr() }
func (x *WS) RemoteAddr() net.Addr               { return x.wire.RemoteAddr() }
func (x *WS) SetReadDeadline(t time.Time) error  { return x.wire.SetReadDeadline(t) }
func (x *WS) SetWriteDeadline(t time.Time) error { return x.wire.SetWriteDeadline(t) }
func (x *WS) SetWait(wait bool)                  { x.wire.noWait = !wait }
func (x *WS) LastByte() int64                    { return x.wire.lastByte.Load() }
func (x *WS) OnDirty(f func())                   { x.reply.onDirty = f }
func (x *WS) Dirty() bool                        { return x.reply.dirty.Load() || x.wire.held() }
func (x *WS) Abort()                             { x.wire.Conn.Close() }

// Read returns the payload of data frames, and handles control frames on the way.
func (x *WS) Read(p []byte) (int, error) {
	for {
		if x.in.left > 0 && x.in.op.IsData() {
			return x.readPayload(p)
		}
		if x.in.left > 0 || x.in.op.IsControl() {
			if err := x.readControl(); err != nil {
				return 0, err
			}
			continue
		}
		if err := x.readHeader(); err != nil {
			return 0, err
		}
	}
}

// readPayload reads payload of a data frame, directly into p if the read-ahead is empty.
func (x *WS) readPayload(p []byte) (int, error) {
	n, err := x.in.br.Read(p[:min(int64(len(p)), x.in.left)])
	x.in.left -= int64(n)
	x.unmask(p[:n])
	if n > 0 {
		return n, nil
	}
	return 0, err
}

// unmask unmasks payload of the current frame in place. Only a client's frames are masked (RFC 6455
// §5.3).
func (x *WS) unmask(p []byte) {
	if x.client {
		return
	}
	ws.Cipher(p, x.in.mask, x.in.maskPos)
	x.in.maskPos = (x.in.maskPos + len(p)) % 4
}

// readHeader reads a frame header. After a timeout it continues at the byte where it stopped.
func (x *WS) readHeader() error {
	for need := x.headerLen(); x.in.have < need; need = x.headerLen() {
		n, err := x.in.br.Read(x.in.head[x.in.have:need])
		x.in.have += n
		if err != nil && x.in.have < x.headerLen() {
			return err
		}
	}
	x.in.have = 0
	return x.startFrame()
}

// headerLen returns the length of the current header, as far as its first bytes determine it.
func (x *WS) headerLen() int {
	if x.in.have < 2 {
		return 2
	}
	n := 2
	switch x.in.head[1] & 0x7f {
	case 126:
		n += 2
	case 127:
		n += 8
	}
	if x.in.head[1]&0x80 != 0 {
		n += 4
	}
	return n
}

// startFrame checks the header in head against RFC 6455 §5, and sets the state for its frame.
func (x *WS) startFrame() error {
	fin, op := x.in.head[0]&0x80 != 0, ws.OpCode(x.in.head[0]&0x0f)
	masked := x.in.head[1]&0x80 != 0
	rest := x.in.head[2:]
	switch n := x.in.head[1] & 0x7f; n {
	case 126:
		x.in.left, rest = int64(binary.BigEndian.Uint16(rest)), rest[2:]
	case 127:
		x.in.left, rest = int64(binary.BigEndian.Uint64(rest)), rest[8:]
	default:
		x.in.left = int64(n)
	}
	switch {
	case x.in.left < 0:
		return ProtocolError("WebSocket frame with a length beyond 2^63")
	case x.in.head[0]&0x70 != 0:
		return ProtocolError("WebSocket frame with reserved bits: an extension that was not negotiated")
	case masked == x.client:
		return ProtocolError("WebSocket frame masked: %t, want %t", masked, !x.client)
	case op.IsControl() && (!fin || x.in.left > ws.MaxControlFramePayloadSize):
		return ProtocolError("WebSocket control frame of %d bytes, final: %t", x.in.left, fin)
	case op == ws.OpText || op.IsReserved():
		return ProtocolError("WebSocket frame with opcode %d, want binary", op)
	case op == ws.OpBinary && x.in.inMessage, op == ws.OpContinuation && !x.in.inMessage:
		return ProtocolError("WebSocket frame with opcode %d, inside a message: %t", op, x.in.inMessage)
	}
	if masked {
		copy(x.in.mask[:], rest)
		x.in.maskPos = 0
	}
	x.in.op = op
	if op.IsData() {
		x.in.inMessage = !fin
	}
	return nil
}

// readControl reads the rest of a control frame and acts on it.
func (x *WS) readControl() error {
	for x.in.left > 0 {
		n, err := x.in.br.Read(x.in.control[x.in.controlLen : x.in.controlLen+int(x.in.left)])
		x.unmask(x.in.control[x.in.controlLen : x.in.controlLen+n])
		x.in.controlLen += n
		x.in.left -= int64(n)
		if err != nil && x.in.left > 0 {
			return err
		}
	}
	payload := x.in.control[:x.in.controlLen]
	op := x.in.op
	x.in.op, x.in.controlLen = ws.OpContinuation, 0
	switch op {
	case ws.OpPing:
		x.answer(ws.OpPong, payload)
	case ws.OpClose:
		x.answer(ws.OpClose, payload[:min(2, len(payload))])
		return closedError(payload)
	}
	return nil
}

// closedError returns the error for a Close frame of the peer.
func closedError(payload []byte) error {
	if len(payload) < 2 {
		return fmt.Errorf("WebSocket closed without a reason")
	}
	return fmt.Errorf("WebSocket closed with %d %q", binary.BigEndian.Uint16(payload), payload[2:])
}

// answer leaves a control frame for the next Flush. Only the latest is kept, as RFC 6455 §5.5.3
// permits for pongs, so that a flood of pings costs no memory. The reader never writes by itself,
// so that two ends that both write cannot block each other.
func (x *WS) answer(op ws.OpCode, payload []byte) {
	x.reply.mu.Lock()
	b := x.reply.frame[:Headroom+len(payload)]
	copy(b[Headroom:], payload)
	f := x.frame(b, op)
	x.reply.n = copy(x.reply.frame[:], f)
	x.reply.mu.Unlock()
	if !x.reply.dirty.Swap(true) && x.reply.onDirty != nil {
		x.reply.onDirty()
	}
}

// frame puts a header in front of the payload b[Headroom:], which it masks if this is the client.
// The result lies within b.
func (x *WS) frame(b []byte, op ws.OpCode) []byte {
	payload := b[Headroom:]
	var head [ws.MaxHeaderSize]byte
	h := append(head[:0], 0x80|byte(op))
	switch n := len(payload); {
	case n < 126:
		h = append(h, byte(n))
	case n < 1<<16:
		h = binary.BigEndian.AppendUint16(append(h, 126), uint16(n))
	default:
		h = binary.BigEndian.AppendUint64(append(h, 127), uint64(n))
	}
	if x.client {
		h[1] |= 0x80
		h = binary.BigEndian.AppendUint32(h, rand.Uint32())
		ws.Cipher(payload, [4]byte(h[len(h)-4:]), 0)
	}
	return b[Headroom-copy(b[Headroom-len(h):], h):]
}

// Write sends b[Headroom:] in one frame, with one system call if there is a buffer for it.
func (x *WS) Write(b []byte) error {
	f := x.frame(b, ws.OpBinary)
	if x.plain {
		return x.wire.send(f)
	}
	for {
		n := x.wire.makeRoom(len(f))
		if _, err := x.conn.Write(f[:n]); err != nil {
			return err
		}
		f = f[n:]
		if err := x.wire.Flush(); len(f) == 0 || err != nil && !IsTimeout(err) {
			return err
		}
	}
}

// Flush sends a control frame, if there is one, and what the wire holds.
func (x *WS) Flush() error {
	if x.reply.dirty.Load() {
		if err := x.keepReply(); err != nil {
			return err
		}
	}
	return x.wire.Flush()
}

// keepReply moves the pending control frame to the wire.
func (x *WS) keepReply() error {
	x.reply.mu.Lock()
	b := x.reply.out[:copy(x.reply.out[:], x.reply.frame[:x.reply.n])]
	x.reply.n = 0
	x.reply.dirty.Store(false)
	x.reply.mu.Unlock()
	_, err := x.conn.Write(b)
	return err
}

// CloseWrite sends a Close frame, TLS's close_notify and a FIN.
func (x *WS) CloseWrite() error {
	var b [Headroom + 2]byte
	binary.BigEndian.PutUint16(b[Headroom:], uint16(ws.StatusNormalClosure))
	if _, err := x.conn.Write(x.frame(b[:], ws.OpClose)); err != nil {
		return err
	}
	if t, ok := x.conn.(*tls.Conn); ok {
		// It sets a write deadline of its own; the alert stays in the wire until Flush.
		err := t.CloseWrite()
		x.wire.SetWriteDeadline(time.Now().Add(closeTimeout))
		if err != nil {
			return err
		}
	}
	if err := x.wire.Flush(); err != nil {
		return err
	}
	if c, ok := x.wire.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return nil
}
