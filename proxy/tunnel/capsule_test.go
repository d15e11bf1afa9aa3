package tunnel

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/exchange"
)

// A fakeExchange reads bytes that the test has prepared.
type fakeExchange struct {
	exchange.Exchange // nil: a call that the test does not expect panics
	r                 io.Reader
	wait              bool
	sent              bytes.Buffer
	aborted           bool
}

func (x *fakeExchange) Read(p []byte) (int, error) { return x.r.Read(p) }
func (x *fakeExchange) SetWait(wait bool)          { x.wait = wait }
func (x *fakeExchange) OnDirty(func())             {}
func (x *fakeExchange) Dirty() bool                { return false }
func (x *fakeExchange) Flush() error               { return nil }
func (x *fakeExchange) CloseWrite() error          { return nil }
func (x *fakeExchange) Abort()                     { x.aborted = true }
func (x *fakeExchange) LastByte() int64            { return 0 }
func (x *fakeExchange) Write(b []byte) error {
	x.sent.Write(b[exchange.Headroom:])
	return nil
}

// gatewayConn returns the gateway's end of a stream on which in arrives.
func gatewayConn(t testing.TB, in io.Reader) (*Conn, *fakeExchange) {
	x := &fakeExchange{r: in, Exchange: deadlines{}}
	over := make(chan struct{})
	c := newServed(x, TransportWS, &defaultTiming, func() { close(over) })
	t.Cleanup(func() {
		c.Close()
		<-over
	})
	return c, x
}

// deadlines ignores deadlines.
type deadlines struct{ exchange.Exchange }

func (deadlines) SetReadDeadline(time.Time) error  { return nil }
func (deadlines) SetWriteDeadline(time.Time) error { return nil }

var openCapsule = appendCapsule(nil, capsuleOpen, []byte(`{"version":"1.0","target":"bootstrap"}`))

// transfer opens a stream on which r arrives, and reads it to its end.
func transfer(t testing.TB, r io.Reader) (data []byte, err error, sent []byte) {
	c, x := gatewayConn(t, r)
	for {
		err := c.awaitOpened(nil)
		if err == nil {
			break
		}
		if !exchange.IsTimeout(err) {
			return nil, err, x.sent.Bytes()
		}
	}
	data, err = io.ReadAll(retrier{c})
	return data, err, x.sent.Bytes()
}

// A retrier repeats Reads that time out.
type retrier struct{ io.Reader }

func (r retrier) Read(p []byte) (n int, err error) {
	for {
		if n, err = r.Reader.Read(p); !exchange.IsTimeout(err) {
			return n, err
		}
	}
}

