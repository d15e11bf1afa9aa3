package exchange

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/gobwas/ws"

	"github.com/culvert-proxy/culvert/proxy/internal/memnet"
)

// clientFrame returns a frame as a client sends it.
func clientFrame(fin bool, op ws.OpCode, payload []byte) []byte {
	f := ws.NewFrame(op, fin, bytes.Clone(payload))
	var b bytes.Buffer
	ws.MustWriteFrame(&b, ws.MaskFrameInPlaceWith(f, [4]byte{1, 2, 3, 4}))
	return b.Bytes()
}

func TestFramesThatRFC6455Forbids(t *testing.T) {
	bin := clientFrame(true, ws.OpBinary, []byte("x"))
	set := func(b []byte, i int, v byte) []byte {
		b = bytes.Clone(b)
		b[i] = v
		return b
	}
	for _, tt := range []struct {
		name string
		wire []byte
		err  string
	}{
		{"unmasked", []byte{0x82, 1, 'x'}, "masked: false"},
		{"reserved bit", set(bin, 0, 0xc2), "reserved bits"},
		{"text", set(bin, 0, 0x81), "opcode 1"},
		{"reserved opcode", set(bin, 0, 0x83), "opcode 3"},
		{"continuation of nothing", set(bin, 0, 0x80), "opcode 0"},
		{"a message within a message", append(clientFrame(false, ws.OpBinary, nil), bin...), "opcode 2, inside a message: true"},
		{"fragmented ping", clientFrame(false, ws.OpPing, nil), "control frame of 0 bytes, final: false"},
		{"long ping", []byte{0x89, 0xfe, 0, 126, 0, 0, 0, 0}, "control frame of 126 bytes"},
		{"length beyond 2^63", append([]byte{0x82, 0xff}, bytes.Repeat([]byte{0xff}, 12)...), "beyond 2^63"},
		{"close", clientFrame(true, ws.OpClose, ws.NewCloseFrameBody(1001, "going away")), `closed with 1001 "going away"`},
		{"close without a reason", clientFrame(true, ws.OpClose, nil), "without a reason"},
	} {
		x, peer := pipeWS()
		go peer.Write(tt.wire)
		_, err := io.ReadAll(x)
		if err == nil || !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: Read = %v, want %q", tt.name, err, tt.err)
		}
		peer.Close()
		x.Abort()
	}
}

func TestAFloodOfPingsAllocatesNothing(t *testing.T) {
	if underRace {
		t.Skip("the race detector allocates: run it without -race, as go run ./test/all does")
	}
	ping := clientFrame(true, ws.OpPing, bytes.Repeat([]byte("x"), 125))
	x, peer := pipeWS()
	defer peer.Close()
	defer x.Abort()
	x.SetReadDeadline(time.Unix(1, 0))
	n := testing.AllocsPerRun(100, func() {
		for range 100 {
			peer.Write(ping)
		}
		x.SetReadDeadline(time.Time{})
		for range 100 {
			x.readHeader()
			x.readControl()
		}
	})
	if n > 10 { // for the deadline, and for memnet
		t.Errorf("%v allocations for 100 pings", n)
	}
}

func FuzzWSFrames(f *testing.F) {
	f.Add(clientFrame(true, ws.OpBinary, []byte("an OPEN"))) // a whole OPEN
	f.Add(append(clientFrame(false, ws.OpBinary, []byte("an ")), clientFrame(true, ws.OpContinuation, []byte("OPEN"))...))
	f.Add(clientFrame(true, ws.OpPing, []byte("ping")))
	f.Add(clientFrame(true, ws.OpClose, binary.BigEndian.AppendUint16(nil, 1000)))
	f.Fuzz(func(t *testing.T, b []byte) {
		read := func(r io.Reader) (string, string) {
			w := NewWire(readConn{r: r}, nil)
			got, err := io.ReadAll(NewWS(w, w, false, nil))
			return string(got), fmt.Sprint(err)
		}
		whole, err1 := read(bytes.NewReader(b))
		pieces, err2 := read(iotest.OneByteReader(bytes.NewReader(b)))
		if whole != pieces || err1 != err2 {
			t.Errorf("read %q, %s at once, %q, %s byte by byte", whole, err1, pieces, err2)
		}
		if len(whole) > len(b) {
			t.Errorf("%d bytes of payload in %d", len(whole), len(b))
		}
	})
}

// A readConn is a net.Conn that reads from r.
type readConn struct {
	net.Conn
	r io.Reader
}

func (c readConn) Read(p []byte) (int, error) { return c.r.Read(p) }

// pipeWS returns the gateway's end of a WebSocket, and the connection on which the test acts as the
// client.
func pipeWS() (*WS, *memnet.Conn) {
	a, b := memnet.Pipe(memnet.Addr("agent"), memnet.Addr("gateway"))
	w := NewWire(b, nil)
	return NewWS(w, w, false, nil), a
}
