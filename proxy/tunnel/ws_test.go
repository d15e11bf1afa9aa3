package tunnel

import (
	"bytes"
	"context"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"

	"github.com/culvert-proxy/culvert/proxy/internal/memnet"
	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/exchange"
)

// clientFrame returns a frame as a client sends it.
func clientFrame(fin bool, op ws.OpCode, payload []byte) []byte {
	f := ws.NewFrame(op, fin, bytes.Clone(payload))
	var b bytes.Buffer
	ws.MustWriteFrame(&b, ws.MaskFrameInPlaceWith(f, [4]byte{1, 2, 3, 4}))
	return b.Bytes()
}

// readFrame reads a frame as a client receives it.
func readFrame(r io.Reader) (ws.OpCode, []byte, error) {
	h, err := ws.ReadHeader(r)
	if err != nil {
		return 0, nil, err
	}
	payload := make([]byte, h.Length)
	_, err = io.ReadFull(r, payload)
	return h.OpCode, payload, err
}

// pipeWS returns the gateway's end of a WebSocket, and the connection on which the test acts as the
// client.
func pipeWS() (*exchange.WS, *memnet.Conn) {
	a, b := memnet.Pipe(memnet.Addr("agent"), memnet.Addr("gateway"))
	w := exchange.NewWire(b, nil)
	return exchange.NewWS(w, w, false, nil), a
}

// Fragments, control frames between them, and frames that end anywhere within a capsule all carry
// the same stream.
func TestFramesMayCutCapsulesAnywhere(t *testing.T) {
	capsules := bytes.Join([][]byte{openCapsule, appendCapsule(nil, capsuleData, []byte("hello")), appendCapsule(nil, capsuleFinalData, []byte(" world"))}, nil)
	for size := 1; size <= len(capsules); size++ {
		x, peer := pipeWS()
		c := newServed(x, TransportWS, &defaultTiming, func() {})
		go func() {
			op := ws.OpBinary
			for i := 0; i < len(capsules); i += size {
				end := min(i+size, len(capsules))
				peer.Write(clientFrame(end == len(capsules), op, capsules[i:end]))
				peer.Write(clientFrame(true, ws.OpPing, []byte("are you there")))
				op = ws.OpContinuation
			}
		}()
		go io.Copy(io.Discard, peer)
		if err := c.awaitOpened(nil); err != nil {
			t.Fatalf("frames of %d bytes: %v", size, err)
		}
		if got, err := io.ReadAll(c); string(got) != "hello world" || err != nil {
			t.Fatalf("frames of %d bytes: read %q, %v", size, got, err)
		}
		c.Close()
		peer.Close()
	}
}

// An ingress sends pings, and expects pongs even if the stream is idle.
func TestAPingIsAnsweredByThePongOfTheLatest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, peer := pipeWS()
		c := newServed(x, TransportWS, &defaultTiming, func() {})
		go c.awaitOpened(nil)
		for _, s := range []string{"one", "two"} {
			peer.Write(clientFrame(true, ws.OpPing, []byte(s)))
		}
		op, payload, err := readFrame(peer)
		for err == nil && string(payload) == "one" {
			op, payload, err = readFrame(peer)
		}
		if err != nil || op != ws.OpPong || string(payload) != "two" {
			t.Errorf("got %v %q, %v", op, payload, err)
		}
		c.Close()
	})
}

// Two ends that ping each other and write at once must not wait for each other: a pong never blocks
// a reader.
func TestAFloodOfPingsBlocksNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, peer := pipeWS()
		c := newServed(x, TransportWS, &defaultTiming, func() {})
		done := make(chan error)
		go func() { done <- c.awaitOpened(nil) }()
		ping := clientFrame(true, ws.OpPing, bytes.Repeat([]byte("x"), 125))
		for range 10_000 { // and reads no pong
			peer.Write(ping)
		}
		peer.Write(clientFrame(true, ws.OpBinary, openCapsule))
		if err := <-done; err != nil {
			t.Errorf("after the flood: %v", err)
		}
		c.Close()
	})
}

