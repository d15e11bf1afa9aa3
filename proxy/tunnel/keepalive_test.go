package tunnel

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/exchange"
)

func TestAnIdleStreamStaysAlive(t *testing.T) {
	inBubbles(t, func(t *testing.T, r *rig) {
		c, s := r.dial()
		got := make(chan error, 2)
		read := func(c *Conn) {
			_, err := io.ReadFull(c, make([]byte, 1))
			got <- err
		}
		go read(c)
		go read(s.Conn)
		time.Sleep(time.Hour)
		c.Write([]byte("x"))
		s.Write([]byte("x"))
		for range 2 {
			if err := <-got; err != nil {
				t.Errorf("Read after an idle hour: %v", err)
			}
		}
		r.stop()
	})
}

func TestAKeepaliveComesAfterFifteenIdleSeconds(t *testing.T) {
	inBubbles(t, func(t *testing.T, r *rig) {
		c, s := r.dial()
		time.Sleep(10 * time.Second)
		s.Write([]byte("x"))
		wrote := exchange.Clock()
		io.ReadFull(c, make([]byte, 1))
		go c.Read(make([]byte, 1))
		for range 3 {
			before := c.x.LastByte()
			for c.x.LastByte() == before {
				time.Sleep(100 * time.Millisecond)
			}
			if idle := time.Duration(c.x.LastByte() - wrote); idle != 15*time.Second {
				t.Errorf("KEEPALIVE after %v", idle)
			}
			wrote = c.x.LastByte()
		}
		r.stop()
	})
}

// The agent's process is frozen, or its network has disappeared: nothing arrives, and nothing
// reports it.
func TestAPeerThatIsSilentForFortyFiveSecondsIsDead(t *testing.T) {
	inBubbles(t, func(t *testing.T, r *rig) {
		c, s := r.dial()
		s.ending.timer.Stop()
		start := time.Now()
		_, err := c.Read(make([]byte, 1))
		if !errors.Is(err, ErrCut) || !strings.Contains(err.Error(), "nothing came for 45s") {
			t.Errorf("Read = %v, want a dead peer", err)
		}
		if waited := time.Since(start); waited != 45*time.Second {
			t.Errorf("dead after %v, want 45s", waited)
		}
		if _, err := c.Write([]byte("x")); !errors.Is(err, ErrCut) {
			t.Errorf("Write to a dead peer: %v", err)
		}
		r.stop()
	})
}

// A consumer that is paused for an hour does not read, so silence must not be held against the
// peer.
func TestAPeerIsNotDeadWhileNobodyReads(t *testing.T) {
	inBubbles(t, func(t *testing.T, r *rig) {
		c, s := r.dial()
		s.ending.timer.Stop()
		time.Sleep(time.Hour)
		time.AfterFunc(44*time.Second, func() { s.Write([]byte("x")) })
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Errorf("Read = %v", err)
		}
		r.stop()
	})
}

// A writer that back-pressure blocks cannot send KEEPALIVEs. It need not, because its bytes are on
// the way.
func TestBackPressureDoesNotEndAStream(t *testing.T) {
	inBubbles(t, func(t *testing.T, r *rig) {
		c, s := r.dial()
		want := random(2 << 20)
		go func() {
			s.Write(want)
			s.CloseWrite() // and no Close, which waits 45 s for the reader
		}()
		for range 60 {
			time.Sleep(time.Minute)
			if _, err := io.ReadFull(c, make([]byte, len(want)/60)); err != nil {
				t.Fatalf("Read = %v", err)
			}
		}
		if _, err := io.ReadAll(c); err != nil {
			t.Errorf("ReadAll = %v", err)
		}
		s.finish()
		r.stop()
	})
}

func TestAStreamWithoutOpenIsResetAfterTenSeconds(t *testing.T) {
	inBubbles(t, func(t *testing.T, r *rig) {
		c := r.unopened(Open{Target: TargetBootstrap})
		c.writing.openSent.Store(true) // so that Read does not send it
		start := time.Now()
		_, err := c.Read(make([]byte, 1))
		if e, ok := errors.AsType[*Error](err); !ok || e.Code != CodeProtocol || time.Since(start) != 10*time.Second {
			t.Errorf("Read = %v after %v, want ERROR protocol after 10s", err, time.Since(start))
		}
		c.Close()
		r.stop()
	})
}

func TestASpareThatFallsSilentIsDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _ := newMemRig(t, func(r *rig) {
			r.dialer.timing = defaultTiming
			r.dialer.timing.keepalive = time.Hour // only the first one is sent
		})
		r.dialer.init()
		c, err := r.dialer.dialFresh(t.Context(), TransportWS, nil)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if err := c.keepReady(); !errors.Is(err, ErrCut) || time.Since(start) != 45*time.Second {
			t.Errorf("keepReady = %v after %v, want a cut after 45s", err, time.Since(start))
		}
		c.Close()
		r.stop()
	})
}

func TestResetOfAPeerThatDoesNotReadEndsInACut(t *testing.T) {
	inBubbles(t, func(t *testing.T, r *rig) {
		c, s := r.dial()
		go s.Write(make([]byte, 16<<20)) // more than windows and buffers hold
		synctest.Wait()
		start := time.Now()
		if err := s.Reset(&Error{Code: CodeBroker, Message: "gone"}); err == nil || time.Since(start) != 5*time.Second {
			t.Errorf("Reset = %v after %v, want an error after 5s", err, time.Since(start))
		}
		if _, err := io.Copy(io.Discard, c); !errors.Is(err, ErrCut) {
			t.Errorf("Read = %v, want ErrCut", err)
		}
		r.stop()
	})
}

// What both ends have finished waits for the peer to read it for as long as the peer lives, but no
// longer than the Dialer.
func TestCloseOfADialerHurriesWhatLingers(t *testing.T) {
	inBubbles(t, func(t *testing.T, r *rig) {
		c, s := r.dial()
		s.CloseWrite()
		io.WriteString(c, "the last words")
		c.CloseWrite()
		if _, err := io.ReadAll(c); err != nil {
			t.Fatal(err)
		}
		c.Close()
		time.Sleep(time.Hour) // the gateway's end reads nothing meanwhile
		if n := len(r.dialer.streams.open()); n != 1 {
			t.Fatalf("%d streams linger, want 1", n)
		}
		if got, err := io.ReadAll(s); string(got) != "the last words" || err != nil {
			t.Errorf("read %q, %v", got, err)
		}
		start := time.Now()
		r.dialer.Close()
		if took := time.Since(start); took != 5*time.Second {
			t.Errorf("Close took %v, want 5s", took)
		}
		r.stop()
	})
}

// A peer that never finishes cannot keep alive what this end has closed.
func TestWhatOneEndAloneHasFinishedLingersForALimitedTime(t *testing.T) {
	for _, end := range []string{"agent", "gateway"} {
		inBubbles(t, func(t *testing.T, r *rig) {
			c, s := r.dial()
			if end == "agent" {
				c, s.Conn = s.Conn, c
			}
			c.CloseWrite()
			c.Close()
			start := time.Now()
			if got, err := io.ReadAll(s); len(got) != 0 || err != nil {
				t.Errorf("read %q, %v", got, err)
			}
			for {
				if _, err := s.Write([]byte("x")); err != nil {
					break
				}
				time.Sleep(time.Second)
			}
			if took := time.Since(start); took < lingerMost || took > lingerMost+2*time.Second {
				t.Errorf("the closed end of the %s lingered for %v, want %v", end, took, lingerMost)
			}
			s.Conn.Close()
			r.stop()
		})
	}
}

// A client that never closes keeps its stream open, but must not hold up the shutdown of the
// gateway for the whole drain timeout.
func TestShutdownDoesNotWaitLongForWhatLingers(t *testing.T) {
	inBubbles(t, func(t *testing.T, r *rig) {
		c, s := r.dial()
		s.CloseWrite()
		s.finish()
		s.returned()
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := r.server.Shutdown(ctx); err != nil || time.Since(start) != 5*time.Second {
			t.Errorf("Shutdown = %v after %v, want 5s", err, time.Since(start))
		}
		if got, err := io.ReadAll(c); len(got) != 0 || err != nil {
			t.Errorf("read %q, %v", got, err)
		}
		r.stop()
	})
}
