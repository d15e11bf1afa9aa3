package tunnel

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/quic-go/quic-go/quicvarint"

	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/exchange"
)

// heard collects what TIMES say, by key.
type heard struct {
	mu   sync.Mutex
	sums map[int16]Times
	n    int // calls
}

func (h *heard) hear(t Times) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.sums == nil {
		h.sums = make(map[int16]Times)
	}
	s := h.sums[t.Key]
	h.sums[t.Key] = Times{t.Key, s.Count + t.Count, s.Sum + t.Sum}
	h.n++
}

func (h *heard) of(key int16) Times {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.sums[key]
}

// dialTimed opens a stream that asks for TIMES, and returns what is heard on it.
func (r *rig) dialTimed() (*Conn, *served, *heard) {
	r.t.Helper()
	c, err := r.dialer.Dial(r.t.Context(), Open{Target: TargetBootstrap, Features: []string{FeatureTimes}}, nil)
	if err != nil {
		r.t.Fatalf("Dial: %v", err)
	}
	h := new(heard)
	c.OnTimes(h.hear)
	s := <-r.served
	r.t.Cleanup(func() { c.Close(); s.returned() })
	return c, s, h
}

// Whatever was added has been told when the stream ends, by a FIN or by a reset, exactly.
func TestTimesAreToldBeforeTheEndOfAStream(t *testing.T) {
	forEachKind(t, func(t *testing.T, r *rig) {
		for _, end := range []string{"FIN", "reset"} {
			c, s, h := r.dialTimed()
			if o, err := c.Opened(t.Context()); err != nil || !slices.Contains(o.Features, FeatureTimes) {
				t.Fatalf("OPENED: %+v, %v", o, err)
			}
			s.AddTime(0, 3*time.Millisecond+7)
			s.AddTime(0, 2*time.Millisecond)
			s.AddTime(-1, 5*time.Nanosecond)
			s.Write([]byte("x"))
			s.AddTime(0, time.Hour)
			if end == "FIN" {
				s.CloseWrite()
			} else {
				s.Reset(&Error{Code: CodeBroker, Message: "gone"})
			}
			if got, _ := io.ReadAll(c); string(got) != "x" {
				t.Errorf("%s: read %q", end, got)
			}
			want := map[int16]Times{0: {0, 3, time.Hour + 5*time.Millisecond + 7}, -1: {-1, 1, 5}}
			if diff := cmp.Diff(want, h.sums); diff != "" {
				t.Errorf("%s: told (-want +got):\n%s", end, diff)
			}
		}
	})
}

// While a stream is open, what was added is told within a second, with the bytes of a Write if there
// are some; and then nothing runs for it until the next KEEPALIVE.
func TestTimesAreToldWithinASecond(t *testing.T) {
	inBubbles(t, func(t *testing.T, r *rig) {
		c, s, h := r.dialTimed()
		var reading sync.WaitGroup
		reading.Go(func() { io.Copy(io.Discard, c) })
		want := func(when string, n uint64) {
			t.Helper()
			if got := h.of(3).Count; got != n {
				t.Errorf("%s: %d were told, want %d", when, got, n)
			}
		}
		add := func() { s.AddTime(3, time.Second) }
		pause := func(d time.Duration) { time.Sleep(d + time.Millisecond) } // the millisecond is the network's

		add()
		s.Write([]byte("young"))
		pause(0)
		want("with the first write of a new stream", 0)
		pause(time.Second)
		want("a second after the start", 1)

		pause(time.Minute)
		add()
		s.Write([]byte("idle"))
		pause(0)
		want("with a write, after a long time", 2)

		add()
		s.Write([]byte("busy"))
		pause(200 * time.Millisecond)
		want("soon after the last", 2)
		pause(400 * time.Millisecond)
		s.Write([]byte("later"))
		pause(0)
		want("with a write, half a second after the last", 3)

		add()
		pause(990 * time.Millisecond)
		want("less than a second after the last", 3)
		pause(20 * time.Millisecond)
		want("a second after the last", 4)
		if h.n != 4 {
			t.Errorf("%d TIMES were sent, want 4", h.n)
		}

		pause(2 * time.Second)
		s.ending.mu.Lock()
		wake, keepalive := s.ending.wake, s.writing.last.Load()+int64(s.t.keepalive)
		s.ending.mu.Unlock()
		if wake != keepalive {
			t.Errorf("the timer of an idle stream runs %v before its KEEPALIVE", time.Duration(keepalive-wake))
		}
		s.CloseWrite()
		reading.Wait()
	})
}

