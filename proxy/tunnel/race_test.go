package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A course says how long a hello of each transport takes, and how it ends.
type course map[string]struct {
	takes time.Duration
	err   error
}

func (c course) hello(ctx context.Context, transport string) error {
	select {
	case <-time.After(c[transport].takes):
		return c[transport].err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func TestRace(t *testing.T) {
	blocked := errors.New("blocked")
	for _, tt := range []struct {
		name   string
		course course
		winner string
		after  time.Duration
	}{
		{"both work", course{"h3": {40 * time.Millisecond, nil}, "ws": {30 * time.Millisecond, nil}}, "h3", 40 * time.Millisecond},
		{"h3 slow", course{"h3": {time.Second, nil}, "ws": {30 * time.Millisecond, nil}}, "ws", 330 * time.Millisecond},
		{"h3 refused", course{"h3": {time.Millisecond, blocked}, "ws": {30 * time.Millisecond, nil}}, "ws", 31 * time.Millisecond},
		{"UDP dropped", course{"h3": {5 * time.Second, blocked}, "ws": {60 * time.Millisecond, nil}}, "ws", 360 * time.Millisecond},
		{"ws refused", course{"h3": {time.Second, nil}, "ws": {time.Millisecond, blocked}}, "h3", time.Second},
		{"nothing", course{"h3": {5 * time.Second, blocked}, "ws": {time.Second, errors.New("refused")}}, "", 5 * time.Second},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRace([]string{"h3", "ws"}, defaultTiming, tt.course.hello, nil)
				defer r.close()
				start := time.Now()
				winner, err := r.choose(t.Context())
				if winner != tt.winner || time.Since(start) != tt.after || (err != nil) != (winner == "") {
					t.Errorf("choose = %q, %v after %v, want %q after %v", winner, err, time.Since(start), tt.winner, tt.after)
				}
				if err != nil && err.Error() != "no transport reaches the gateway: refused; blocked" {
					t.Errorf("choose: %v", err)
				}
			})
		})
	}
}

func TestAVerdictHoldsForMinutesAndIsReviewedInTheBackground(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		blocked := true
		var log []string
		hello := func(ctx context.Context, transport string) error {
			log = append(log, transport)
			if transport == "h3" && blocked {
				return errors.New("blocked")
			}
			return nil
		}
		say := func(from, to string) { log = append(log, from+" to "+to) }
		r := newRace([]string{"h3", "ws"}, defaultTiming, hello, say)
		defer r.close()
		choose := func(want string) {
			t.Helper()
			if got, err := r.choose(t.Context()); got != want {
				t.Errorf("choose = %q, %v, want %q", got, err, want)
			}
			synctest.Wait()
		}
		choose("ws")
		time.Sleep(4 * time.Minute)
		choose("ws")
		blocked = false
		time.Sleep(2 * time.Minute)
		choose("ws") // without waiting, and with a race behind it
		choose("h3")
		if !r.lost("h3", errors.New("reset")) {
			t.Error("a loss was not counted")
		}
		blocked = true
		choose("ws")
		if r.lost("ws", &AnswerError{Status: 401}) {
			t.Error("a refused token was held against the transport")
		}
		if got, want := fmt.Sprint(log), "[h3 ws h3 to ws h3 ws to h3 h3 ws h3 to ws]"; got != want {
			t.Errorf("went %s, want %s", got, want)
		}
	})
}

func TestManyDialsShareARace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		r := newRace([]string{"h3"}, defaultTiming, func(context.Context, string) error { n++; time.Sleep(time.Second); return nil }, nil)
		defer r.close()
		for range 10 {
			go r.choose(t.Context())
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if n != 1 {
			t.Errorf("%d hellos for ten dials", n)
		}
		done, cancel := context.WithCancel(t.Context())
		cancel()
		r.lost("h3", errors.New("x"))
		if _, err := r.choose(done); !errors.Is(err, context.Canceled) {
			t.Errorf("choose of one who left: %v", err)
		}
	})
}

func TestTransportsOfSnowparkBeginWithWS(t *testing.T) {
	for url, want := range map[string]string{
		"https kafka.example.com":                   "[h3 ws h2]",
		"https abc-org-acct.snowflakecomputing.app": "[ws h3 h2]",
		"http gateway":                              "[ws h2]",
	} {
		scheme, host, _ := strings.Cut(url, " ")
		if got := fmt.Sprint(transports(scheme, host)); got != want {
			t.Errorf("transports(%s) = %s, want %s", url, got, want)
		}
	}
}

func TestAutoPrefersH3(t *testing.T) {
	r := newRig(t, TransportAuto)
	if c, _ := r.dial(); c.Transport() != TransportH3 {
		t.Errorf("auto took %s", c.Transport())
	}
}

// UDP is dropped without a word, as many networks do.
func TestAutoFallsBackToWSWhenUDPIsSilent(t *testing.T) {
	var fell []string
	dials := make(map[string]int)
	r := newRig(t, "noudp", func(r *rig) {
		r.dialer.Transport = TransportAuto
		r.dialer.OnFallback = func(from, to string) { fell = append(fell, from+" to "+to) }
		r.dialer.OnDial = func(transport string, err error, _ time.Duration) { dials[fmt.Sprint(transport, " ", err)]++ }
	})
	start := time.Now()
	c, s := r.dial()
	if c.Transport() != TransportWS || time.Since(start) > 3*time.Second {
		t.Errorf("auto took %s, after %v", c.Transport(), time.Since(start))
	}
	if fmt.Sprint(fell) != "[h3 to ws]" || fmt.Sprint(dials) != "map[ws <nil>:2]" {
		t.Errorf("fallbacks %v, dials %v", fell, dials)
	}
	io.WriteString(c, "x")
	io.ReadFull(s, make([]byte, 1))
}

// The gateway's address changes its transport under the agent: the next dial finds out, and works.
func TestAutoDecidesAgainWhenADialFails(t *testing.T) {
	r := newRig(t, "ws", func(r *rig) { r.dialer.Transport = TransportAuto })
	r.dial()
	r.dialer.race.mu.Lock()
	r.dialer.race.winner = "gone"
	r.dialer.race.mu.Unlock()
	r.dial()
}

func TestADialerOfNobody(t *testing.T) {
	u, _ := url.Parse("https://127.0.0.1:1")
	d := &Dialer{URL: u, timing: defaultTiming}
	d.timing.handshake = time.Second
	defer d.Close()
	_, err := d.Dial(t.Context(), Open{})
	if err == nil || !strings.HasPrefix(err.Error(), "no transport reaches the gateway: dial gateway 127.0.0.1:1 over ws: dial tcp") {
		t.Errorf("Dial = %v", err)
	}
}