func TestCapsules(t *testing.T) {
	cat := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	data := func(s string) []byte { return appendCapsule(nil, capsuleData, []byte(s)) }
	final := func(s string) []byte { return appendCapsule(nil, capsuleFinalData, []byte(s)) }
	for _, tt := range []struct {
		name string
		wire []byte
		want string
		err  string // "" for EOF
	}{
		{"data", cat(openCapsule, data("ab"), data("c"), final("")), "abc", ""},
		{"final data with bytes", cat(openCapsule, data("ab"), final("cd")), "abcd", ""},
		{"what follows final data is not looked at", cat(openCapsule, final("x"), data("late"), []byte{0x21, 0}), "x", ""},
		{"empty data", cat(openCapsule, data(""), data("a"), data(""), final("")), "a", ""},
		{"keepalives, also before OPEN, also with a value", cat([]byte{2, 0}, openCapsule, []byte{2, 3, 9, 9, 9}, data("a"), []byte{2, 0}, final("")), "a", ""},
		{"long forms", cat(openCapsule, []byte{0xc0, 0, 0, 0, 0, 0, 0, 1, 0x80, 0, 0, 2}, []byte("ab"), final("")), "ab", ""},
		{"unknown even", cat(openCapsule, []byte{0x40, 0x40, 2, 8, 8}, data("a"), final("")), "a", ""},
		{"unknown even, first", cat([]byte{0x0a, 2, 8, 8}, openCapsule, data("a"), final("")), "a", ""},
		{"a ticket to a gateway is skipped", cat(openCapsule, []byte{4, 2, '{', '}'}, data("a"), final("")), "a", ""},
		{"unknown odd", cat(openCapsule, data("a"), []byte{0x21, 0}, data("b")), "a", `protocol: unknown capsule type 0x21 must not be ignored: this end speaks version 1.0 of the tunnel, the other end 1.0`},
		{"unknown odd, before OPEN", []byte{0x21, 0}, "", "the other end unknown"},
		{"error", cat(openCapsule, data("a"), appendCapsule(nil, capsuleError, []byte(`{"code":"client","message":"reset"}`))), "a", "client: reset"},
		{"error before OPEN", appendCapsule(nil, capsuleError, []byte(`{"code":"client","message":"gone"}`)), "", "client: gone"},
		{"error that is none", cat(openCapsule, appendCapsule(nil, capsuleError, []byte(`[]`))), "", "protocol: decode ERROR"},
		{"no open", data("a"), "", "protocol: DATA before OPEN"},
		{"open twice", cat(openCapsule, openCapsule), "", "protocol: unexpected OPEN"},
		{"opened to a gateway", cat(openCapsule, []byte{7, 2, '{', '}'}), "", "protocol: unexpected OPENED"},
		{"open is no JSON", []byte{5, 1, '{'}, "", "protocol: decode OPEN"},
		{"open too long", []byte{5, 0x80, 0, 0x40, 1}, "", "protocol: OPEN of 16385 bytes exceeds the limit of 16384"},
		{"open of 2^62-1 bytes", append([]byte{5}, bytes.Repeat([]byte{0xff}, 8)...), "", "exceeds the limit"},
		{"newer minor version", cat(appendCapsule(nil, capsuleOpen, []byte(`{"version":"1.1","target":"x","new":[1]}`)), data("a"), final("")), "a", ""},
		{"version too new", appendCapsule(nil, capsuleOpen, []byte(`{"version":"1.2"}`)), "", `version: this end speaks version 1.0 of the tunnel, plus or minus one minor version; the other end speaks "1.2"`},
		{"another major version", appendCapsule(nil, capsuleOpen, []byte(`{"version":"2.0"}`)), "", `"2.0"`},
		{"no version", appendCapsule(nil, capsuleOpen, []byte(`{}`)), "", `the other end speaks ""`},
		{"cut", cat(openCapsule, data("a")), "a", "stream cut"},
		{"cut in data of 2^62-1 bytes", cat(openCapsule, append([]byte{1}, bytes.Repeat([]byte{0xff}, 8)...), []byte("abc")), "abc", "stream cut"},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) {
			for name, r := range map[string]io.Reader{"whole": bytes.NewReader(tt.wire), "by byte": iotest.OneByteReader(bytes.NewReader(tt.wire)), "with timeouts": &stutter{b: tt.wire}} {
				got, err, sent := transfer(t, r)
				if string(got) != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
					t.Errorf("%s: read %q, %v, want %q, %s", name, got, err, tt.want, tt.err)
				}
				if e, ok := errors.AsType[*Error](err); ok && e.Code == CodeProtocol && !bytes.Contains(sent, []byte(e.Message[:10])) {
					t.Errorf("%s: the peer received %q, want the ERROR %v", name, sent, e)
				}
			}
		})
	}
}

// A stutter returns its bytes one by one, with a timeout before each.
type stutter struct {
	b    []byte
	turn bool
}

func (s *stutter) Read(p []byte) (int, error) {
	if s.turn = !s.turn; s.turn && len(s.b) > 0 {
		return 0, os.ErrDeadlineExceeded
	}
	if len(s.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:1], s.b)
	s.b = s.b[n:]
	return n, nil
}

// A stream that ends anywhere before FINAL_DATA is cut, and what came before has been read.
func TestTruncationAtEveryByteIsACut(t *testing.T) {
	wire := bytes.Join([][]byte{openCapsule, appendCapsule(nil, capsuleData, []byte("hello")), {2, 0}, appendCapsule(nil, 0x40, []byte("skip")), appendCapsule(nil, capsuleFinalData, []byte("!"))}, nil)
	for n := range wire {
		got, err, _ := transfer(t, bytes.NewReader(wire[:n]))
		if !errors.Is(err, ErrCut) || !strings.HasPrefix("hello!", string(got)) {
			t.Errorf("of %d bytes: read %q, %v", n, got, err)
		}
	}
	if got, err, _ := transfer(t, bytes.NewReader(wire)); string(got) != "hello!" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
}

