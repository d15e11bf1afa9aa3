package tunnel

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/exchange"
)

var kinds = []string{"ws", "plain", "h3", "h3post", "h2", "h2c"}

func forEachKind(t *testing.T, f func(t *testing.T, r *rig), adapt ...func(*rig)) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) { f(t, newRig(t, kind, adapt...)) })
	}
}

// A finisher closes as TCP does, because nettest takes what is closed for complete. Close of a Conn
// alone would be a cut.
type finisher struct{ *Conn }

func (f finisher) Close() error {
	f.CloseWrite()
	f.Conn.Close() // the test may be over as soon as the other end has read the end
	return nil
}

func TestConnIsANetConn(t *testing.T) {
	forEachKind(t, func(t *testing.T, r *rig) {
		nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
			c, s := r.dial()
			return finisher{c}, finisher{s.Conn}, func() { c.Close(); s.Conn.Close() }, nil
		})
	})
}

func TestHalfCloseEachWay(t *testing.T) {
	forEachKind(t, func(t *testing.T, r *rig) {
		c, s := r.dial()
		for _, ends := range [][2]*Conn{{c, s.Conn}, {s.Conn, c}} {
			from, to := ends[0], ends[1]
			io.WriteString(from, "the last words")
			if err := from.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(to); err != nil || string(got) != "the last words" {
				t.Errorf("ReadAll = %q, %v", got, err)
			}
			if _, err := from.Write([]byte("x")); err != errWriteClosed {
				t.Errorf("Write after CloseWrite: %v", err)
			}
		}
	})
}

func TestResetComesBehindTheBytes(t *testing.T) {
	forEachKind(t, func(t *testing.T, r *rig) {
		c, s := r.dial()
		for _, ends := range [][2]*Conn{{c, s.Conn}, {s.Conn, c}} {
			_ = ends
		}
		want := random(1 << 20)
		go func() {
			s.Write(want)
			s.Reset(&Error{Code: CodeBroker, Message: "connection reset by broker"})
		}()
		got, err := io.ReadAll(c)
		if !bytes.Equal(got, want) {
			t.Errorf("read %d bytes before the reset, want %d", len(got), len(want))
		}
		e, ok := errors.AsType[*Error](err)
		if !ok || e.Code != CodeBroker || e.Message != "connection reset by broker" {
			t.Errorf("Read = %v, want the ERROR", err)
		}
		if _, err := c.Write([]byte("x")); err != error(e) {
			t.Errorf("Write after the peer's reset: %v, want the ERROR", err)
		}
		if _, err := s.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Read after Reset: %v", err)
		}
	})
}

func TestResetByTheDiallingEnd(t *testing.T) {
	forEachKind(t, func(t *testing.T, r *rig) {
		c, s := r.dial()
		io.WriteString(c, "acks=0")
		c.Reset(&Error{Code: CodeClient, Message: "connection reset by client"})
		got, err := io.ReadAll(s)
		if e, ok := errors.AsType[*Error](err); !ok || e.Code != CodeClient || string(got) != "acks=0" {
			t.Errorf("ReadAll = %q, %v", got, err)
		}
	})
}

func TestCloseAloneIsACut(t *testing.T) {
	forEachKind(t, func(t *testing.T, r *rig) {
		c, s := r.dial()
		io.WriteString(s, "incomplete")
		s.finish()
		_, err := io.ReadAll(c)
		if !errors.Is(err, ErrCut) || !errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
			t.Errorf("Read after the peer's Close: %v, want ErrCut", err)
		}
	})
}

// What is closed in good order arrives, although the peer continues to write and the closing end
// reads none of that.
func TestCloseAfterCloseWriteLosesNothing(t *testing.T) {
	forEachKind(t, func(t *testing.T, r *rig) {
		c, s := r.dial()
		want := random(3 << 20)
		go func() {
			s.Write(want)
			s.CloseWrite()
			s.finish()
		}()
		for range 10 {
			c.Write(make([]byte, 1000))
			time.Sleep(time.Millisecond)
		}
		got, err := io.ReadAll(c)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("read %d bytes, %v, want %d", len(got), err, len(want))
		}
	})
}

func TestAWriterBlocksWhenNobodyReads(t *testing.T) {
	forEachKind(t, func(t *testing.T, r *rig) {
		c, _ := r.dial()
		c.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
		n, err := c.Write(make([]byte, 64<<20))
		if !exchange.IsTimeout(err) || n > 16<<20 {
			t.Errorf("Write without a reader = %d, %v, want a timeout within 16 MiB", n, err)
		}
	})
}

func TestHello(t *testing.T) {
	tickets := []Ticket{{ClusterID: "c", NodeID: 1, Address: "kafka-1:9092", Expires: 7, MAC: []byte{1, 2}}, {NodeID: 2}}
	for _, kind := range kinds {
		r := newRig(t, kind, func(r *rig) { r.server.Tickets = func() []Ticket { return tickets } })
		o, err := r.dialer.Hello(t.Context())
		got := o.Tickets
		if err != nil || o.Gateway != "test" || o.Version != Version || len(o.Reviewed) != 1 {
			t.Errorf("%s: Hello = %+v, %v", kind, o, err)
		}
		if len(got) != 2 || got[0].Address != "kafka-1:9092" || got[1].NodeID != 2 {
			t.Errorf("%s: tickets = %+v", kind, got)
		}
	}
}

func TestTicketsComeBeforeTheBytesBehindThem(t *testing.T) {
	forEachKind(t, func(t *testing.T, r *rig) {
		c, s := r.dial()
		var seen []int32
		c.OnTicket(func(t Ticket) { seen = append(seen, t.NodeID) })
		for i := range int32(3) {
			s.SendTicket(Ticket{NodeID: i})
			io.WriteString(s, "x")
		}
		buf := make([]byte, 1)
		for i := range 3 {
			if _, err := io.ReadFull(c, buf); err != nil || len(seen) <= i {
				t.Fatalf("byte %d: %v, tickets %v", i, err, seen)
			}
		}
	})
}

func TestOpenedMayTimeOutAndBeAskedAgain(t *testing.T) {
	forEachKind(t, func(t *testing.T, r *rig) {
		c := r.unopened(Open{Target: "kafka-0:9092", Ticket: &Ticket{NodeID: 5}})
		done, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := c.Opened(done); !errors.Is(err, context.Canceled) {
			t.Errorf("Opened(done) = %v", err)
		}
		if o, err := c.Opened(t.Context()); err != nil || o.Gateway != "test" {
			t.Errorf("Opened = %v, %v", o, err)
		}
		s := <-r.served
		defer close(s.done)
		if s.open.Target != "kafka-0:9092" || s.open.Ticket.NodeID != 5 || s.open.Version != Version {
			t.Errorf("open = %+v", s.open)
		}
	})
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(n)}).Read(b)
	return b
}
