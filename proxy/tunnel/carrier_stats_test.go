package tunnel

import (
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"
)

// statsOf returns what is known of a transport.
func statsOf(all []CarrierStats, transport string) CarrierStats {
	for _, c := range all {
		if c.Transport == transport {
			return c
		}
	}
	return CarrierStats{}
}

// eventually reports whether ok becomes true within ten seconds.
func eventually(ok func() bool) bool {
	for by := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(by) {
			return false
		}
	}
	return true
}

// exchanges measures exchanges over a stream, which ends with requests that stay without an answer
// for longer than acknowledgements are delayed. Two exchanges in a row are no shorter than a round
// trip of the carrier, for either end: what one end sends acknowledges what it has received. It
// returns the shortest two.
func exchanges(t *testing.T, c, s io.ReadWriter) (shortest time.Duration) {
	t.Helper()
	b := make([]byte, 1)
	pass := func(from, to io.ReadWriter) {
		t.Helper()
		if _, err := from.Write(b); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(to, b); err != nil {
			t.Fatal(err)
		}
	}
	for range 20 {
		start := time.Now()
		for range 2 {
			pass(c, s)
			pass(s, c)
		}
		if took := time.Since(start); shortest == 0 || took < shortest {
			shortest = took
		}
	}
	for range 10 {
		pass(c, s)
		time.Sleep(50 * time.Millisecond)
		pass(s, c)
		time.Sleep(50 * time.Millisecond)
	}
	return shortest
}

// nearest is the shortest round trip of the carriers that are open.
func nearest(n *linkCounts) time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	shortest := time.Duration(math.MaxInt64)
	for l := range n.open {
		if rtt := l.traffic(traffic{}).rtt; rtt > 0 {
			shortest = min(shortest, rtt)
		}
	}
	return shortest
}

// Both ends tell of the connections that carry streams over each transport, and what those have
// sent stays counted when they have ended.
func TestCarriersTellWhatTheySendAndHowFarItIs(t *testing.T) {
	forEachKind(t, func(t *testing.T, r *rig) {
		c, s := r.dial()
		over := c.Transport()
		exchanged := exchanges(t, c, s)
		knows := runtime.GOOS == "linux" || over == TransportH3
		ends := map[string]func() []CarrierStats{"agent": r.dialer.CarrierStats, "gateway": r.server.CarrierStats}
		links := map[string]*linkCounts{"agent": &r.dialer.route.links, "gateway": &r.server.links}
		before := map[string]CarrierStats{}
		for end, ask := range ends {
			var got CarrierStats
			if !eventually(func() bool { // the stream of the hello is over
				got = statsOf(ask(), over)
				return got.Streams == 1 && (got.RTT > 0 || !knows)
			}) || got.Carriers == 0 {
				t.Errorf("%s: %+v, want a stream on a carrier", end, got)
			}
			if knows && (got.RTT <= 0 || got.RTT > got.MaxRTT || got.Measured != got.Carriers || got.Sent < 2) {
				t.Errorf("%s: %+v", end, got)
			}
			if near := nearest(links[end]); knows && near > exchanged {
				t.Errorf("%s: no carrier's round trip is below %v, and an exchange took %v", end, near, exchanged)
			}
			if n := len(ask()); n != 1 {
				t.Errorf("%s: %d transports, want 1", end, n)
			}
			before[end] = got
		}
		c.Close()
		s.returned()
		r.dialer.Close()
		for end, ask := range ends {
			var got CarrierStats
			if !eventually(func() bool { got = statsOf(ask(), over); return got.Carriers == 0 && got.Streams == 0 }) {
				t.Errorf("%s: %+v after the end of all", end, got)
			}
			if got.Sent < before[end].Sent || got.Lost < before[end].Lost || got.RTT != 0 {
				t.Errorf("%s: %+v after the end, %+v before", end, got, before[end])
			}
		}
	})
}

