package leak

import (
	"bytes"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
)

const name = "kafka.internal.invalid"

func TestScannerFindsANameAtEveryCut(t *testing.T) {
	text := append(bytes.Repeat([]byte{0, 1, 2}, 200), "\x00\x25broker-1."+name+"\x00\x00#\x84"...)
	want := int64(bytes.Index(text, []byte(name)))
	for cut := range len(text) {
		r := New(name)
		s := r.scanner("here")
		s.Write(text[:cut])
		s.Write(text[cut:])
		leaks := r.Take()
		if len(leaks) != 1 || leaks[0].Offset != want || !bytes.HasSuffix(leaks[0].Before, []byte("broker-1.")) {
			t.Fatalf("cut at %d: leaks %v, want one at %d", cut, leaks, want)
		}
	}
}

func TestScannerFindsANameThatComesByteByByte(t *testing.T) {
	r := New("elsewhere", name)
	s := r.scanner("here")
	for _, b := range []byte("xx" + name + name + "yy") {
		s.Write([]byte{b})
	}
	if leaks := r.Take(); len(leaks) != 2 {
		t.Fatalf("leaks %v, want two", leaks)
	}
}

// serve relays to a server that handles one connection, and dials the relay.
func serve(t *testing.T, r *Relay, handle func(*net.TCPConn)) *net.TCPConn {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		if c, err := l.Accept(); err == nil {
			handle(c.(*net.TCPConn))
		}
	}()
	if err := r.Listen("127.0.0.1:0", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	c, err := net.Dial("tcp", r.listeners[0].Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

func TestRelayScansOneDirectionAndPassesTheEnd(t *testing.T) {
	r := New(name)
	c := serve(t, r, func(s *net.TCPConn) {
		request, _ := io.ReadAll(s)
		s.Write(request)
		s.Close()
	})
	io.WriteString(c, name)
	if leaks := r.Take(); len(leaks) != 0 {
		t.Errorf("a name that the client sent was reported: %v", leaks)
	}
	c.CloseWrite()
	if got, err := io.ReadAll(c); err != nil || string(got) != name {
		t.Errorf("read %q, %v", got, err)
	}
	if leaks := r.Take(); len(leaks) != 1 {
		t.Errorf("leaks %v, want one", leaks)
	}
	if r.Sent() != int64(len(name)) {
		t.Errorf("Sent = %d", r.Sent())
	}
}

func TestRelayPassesAReset(t *testing.T) {
	c := serve(t, New(name), func(s *net.TCPConn) {
		io.ReadFull(s, make([]byte, 1))
		reset(s)
	})
	c.Write([]byte{1})
	if _, err := io.ReadAll(c); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read ended with %v, want a reset", err)
	}
}