// Something that waits to be told does not put off a KEEPALIVE.
func TestTimesDoNotDelayKeepalives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _ := newMemRig(t, func(r *rig) { r.server.timing, r.server.timing.times = defaultTiming, time.Hour })
		_, s, h := r.dialTimed()
		for range 100 {
			s.AddTime(1, time.Millisecond)
			time.Sleep(300 * time.Millisecond)
			if silent := exchange.Clock() - s.writing.last.Load(); silent > int64(s.t.keepalive) {
				t.Fatalf("nothing was sent for %v", time.Duration(silent))
			}
		}
		if h.n > 0 {
			t.Errorf("%d TIMES were sent", h.n)
		}
	})
}

// An end that does not know TIMES neither gets them nor sends them.
func TestTimesAreSentOnlyToWhomAsks(t *testing.T) {
	wire := append(bytes.Clone(openCapsule), appendCapsule(nil, capsuleFinalData, nil)...)
	c, x := gatewayConn(t, bytes.NewReader(wire))
	if err := (&streamServer{t: defaultTiming}).awaitAndAnswer(c); err != nil {
		t.Fatal(err)
	}
	sent := x.sent.Len()
	c.AddTime(0, time.Second)
	c.CloseWrite()
	if got := x.sent.Bytes(); bytes.Contains(got, []byte("features")) || len(got) != sent+2 {
		t.Errorf("sent: %q", got)
	}

	told := appendCapsule(appendCapsule(nil, capsuleOpened, []byte(`{"version":"1.0"}`)), capsuleTimes, []byte{0, 1, 9})
	agent := agentConn(t, bytes.NewReader(append(told, appendCapsule(nil, capsuleFinalData, []byte("x"))...)))
	if got, err := io.ReadAll(agent); string(got) != "x" || err != nil {
		t.Errorf("an agent that has not asked reads %q, %v", got, err)
	}
	gateway, _ := gatewayConn(t, bytes.NewReader(append(appendCapsule(bytes.Clone(openCapsule), capsuleTimes, []byte{0, 1, 9}), wire[len(openCapsule):]...)))
	if got, err := io.ReadAll(gateway); len(got) != 0 || err != nil {
		t.Errorf("a gateway reads %q, %v", got, err)
	}
}

// awaitAndAnswer is what serveStream does first.
func (s *streamServer) awaitAndAnswer(c *Conn) error {
	if err := c.awaitOpened(nil); err != nil {
		return err
	}
	return s.answer(c)
}

// timesOf returns the value of a TIMES.
func timesOf(numbers ...uint64) (b []byte) {
	for _, n := range numbers {
		b = quicvarint.Append(b, n)
	}
	return b
}

