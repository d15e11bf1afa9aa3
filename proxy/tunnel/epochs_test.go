package tunnel

import (
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A jumpingClock is the clock of a process that can be paused.
type jumpingClock struct{ paused atomic.Int64 }

func (c *jumpingClock) now() time.Time { return time.Now().Add(time.Duration(c.paused.Load())) }

// pause lets the clock jump. The epochs notice within a tenth of their limit.
func (c *jumpingClock) pause(d time.Duration) { c.paused.Add(int64(d)) }

// A laptop wakes up, and nothing that was ready before works any more. The dial that waits for it
// must not wait until its time is over.
func TestDialsMoveWhenTheProcessWasPaused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock := new(jumpingClock)
		r, l := newLine(t, 20*time.Millisecond)
		r.dialer.clock, r.dialer.timing = clock.now, defaultTiming
		r.dialer.timing.answer = time.Minute
		r.ready(2)
		l.set(func() { l.hole = true })
		time.AfterFunc(2*time.Second, func() {
			l.set(func() { l.hole = false })
			clock.pause(time.Hour)
		})
		start := time.Now()
		c, err := r.dialer.Dial(t.Context(), Open{Target: TargetBootstrap}, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		(<-r.served).returned()
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("the dial took %v, want it to move 2s after its start", took)
		}
	})
}

// One dial finds out that what was ready is dead. All that wait for it must move.
func TestDialsMoveWhenWhatWasReadyIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, l := newLine(t, 20*time.Millisecond)
		r.dialer.timing = defaultTiming
		r.ready(3)
		l.set(func() { l.hole = true })
		time.AfterFunc(500*time.Millisecond, func() { l.set(func() { l.hole = false }) })
		start := time.Now()
		var dials sync.WaitGroup
		for _, patient := range []bool{true, false} {
			dials.Go(func() {
				c, again, err := r.dialer.try(t.Context(), Open{Target: TargetBootstrap}, nil, patient)
				for ; again; patient = true {
					c, again, err = r.dialer.try(t.Context(), Open{Target: TargetBootstrap}, nil, true)
				}
				if err != nil {
					t.Errorf("patient %v: %v", patient, err)
					return
				}
				if took := time.Since(start); took > 2*time.Second {
					t.Errorf("patient %v: the dial took %v", patient, took)
				}
				(<-r.served).returned()
				c.Close()
			})
		}
		dials.Wait()
	})
}

// Streams that lived through a pause are often cut when it is over. That says nothing about their
// transport.
func TestAPauseIsNoFaultOfATransport(t *testing.T) {
	for _, pause := range []time.Duration{0, time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			clock := new(jumpingClock)
			r, _ := newMemRig(t, func(r *rig) { r.dialer.Transport, r.dialer.clock = TransportAuto, clock.now })
			for range 2 {
				time.Sleep(2 * r.dialer.t.race.CutApart)
				c, s := r.dial()
				if c.Transport() != TransportWS {
					t.Fatalf("auto takes %s", c.Transport())
				}
				clock.pause(pause)
				s.x.Abort()
				if _, err := c.Read(make([]byte, 1)); !errors.Is(err, ErrCut) {
					t.Fatalf("read: %v", err)
				}
				c.Close()
			}
			want := TransportWS
			if pause == 0 {
				want = TransportH2 // the control: without a pause the cuts count
			}
			if c, _ := r.dial(); c.Transport() != want {
				t.Errorf("after two pauses of %v and two cuts auto takes %s, want %s", pause, c.Transport(), want)
			}
		})
	}
}

// A hello that was under way says nothing about its transport either.
func TestAHelloBeginsAgainAfterAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock := new(jumpingClock)
		r, l := newLine(t, 20*time.Millisecond)
		r.dialer.clock, r.dialer.timing = clock.now, defaultTiming
		l.set(func() { l.hole = true })
		time.AfterFunc(time.Second, func() {
			l.set(func() { l.hole = false })
			clock.pause(time.Hour)
		})
		start := time.Now()
		if _, err := r.dialer.Hello(t.Context()); err != nil || time.Since(start) > 4*time.Second {
			t.Errorf("hello after %v: %v", time.Since(start), err)
		}
	})
}

// A machine that is busy is not paused, and a Dialer that is not used has nothing to replace.
func TestOnlyLongGapsArePauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock, dropped := new(jumpingClock), 0
		e := newEpochs(t.Context(), 10*time.Second, clock.now, func() { dropped++ }, slog.New(slog.DiscardHandler))
		defer e.close()
		time.Sleep(time.Hour)
		e.watch()
		for range 100 {
			clock.pause(8 * time.Second)
			time.Sleep(time.Minute)
		}
		if first := e.current(); dropped > 0 || first.over() {
			t.Fatalf("dropped %d times", dropped)
		}
		clock.pause(12 * time.Second)
		if second := e.current(); dropped != 1 || second.pauses != 1 {
			t.Errorf("dropped %d times, after %d pauses", dropped, second.pauses)
		}
	})
}