// Many errors claim to be timeouts, but only after a deadline can a stream be read again. A reader
// that took the end of a carrier for a deadline would read for ever.
func TestTheEndOfACarrierIsNoDeadline(t *testing.T) {
	for _, end := range []error{
		&quic.IdleTimeoutError{}, &quic.HandshakeTimeoutError{}, context.DeadlineExceeded,
		&net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ETIMEDOUT)},
	} {
		c := agentConn(t, io.MultiReader(bytes.NewReader(appendCapsule(nil, capsuleOpened, []byte(`{"version":"1.0"}`))), iotest.ErrReader(end)))
		for range 2 {
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, ErrCut) {
				t.Errorf("Read = %v after %T, want ErrCut", err, end)
			}
		}
	}
}

// The stream is the same however its bytes are split, and what was read, written again as capsules,
// reads the same.
func FuzzCapsules(f *testing.F) {
	f.Add(openCapsule)                                                                              // opened, and cut
	f.Add(append(bytes.Clone(openCapsule), 1, 2, 'a', 'b', 3, 0))                                   // DATA, FINAL_DATA
	f.Add(append(bytes.Clone(openCapsule), 2, 0, 0x40, 0x40, 1, 'x', 3, 1, 'c'))                    // KEEPALIVE, an unknown even type
	f.Add(append(bytes.Clone(openCapsule), 0x21, 0))                                                // an unknown odd type
	f.Add(append(bytes.Clone(openCapsule), appendCapsule(nil, capsuleError, []byte(`{}`))...))      // ERROR
	f.Add(append(bytes.Clone(openCapsule), 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 'x')) // DATA of 2^62-1 bytes
	f.Fuzz(func(t *testing.T, wire []byte) {
		got, err, _ := transfer(t, bytes.NewReader(wire))
		bytewise, err2, _ := transfer(t, iotest.OneByteReader(bytes.NewReader(wire)))
		stuttered, err3, _ := transfer(t, &stutter{b: wire})
		if !bytes.Equal(got, bytewise) || !bytes.Equal(got, stuttered) {
			t.Errorf("read %q at once, %q byte by byte, %q with timeouts", got, bytewise, stuttered)
		}
		if text(err) != text(err2) || text(err) != text(err3) {
			t.Errorf("%v at once, %v byte by byte, %v with timeouts", err, err2, err3)
		}
		again := append(bytes.Clone(openCapsule), appendCapsule(nil, capsuleFinalData, got)...)
		if reread, err, _ := transfer(t, bytes.NewReader(again)); err != nil || !bytes.Equal(reread, got) {
			t.Errorf("read %q, %v, of capsules with %q", reread, err, got)
		}
	})
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// Whatever answers a hello, it passes for a gateway only if it echoes all bytes and then ends.
func FuzzHello(f *testing.F) {
	opened := appendCapsule(nil, capsuleOpened, []byte(`{"version":"1.0"}`))
	echoed := make([]byte, helloSize)
	rand.NewChaCha8([32]byte{1}).Read(echoed)
	good := append(appendCapsule(bytes.Clone(opened), capsuleData, echoed), byte(capsuleFinalData), 0)
	f.Add(good)
	f.Add(good[:len(good)-2])
	f.Add(opened)
	f.Add(append(bytes.Clone(opened), appendCapsule(nil, capsuleTicket, []byte(`{"address":"x"}`))...))
	f.Add([]byte("HTTP/1.1 200 OK\r\n\r\n<html>"))
	f.Fuzz(func(t *testing.T, wire []byte) {
		_, err := echo(agentConn(t, bytes.NewReader(wire)))
		got, readErr := io.ReadAll(agentConn(t, bytes.NewReader(wire)))
		if is := readErr == nil && bytes.Equal(got, echoed); (err == nil) != is {
			t.Errorf("echo = %v of %d bytes, %v", err, len(got), readErr)
		}
	})
}
