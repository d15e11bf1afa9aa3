package tunnel

import (
	"net/http"
	"sync/atomic"
	"testing"
	"time"
)

// Looks make no more carriers than there may be, whatever streams are opened in between.
func TestLooksDoNotAddCarriers(t *testing.T) {
	const most, looks = 2, 10
	for _, kind := range []string{TransportH3, TransportH2} {
		t.Run(kind, func(t *testing.T) {
			r := newRig(t, kind, func(r *rig) { r.dialer.Carriers = most })
			count := func() int {
				if kind == TransportH3 {
					return alive(&r.h3().carriers)
				}
				return alive(&r.dialer.pools[TransportH2].(*h2Pool).carriers)
			}
			for range most {
				r.dial()
			}
			for range looks {
				if err := r.dialer.Look(t.Context()); err != nil {
					t.Fatal(err)
				}
				r.dial()
			}
			for deadline := time.Now().Add(10 * time.Second); count() > most; time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("%d carriers, want %d", count(), most)
				}
			}
		})
	}
}

// alive returns how many carriers there are.
func alive[C carrier](l *carriers[C]) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leastLoaded() // removes dead ones
	return len(l.list)
}

// A stream that ends with a panic before it is served takes no place from others.
func TestAPanicBeforeServeFreesTheStreamsPlace(t *testing.T) {
	var broken atomic.Bool
	var calls atomic.Int64 // since then
	r := newRig(t, "plain", func(r *rig) {
		r.server.Authenticate = func(*http.Request) (string, error) { return "a", nil }
		r.server.Limits.StreamsPerIdentity = 10
		r.server.Opened = func() Opened {
			if broken.Load() && calls.Add(1)%2 == 0 { // the first is before the stream counts
				panic("a bug")
			}
			return Opened{}
		}
	})
	c, s := r.dial()
	c.Close()
	s.returned()
	broken.Store(true)
	for range 3 {
		if _, err := r.dialer.Dial(t.Context(), Open{Target: TargetBootstrap}, nil); err == nil {
			t.Error("no error")
		}
	}
	used := func() (n int64) {
		for _, use := range r.server.LimitUses() {
			if use.Limit == LimitStreams || use.Limit == LimitStreamsPerIdentity {
				n += use.Used
			}
		}
		return n
	}
	for deadline := time.Now().Add(10 * time.Second); used() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d places are taken after all streams have ended", used())
		}
	}
}