// Bytes that arrive together with the upgrade request must not be lost.
func TestBytesBehindTheUpgradeAreRead(t *testing.T) {
	r := newRig(t, "plain")
	conn, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	capsules := append(bytes.Clone(openCapsule), appendCapsule(nil, capsuleFinalData, []byte("early"))...)
	io.WriteString(conn, "GET /culvert HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"+
		string(clientFrame(true, ws.OpBinary, capsules)))
	s := <-r.served
	defer close(s.done)
	if got, err := io.ReadAll(s); string(got) != "early" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
}

// One Write of 64 KiB is one frame and, with TLS below, one system call. So is a Bulk of 256 KiB.
func TestAWriteIsOneFrameInOneCall(t *testing.T) {
	for _, kind := range []string{"ws", "plain"} {
		var counted *countingConn
		r := newRig(t, kind, func(r *rig) {
			r.dialer.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
				c, err := new(net.Dialer).DialContext(ctx, network, addr)
				counted = &countingConn{Conn: c}
				return counted, err
			}
		})
		c, s := r.dial()
		before := counted.writes
		want := random(exchange.ChunkSize)
		c.Write(want)
		if n := counted.writes - before; n != 1 {
			t.Errorf("%s: %d calls for a Write of 64 KiB", kind, n)
		}
		got := make([]byte, len(want))
		if _, err := io.ReadFull(s, got); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: read something else, %v", kind, err)
		}
		before = counted.writes
		tryBulk(t, takeBulk(t), c, s)
		if n := counted.writes - before; n != 4 {
			t.Errorf("%s: %d calls for 4 times a Bulk", kind, n)
		}
	}
}

type countingConn struct {
	net.Conn
	writes int
}

func (c *countingConn) Write(p []byte) (int, error) {
	c.writes++
	return c.Conn.Write(p)
}

// A write deadline leaves part of a TLS record unsent. Neither the record nor the stream may break.
func TestAWriteDeadlineDoesNotBreakTLS(t *testing.T) {
	t.Run("straight", func(t *testing.T) { tryWriteDeadlines(t, newRig(t, "ws")) })
	t.Run("through a proxy", func(t *testing.T) {
		server, client := testTLS()
		tryWriteDeadlines(t, newRig(t, "ws", func(r *rig) {
			r.dialer.Proxy, r.dialer.proxyTLS = newTestProxy(t, server, connect).url("https"), client
		}))
	})
}

func tryWriteDeadlines(t *testing.T, r *rig) {
	c, s := r.dial()
	want := random(32 << 20)
	go func() {
		for b := want; len(b) > 0; {
			c.SetWriteDeadline(time.Now().Add(2 * time.Millisecond))
			n, err := writeSome(c, b)
			b = b[n:]
			if err != nil && !exchange.IsTimeout(err) {
				t.Errorf("Write: %v", err)
				return
			}
		}
		for c.SetWriteDeadline(time.Time{}); c.CloseWrite() != nil; {
		}
	}()
	var got bytes.Buffer
	for buf := make([]byte, 100<<10); ; time.Sleep(time.Millisecond) {
		n, err := s.Read(buf)
		got.Write(buf[:n])
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("Read: %v", err)
		}
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("read %d bytes that differ from the %d written", got.Len(), len(want))
	}
}

// writeSome writes some of b, by turns with Write and with WriteBulk.
func writeSome(c *Conn, b []byte) (int, error) {
	if len(b)%2 == 0 {
		return c.Write(b[:min(len(b), 300<<10+1)])
	}
	bulk, ok := NewBulk()
	if !ok { // the race detector has pools lose buffers, which count until they are collected
		return c.Write(b[:min(len(b), exchange.BulkSize)])
	}
	defer bulk.Release()
	return c.WriteBulk(bulk, copy(bulk.Bytes(), b))
}

// A readConn is a net.Conn that reads from r.
type readConn struct {
	net.Conn
	r io.Reader
}

func (c readConn) Read(p []byte) (int, error) { return c.r.Read(p) }
