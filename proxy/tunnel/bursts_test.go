package tunnel

import (
	"crypto/tls"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestABurstIsWhatComesWithinAWindow(t *testing.T) {
	start := time.Now()
	b := bursts{window: 3 * time.Second, memory: 10 * time.Minute}
	at := func(second int) time.Time { return start.Add(time.Duration(second) * time.Second) }
	burst := func(second, n int) {
		for range n {
			b.add(at(second))
		}
	}
	want := func(second, n int) {
		t.Helper()
		if got := b.largest(at(second)); got != n {
			t.Errorf("after %d s the largest burst had %d streams, want %d", second, got, n)
		}
	}
	want(0, 0)
	burst(0, 5)
	burst(2, 7)
	want(2, 12)
	burst(10, 20)
	burst(100, 6)
	burst(104, 8)
	want(104, 20)
	want(610, 20)
	want(611, 8)
	want(704, 8)
	want(705, 0)
	burst(1000, 100)
	want(1000, maxBurst)
	for second := 2000; second < 3000; second++ {
		burst(second, 1)
	}
	want(3000, 4)
	if n := len(b.list) + len(b.recent); n > 2*maxBurst {
		t.Errorf("%d entries are kept", n)
	}
	b.forget()
	want(3000, 0)
}

// burst opens n streams at the same time and returns how long each took to its first answer, the
// shortest first. All are closed in the end.
func (r *rig) burst(n int) (took []time.Duration) {
	r.t.Helper()
	var mu sync.Mutex
	var asking sync.WaitGroup
	for range n {
		go r.answerOnce(func(string) {})
		asking.Go(func() {
			start := time.Now()
			c, err := r.dialer.Dial(r.t.Context(), Open{Target: TargetBootstrap}, []byte(question))
			if err != nil {
				r.t.Error(err)
				return
			}
			defer c.Close()
			_, err = io.ReadFull(c, make([]byte, 5))
			mu.Lock()
			defer mu.Unlock()
			took = append(took, time.Since(start))
			if err != nil {
				r.t.Error(err)
			}
		})
	}
	asking.Wait()
	slices.Sort(took)
	return took
}

// A Java application opens its connections at once. From its second start on, none of them waits for
// more than one round trip, and nothing is kept for longer than ten minutes.
func TestASecondBurstTakesOneRoundTripOverWS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rtt = 50 * time.Millisecond
		r, l := newLine(t, rtt)
		r.ready(4)
		want := func(what string, took []time.Duration, one int) {
			t.Helper()
			for i, d := range took {
				if i < one && d != rtt || i >= one && d != 3*rtt {
					t.Errorf("%s: connection %d of %d took %v, want one round trip for %d, and three for the others", what, i+1, len(took), d, one)
				}
			}
		}
		want("first burst", r.burst(20), 4)
		time.Sleep(time.Second)
		r.mustHave(20)
		time.Sleep(defaultTiming.burst)
		want("second burst", r.burst(20), 20)
		time.Sleep(5 * time.Minute)
		r.mustHave(20)
		want("five minutes later", r.burst(20), 20)
		time.Sleep(time.Minute)
		want("40 at once", r.burst(40), 20)
		time.Sleep(time.Minute)
		want("40 again", r.burst(40), maxBurst)
		time.Sleep(defaultTiming.bursts - time.Second)
		r.mustHave(maxBurst)
		time.Sleep(10 * time.Second)
		dials := l.dials
		r.mustHave(4)
		time.Sleep(time.Hour)
		r.mustHave(4)
		l.set(func() {
			if l.dials != dials {
				t.Errorf("%d dials while nothing happened", l.dials-dials)
			}
		})
	})
}

// mustHave fails unless n spares exist.
func (r *rig) mustHave(n int) {
	r.t.Helper()
	if have := r.spares(); have != n {
		r.t.Errorf("%d spares, want %d", have, n)
	}
}