// A gateway cannot make an agent hold or count more than the bounds, and the stream goes on.
func TestTimesThatCannotBeAreIgnored(t *testing.T) {
	var many, most []byte
	for key := range uint64(maxTimes + 1) {
		if key < maxTimes {
			most = append(most, timesOf(1<<16-1-key, maxCount, maxCount*uint64(maxTook))...)
		}
		many = append(many, timesOf(key, 1, 1)...)
	}
	for _, tt := range []struct {
		name  string
		value []byte
		want  int // calls
	}{
		{"one", timesOf(17, 2, 3), 1},
		{"none", nil, 0},
		{"all that may be", most, maxTimes},
		{"too many", many, 0},
		{"a key beyond 16 bits", timesOf(1<<16, 1, 1), 0},
		{"a count of 0", timesOf(0, 0, 0), 0},
		{"too large a count", timesOf(0, maxCount+1, 1), 0},
		{"too large a sum", timesOf(0, 2, 2*uint64(maxTook)+1), 0},
		{"the largest numbers", timesOf(1<<62-1, 1<<62-1, 1<<62-1), 0},
		{"a good one before a bad one", timesOf(0, 1, 1, 0, 0, 0), 0},
		{"cut in a number", []byte{0, 1, 0x80}, 0},
		{"cut between numbers", []byte{0, 1}, 0},
		{"too long", make([]byte, maxTimesSize+1), 0},
		{"much too long", make([]byte, 1<<20), 0},
	} {
		wire := appendCapsule(appendCapsule(nil, capsuleOpened, []byte(`{"version":"1.0"}`)), capsuleTimes, tt.value)
		c := agentConn(t, &stutter{b: append(wire, appendCapsule(nil, capsuleFinalData, []byte("on"))...)})
		var h heard
		c.OnTimes(h.hear)
		if got, err := io.ReadAll(retrier{c}); string(got) != "on" || err != nil {
			t.Errorf("%s: read %q, %v", tt.name, got, err)
		}
		if h.n != tt.want {
			t.Errorf("%s: %d were passed on, want %d", tt.name, h.n, tt.want)
		}
		if held := cap(c.reading.dec.value); held > 0 {
			t.Errorf("%s: %d bytes are held", tt.name, held)
		}
	}
	c := agentConn(t, bytes.NewReader(appendCapsule(nil, capsuleTimes, nil)))
	c.OnTimes(func(Times) {})
	if _, err := c.Opened(context.Background()); text(err) != "protocol: TIMES before OPENED" {
		t.Errorf("before OPENED: %v", err)
	}
}

// What the gateway's end holds is bounded, and can always be told.
func TestTimesAreBoundedWhereTheyAreMeasured(t *testing.T) {
	var o timesOut
	for range 100_000 {
		o.add(int16(rand.N(1<<16)-1<<15), maxTook)
	}
	if len(o.sums) != maxTimes {
		t.Errorf("%d kinds are held, want %d", len(o.sums), maxTimes)
	}
	o.sums[0].Count, o.sums[0].Sum = maxCount, maxCount*maxTook
	o.add(o.sums[0].Key, maxTook)
	b := o.take(nil)
	if len(b) > timesRoom {
		t.Errorf("TIMES has %d bytes, want %d at most", len(b), timesRoom)
	}
	_, n, _ := quicvarint.Parse(b[1:])
	if sums, ok := decodeTimes(b[1+n:]); !ok || len(sums) != maxTimes {
		t.Errorf("decoded: %d, %t", len(sums), ok)
	}
}

// AddTime is called for each Kafka request.
func TestAddTimeAllocatesNothing(t *testing.T) {
	c, x := gatewayConn(t, bytes.NewReader(nil))
	c.times.wanted = true
	c.t.times = 0 // each write tells
	x.sent.Grow(1 << 20)
	c.AddTime(1, time.Second)
	data := make([]byte, 100)
	if n := testing.AllocsPerRun(1000, func() {
		c.AddTime(0, time.Millisecond)
		c.AddTime(1, time.Millisecond)
		c.Write(data)
	}); n >= 1 && !underRace {
		t.Errorf("%v allocations", n)
	}
}

// Of any value, what is passed on is within the bounds, and says again the same when it is encoded.
func FuzzTimes(f *testing.F) {
	f.Add(timesOf(0, 1, 1_000_000))
	f.Add(timesOf(65535, 1<<24, 1<<40, 1, 1, 0))
	f.Add(timesOf(0, 0, 0))
	f.Add([]byte{0x40, 0, 0x40, 1, 0xc0})
	f.Fuzz(func(t *testing.T, value []byte) {
		sums, ok := decodeTimes(value)
		if !ok {
			if sums != nil {
				t.Errorf("%v of what cannot be", sums)
			}
			return
		}
		o := timesOut{sums: slices.Clone(sums)}
		for _, s := range sums {
			if s.Count == 0 || s.Count > maxCount || s.Sum < 0 || s.Sum/maxTook > time.Duration(s.Count) {
				t.Errorf("%+v is beyond the bounds", s)
			}
		}
		b := o.take(nil)
		_, n, err := quicvarint.Parse(b[1:])
		again, ok := decodeTimes(b[1+n:])
		if err != nil || !ok || !slices.Equal(again, sums) || len(sums) > maxTimes {
			t.Errorf("%v was encoded, and %v decoded, %t, %v", sums, again, ok, err)
		}
	})
}