// A spare is a carrier, and no stream.
func TestASpareIsNoStream(t *testing.T) {
	r := newRig(t, "ws")
	r.dialer.SetSpares(3)
	for end, ask := range map[string]func() []CarrierStats{"agent": r.dialer.CarrierStats, "gateway": r.server.CarrierStats} {
		if got := (CarrierStats{}); !eventually(func() bool { got = statsOf(ask(), TransportWS); return got.Carriers == 3 && got.Streams == 0 }) {
			t.Errorf("%s: %+v, want three carriers", end, got)
		}
	}
}

// Whoever has not authenticated is no carrier, and leaves nothing behind.
func TestStrangersAreNoCarriers(t *testing.T) {
	forEachKind(t, func(t *testing.T, r *rig) {
		if c, err := r.dialer.Dial(t.Context(), Open{Target: TargetBootstrap}, nil); err == nil {
			c.Close()
			t.Fatal("the stranger was let in")
		}
		if got := r.server.CarrierStats(); len(got) > 0 {
			t.Errorf("%+v", got)
		}
	}, lettingNobodyIn)
}

// lettingNobodyIn makes the gateway refuse all agents.
func lettingNobodyIn(r *rig) {
	r.server.Authenticate = func(*http.Request) (string, error) { return "", errors.New("no") }
}

// fakeLink tells what a test says.
type fakeLink struct{ now traffic }

func (l *fakeLink) traffic(traffic) traffic { return l.now }

func TestWhatHasEndedStaysCounted(t *testing.T) {
	var n linkCounts
	near, far := &fakeLink{traffic{10 * time.Millisecond, 100, 1}}, &fakeLink{traffic{30 * time.Millisecond, 10, 2}}
	unknown := &fakeLink{traffic{0, 1, 0}}
	for _, l := range []link{near, far, unknown, near} {
		n.add(TransportH3, l)
	}
	want := func(c CarrierStats) {
		t.Helper()
		if got := n.stats(nil); !slices.Equal(got, []CarrierStats{c}) {
			t.Errorf("%+v, want %+v", got, c)
		}
	}
	want(CarrierStats{TransportH3, 3, 2, 0, 20 * time.Millisecond, 30 * time.Millisecond, 111, 3})
	far.now.sent = 20
	n.remove(far)
	n.remove(far)
	want(CarrierStats{TransportH3, 2, 1, 0, 10 * time.Millisecond, 10 * time.Millisecond, 121, 3})
	n.remove(near)
	n.remove(unknown)
	want(CarrierStats{Transport: TransportH3, Sent: 121, Lost: 3})
	if len(n.open) != 0 {
		t.Errorf("%d links are held", len(n.open))
	}
}

// A connection that has closed is not added any more: nobody would remove it.
func TestAClosedConnectionIsNotAdded(t *testing.T) {
	var n linkCounts
	c, other := net.Pipe()
	defer other.Close()
	l := &tcpLink{Conn: c, counts: &n}
	l.Close()
	n.add(TransportH2, l)
	if len(n.open) != 0 {
		t.Error("a closed connection is held")
	}
}

// Connections come and go while they are asked, and no counter ever goes back.
func TestCountersOfCarriersNeverGoBack(t *testing.T) {
	r := newRig(t, "ws")
	r.dial()
	done := make(chan struct{})
	var dialling sync.WaitGroup
	dialling.Go(func() {
		defer close(done)
		for range 30 {
			c, s := r.dial()
			c.Close()
			s.returned()
		}
	})
	last := map[string]CarrierStats{}
	for over := false; !over; {
		select {
		case <-done:
			over = true
		default:
		}
		for end, ask := range map[string]func() []CarrierStats{"agent": r.dialer.CarrierStats, "gateway": r.server.CarrierStats} {
			got := statsOf(ask(), TransportWS)
			if got.Sent < last[end].Sent || got.Lost < last[end].Lost {
				t.Fatalf("%s: %+v after %+v", end, got, last[end])
			}
			last[end] = got
		}
	}
	dialling.Wait()
}

// BenchmarkCarrierStats asks a gateway with 1,000 WebSockets, as a scrape does.
func BenchmarkCarrierStats(b *testing.B) {
	const n = 1000
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	var counts linkCounts
	for range n {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		counts.add(TransportWS, &tcpLink{Conn: c, counts: &counts})
	}
	b.ReportAllocs()
	for b.Loop() {
		counts.stats(nil)
	}
}