// Streams share what stands, so that even the first burst takes one round trip.
func TestAFirstBurstTakesOneRoundTripOverH2(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rtt = 50 * time.Millisecond
		r, _ := newLine(t, rtt)
		r.dialer.Transport = TransportH2
		r.dialer.SetSpares(4)
		time.Sleep(time.Minute)
		for _, n := range []int{20, 40} {
			for _, d := range r.burst(n) {
				if d != rtt {
					t.Errorf("one of %d took %v, want one round trip of %v", n, d, rtt)
				}
			}
			time.Sleep(time.Second)
		}
	})
}

// No stream waits for a handshake where something stands: over h3 and h2 from the first burst on,
// over ws from the second.
func TestABurstWaitsForNoHandshake(t *testing.T) {
	for _, transport := range []string{TransportH3, TransportH2, TransportWS} {
		t.Run(transport, func(t *testing.T) {
			const streams = 20
			var late atomic.Bool
			var handshakes atomic.Int32
			over := make(chan struct{})
			r := newRig(t, transport, func(r *rig) {
				r.dialer.TLS = r.dialer.TLS.Clone()
				r.dialer.TLS.VerifyConnection = func(tls.ConnectionState) error {
					handshakes.Add(1)
					if late.Load() {
						<-over
					}
					return nil
				}
			})
			release := sync.OnceFunc(func() { close(over) })
			defer release()
			r.dialer.SetSpares(2)
			r.dialer.Hello(t.Context())
			if transport == TransportWS {
				r.burst(streams)
				waitUntil(t, func() bool { return r.spares() == streams })
			}
			before := handshakes.Load()
			late.Store(true)
			r.burst(streams)
			if n := handshakes.Load() - before; n > dialsAtOnce {
				t.Errorf("%d handshakes began beside %d streams, want %d at most", n, streams, dialsAtOnce)
			}
			release()
		})
	}
}

// A Dialer without spares has streams share what stands, too, and then dials for the next ones.
func TestSharingMakesRoomForTheNext(t *testing.T) {
	for _, transport := range []string{TransportH3, TransportH2} {
		t.Run(transport, func(t *testing.T) {
			r := newRig(t, transport)
			r.dialer.Hello(t.Context())
			for range 2 * maxShared {
				r.dial()
			}
			if transport == TransportH3 {
				r.unusedCarrier()
			} else {
				r.roomToShare()
			}
		})
	}
}

// spares returns how many WebSockets are ready.
func (r *rig) spares() int {
	p := r.dialer.pools[TransportWS].(*wsPool)
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.spares)
}

// A gateway that refuses spares for a limit is asked for few more, whatever the bursts, and streams
// are opened nevertheless.
func TestAGatewayThatRefusesSparesIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const granted = 5
		l := &line{delay: 50 * time.Millisecond}
		r, ln := newMemRig(t, func(r *rig) {
			r.server.Limits.SparesPerIdentity = granted
			r.dialer.DialContext = l.dial
		})
		l.Listener = ln
		r.dialer.SetSpares(4)
		time.Sleep(time.Minute)
		r.burst(maxBurst)
		time.Sleep(2 * time.Second)
		var before int
		l.set(func() { before = l.dials })
		time.Sleep(5*time.Minute - 10*time.Second)
		l.set(func() {
			if n := l.dials - before; n > 2*5 {
				t.Errorf("%d dials in five minutes, want two a minute at most", n)
			}
		})
		if n := r.spares(); n != granted {
			t.Errorf("%d spares are left, want %d", n, granted)
		}
		if n := len(r.burst(maxBurst)); n != maxBurst {
			t.Errorf("%d streams were opened", n)
		}
	})
}

// Something on the way ends what has no traffic: as many are dialled again as without a burst.
func TestSparesThatDoNotLastAreFewAlsoAfterABurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, l := newLine(t, 0)
		r.ready(4)
		r.burst(maxBurst)
		l.set(func() { l.kill = true })
		time.Sleep(10 * time.Second)
		var before int
		l.set(func() { before = l.dials })
		time.Sleep(time.Minute)
		l.set(func() {
			if n := l.dials - before; n > 120 {
				t.Errorf("%d dials in a minute", n)
			}
		})
	})
}
