package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"
)

// A course says how long a hello of each transport takes, and how it ends.
type course map[string]struct {
	takes time.Duration
	err   error
}

func (c course) hello(ctx context.Context, transport string) (Welcome, error) {
	select {
	case <-time.After(c[transport].takes):
		return Welcome{}, c[transport].err
	case <-ctx.Done():
		return Welcome{}, context.Cause(ctx)
	}
}

var (
	noLog      = slog.New(slog.DiscardHandler)
	errBlocked = errors.New("blocked")
	all        = []string{"h3", "ws", "h2"}
)

func TestRace(t *testing.T) {
	const ms = time.Millisecond
	refused := errors.New("refused")
	for _, tt := range []struct {
		name   string
		course course
		winner string
		after  time.Duration
		last   string // who is used in the end
	}{
		{"all work", course{"h3": {40 * ms, nil}, "ws": {30 * ms, nil}}, "h3", 40 * ms, "h3"},
		{"h3 slow", course{"h3": {time.Second, nil}, "ws": {30 * ms, nil}}, "ws", 330 * ms, "h3"},
		{"h3 refused", course{"h3": {ms, errBlocked}, "ws": {30 * ms, nil}}, "ws", 31 * ms, "ws"},
		{"UDP dropped", course{"h3": {5 * time.Second, errBlocked}, "ws": {60 * ms, nil}}, "ws", 360 * ms, "ws"},
		{"ws refused", course{"h3": {time.Second, nil}, "ws": {ms, refused}, "h2": {5 * time.Second, refused}}, "h3", time.Second, "h3"},
		{"ws refused without UDP", course{"h3": {5 * time.Second, errBlocked}, "ws": {ms, refused}, "h2": {50 * ms, nil}}, "h2", 351 * ms, "h2"},
		{"ws silent without UDP", course{"h3": {5 * time.Second, errBlocked}, "ws": {10 * time.Second, refused}, "h2": {50 * ms, nil}}, "h2", 1350 * ms, "h2"},
		{"nothing", course{"h3": {5 * time.Second, errBlocked}, "ws": {time.Second, refused}, "h2": {time.Second, refused}}, "", 5 * time.Second, ""},
		{"no token", course{"h3": {20 * ms, &AnswerError{Status: 401, Gateway: true}}, "ws": {time.Second, nil}}, "", 20 * ms, ""},
		{"upgrade removed", course{"h3": {5 * time.Second, errBlocked}, "ws": {ms, &AnswerError{Status: 426, Gateway: true}}, "h2": {50 * ms, nil}}, "h2", 351 * ms, "h2"},
		{"ws refused by an ingress", course{"h3": {500 * ms, nil}, "ws": {ms, &AnswerError{Status: 404, Final: true}}}, "h3", 500 * ms, "h3"},
		{"all refused by an ingress", course{"h3": {500 * ms, errBlocked}, "ws": {ms, &AnswerError{Status: 404, Final: true}}}, "", 500 * ms, ""},
		{"no token at the ingress", course{"h3": {20 * ms, &AnswerError{Status: 401}}, "ws": {500 * ms, nil}}, "ws", 520 * ms, "ws"},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRace(all, defaultTiming, noLog, tt.course.hello)
				defer r.close()
				start := time.Now()
				c, err := r.choose(t.Context())
				winner, welcome := c.transport, c.welcome
				if winner != tt.winner || time.Since(start) != tt.after || (err != nil) != (winner == "") || winner != "" && welcome == nil {
					t.Errorf("choose = %q, %v after %v, want %q after %v", winner, err, time.Since(start), tt.winner, tt.after)
				}
				time.Sleep(20 * time.Second)
				if s := r.state(); s.Transport != tt.last {
					t.Errorf("in the end %q is used, want %q", s.Transport, tt.last)
				}
			})
		})
	}
}

func TestARaceOfNobodyNamesThemAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRace(all, defaultTiming, noLog, course{"h3": {3, errBlocked}, "ws": {2, errors.New("refused")}, "h2": {1, errors.New("reset")}}.hello)
		defer r.close()
		_, err := r.choose(t.Context())
		if err == nil || err.Error() != "no transport reaches the gateway: blocked; refused; reset" || !errors.Is(err, errBlocked) {
			t.Errorf("choose: %v", err)
		}
	})
}

// A network is what a race runs over: which transports it blocks, and who said hello.
type network struct {
	mu      sync.Mutex
	blocked map[string]bool
	log     []string
}

// block and allow change the network.
func (n *network) block(transport string) { n.set(transport, true) }
func (n *network) allow(transport string) { n.set(transport, false) }

func (n *network) set(transport string, blocked bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.blocked[transport] = blocked
}

// hellos returns who has said hello since the last call.
func (n *network) hellos() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	log := n.log
	n.log = nil
	return log
}

func (n *network) hello(_ context.Context, transport string) (Welcome, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.log = append(n.log, transport)
	if n.blocked[transport] {
		return Welcome{}, errBlocked
	}
	return Welcome{}, nil
}

func (n *network) race() *race { return newRace(all, defaultTiming, noLog, n.hello) }

func wantChoice(t *testing.T, r *race, want string) {
	t.Helper()
	if got, err := r.choose(t.Context()); got.transport != want {
		t.Errorf("choose = %q, %v, want %q", got.transport, err, want)
	}
	synctest.Wait()
}

// now is what a dial would be told that comes now.
func (r *race) now(transport string) choice {
	r.mu.Lock()
	defer r.mu.Unlock()
	return choice{transport: transport, turn: r.turn}
}

func nothing() {}

func TestABrokenTransportIsProbedInTheBackgroundEverMoreSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{blocked: map[string]bool{"h3": true}}
		r := n.race()
		defer r.close()
		wantChoice(t, r, "ws")
		n.hellos()
		start := time.Now()
		var probes []time.Duration
		for time.Since(start) < 2*time.Hour {
			time.Sleep(time.Second)
			synctest.Wait()
			if len(n.hellos()) > 0 {
				probes = append(probes, time.Since(start).Round(time.Second))
			}
		}
		last := 30 * time.Second // from 30 s on, doubling, give or take a tenth; not before a minute is over
		for i, at := range probes[1:] {
			gap := at - probes[i]
			if want := min(2*last, 15*time.Minute); gap < want-want/10-time.Second || gap > want+want/10+time.Second {
				t.Errorf("probe %d came %v after the one before, want %v or so", i+1, gap, want)
			}
			last = min(2*last, 15*time.Minute)
		}
		if len(probes) < 9 || len(probes) > 14 {
			t.Errorf("%d probes in two hours: %v", len(probes), probes)
		}
		n.allow("h3")
		time.Sleep(17 * time.Minute)
		wantChoice(t, r, "h3")
	})
}

func TestAChangeForTheBetterComesOnceAMinuteAtMostAndForTheWorseAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{blocked: map[string]bool{"h3": true}}
		r := n.race()
		defer r.close()
		var switches []time.Time
		r.say = func(s State) {
			if s.Transport != "" && !slices.ContainsFunc(switches, s.Since.Equal) {
				switches = append(switches, s.Since)
			}
		}
		wantChoice(t, r, "ws")
		n.allow("h3") // and from now on it is there whenever it is probed, and gone when it is used
		for range 20 {
			time.Sleep(61 * time.Second)
			wantChoice(t, r, "h3")
			n.block("h3")
			r.refused(r.now("h3"), errBlocked)
			wantChoice(t, r, "ws")
			n.allow("h3")
		}
		for i := 1; i < len(switches); i += 2 {
			if up := switches[i].Sub(switches[i-1]); up < time.Minute {
				t.Errorf("up after %v", up)
			}
		}
		if len(switches) != 41 {
			t.Errorf("%d changes", len(switches))
		}
	})
}

func TestWhatIsNotAnsweredIsDecidedAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{blocked: map[string]bool{}}
		r := n.race()
		defer r.close()
		wantChoice(t, r, "h3")
		old := r.now("h3")
		old.turn--
		r.unanswered(old, errBlocked, func() { t.Error("what came after the failure was dropped") })
		if !r.refused(old, &AnswerError{Status: 401}) {
			t.Error("an old refusal ends a dial that would go over something new")
		}
		wantChoice(t, r, "h3")
		dropped := false
		r.unanswered(r.now("h3"), errBlocked, func() { dropped = true })
		if !dropped {
			t.Error("what was ready is kept")
		}
		n.block("h3")
		wantChoice(t, r, "ws")
		if got := fmt.Sprint(n.hellos()); got != "[h3 h3 ws]" {
			t.Errorf("hellos of %s", got)
		}
		if !r.refused(r.now("ws"), errBlocked) {
			t.Error("no other transport is tried")
		}
		n.block("ws")
		n.hellos()
		wantChoice(t, r, "h2")
		if got := fmt.Sprint(n.hellos()); got != "[h2]" {
			t.Errorf("hellos of %s, want none of those that are broken", got)
		}
	})
}

// quic-go's errors are all of net.ErrClosed too: that is no end of ours. Auto stayed with h3 for as long as its handshakes timed out.
func TestAQUICHandshakeWithoutAnswerIsDecidedAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{blocked: map[string]bool{}}
		r := n.race()
		defer r.close()
		wantChoice(t, r, "h3")
		n.block("h3")
		if !r.refused(r.now("h3"), fmt.Errorf("QUIC handshake: %w", &quic.HandshakeTimeoutError{})) {
			t.Error("no other transport is tried")
		}
		wantChoice(t, r, "ws")
	})
}

// Tokens are being rotated: one replica knows the new one, and another says 401 at the same time.
func TestAVerdictAndAWinnerAtTheSameTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRace(all, defaultTiming, noLog, func(_ context.Context, transport string) (Welcome, error) {
			if transport == "h3" {
				time.Sleep(400 * time.Millisecond)
				return Welcome{}, &AnswerError{Status: 401, Gateway: true}
			}
			time.Sleep(200 * time.Millisecond) // and is not to be stopped
			return Welcome{}, nil
		})
		defer r.close()
		for range 10 {
			if c, err := r.choose(t.Context()); err == nil {
				t.Errorf("%s is used in spite of the verdict", c.transport)
			}
			time.Sleep(10 * time.Second)
		}
	})
}

// A probe that is answered with 401, or by a gateway that drains, is no reason to ask again at once.
func TestProbesAreFarApartWhateverTheyGet(t *testing.T) {
	for _, answer := range []error{&AnswerError{Status: 401, Gateway: true}, &AnswerError{Status: 503, Gateway: true}, &Error{Code: CodeDraining}} {
		synctest.Test(t, func(t *testing.T) {
			var probes atomic.Int32
			first := true
			r := newRace([]string{"h3", "ws"}, defaultTiming, noLog, func(_ context.Context, transport string) (Welcome, error) {
				time.Sleep(20 * time.Millisecond)
				if transport == "ws" {
					return Welcome{}, nil
				}
				if first {
					first = false
					return Welcome{}, errBlocked
				}
				probes.Add(1)
				return Welcome{}, answer
			})
			defer r.close()
			wantChoice(t, r, "ws")
			time.Sleep(10 * time.Minute)
			synctest.Wait()
			if n := probes.Load(); n < 1 || n > 20 {
				t.Errorf("%v: %d probes in ten minutes", answer, n)
			}
		})
	}
}

func TestTheBestOfThoseThatAreDueIsProbed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{blocked: map[string]bool{"h3": true, "ws": true}}
		r := n.race()
		defer r.close()
		wantChoice(t, r, "h2")
		r.mu.Lock()
		r.legs["h3"].broken = time.Time{} // it was cancelled, or met a gateway that drained
		r.mu.Unlock()
		n.allow("h3")
		time.Sleep(20 * time.Minute)
		wantChoice(t, r, "h3")
	})
}

// The network kills all that goes over h3 after a minute, and lets each hello pass.
func TestATransportThatIsCutAgainAndAgainIsUsedEverMoreSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{blocked: map[string]bool{}}
		r := n.race()
		defer r.close()
		changes := 0
		for range 60 {
			c, err := r.choose(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if c.transport == "h3" {
				changes++
				r.cut("h3")
			}
			time.Sleep(time.Minute)
		}
		if changes > 14 {
			t.Errorf("in %d of 60 minutes clients were cut", changes)
		}
	})
}

// A second gateway shall get its turn while the first is a black hole.
func TestWhoWasNotReachedLatelyIsNotWaitedForAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRace(all, defaultTiming, noLog, course{"h3": {5 * time.Second, errBlocked}, "ws": {10 * time.Second, errBlocked}, "h2": {10 * time.Second, errBlocked}}.hello)
		defer r.close()
		r.choose(t.Context())
		for range 1000 {
			start := time.Now()
			if _, err := r.choose(t.Context()); !errors.Is(err, errBlocked) || time.Since(start) > 2*time.Second {
				t.Fatalf("choose = %v after %v", err, time.Since(start))
			}
			time.Sleep(50 * time.Millisecond)
		}
	})
}

func TestTwoCutsWithinTenMinutesDemote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{blocked: map[string]bool{}}
		r := n.race()
		defer r.close()
		wantChoice(t, r, "h3")
		for range 100 { // at once: one event
			r.cut("h3")
		}
		wantChoice(t, r, "h3")
		time.Sleep(11 * time.Minute)
		r.cut("h3")
		wantChoice(t, r, "h3")
		time.Sleep(9 * time.Minute)
		r.cut("h3")
		wantChoice(t, r, "ws")
		if s := r.state(); !strings.Contains(s.Why, "cut twice") {
			t.Errorf("why = %q", s.Why)
		}
		r.cut("no such transport")
	})
}

// Wherever everything is cut again and again, something is used nevertheless.
func TestNothingIsFinal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{blocked: map[string]bool{}}
		r := n.race()
		defer r.close()
		for i := range 50 {
			c, err := r.choose(t.Context())
			transport := c.transport
			if err != nil {
				t.Fatalf("after %d cuts: %v", 2*i, err)
			}
			r.cut(transport)
			time.Sleep(25 * time.Second)
			r.cut(transport)
		}
	})
}

func TestAVerdictSparesTheIngressAThousandLogins(t *testing.T) {
	for name, tt := range map[string]struct {
		err  error
		most int // tries within ten minutes
	}{
		"wrong token": {&AnswerError{Status: 401, Gateway: true}, 30},
		"login page":  {&AnswerError{Status: 302, Location: "login.example.com"}, 30},
		"nobody":      {errors.New("connection refused"), 180},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var hellos atomic.Int32
				var healed atomic.Bool
				r := newRace([]string{"ws"}, defaultTiming, noLog, func(context.Context, string) (Welcome, error) {
					hellos.Add(1)
					time.Sleep(50 * time.Millisecond)
					if healed.Load() {
						return Welcome{}, nil
					}
					return Welcome{}, tt.err
				})
				defer r.close()
				var clients sync.WaitGroup
				// 12,000 dials. Timers by the hundred thousand in a bubble crash
				// the race detector: https://go.dev/issue/78156.
				for range 20 {
					clients.Go(func() {
						for range 600 {
							if _, err := r.choose(t.Context()); !errors.Is(err, tt.err) {
								t.Errorf("choose: %v", err)
							}
							time.Sleep(time.Second)
						}
					})
				}
				clients.Wait()
				if n := int(hellos.Load()); n < 10 || n > tt.most {
					t.Errorf("%d hellos in ten minutes of twenty clients, want 10 to %d", n, tt.most)
				}
				healed.Store(true)
				time.Sleep(35 * time.Second)
				wantChoice(t, r, "ws")
			})
		})
	}
}

// A dial over a transport that works otherwise: the token has just been revoked.
func TestAnAnswerToADialIsAVerdict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{blocked: map[string]bool{}}
		r := n.race()
		defer r.close()
		wantChoice(t, r, "h3")
		if r.refused(r.now("h3"), &AnswerError{Status: 401, Gateway: true}) {
			t.Error("another transport is tried with the same token")
		}
		if _, err := r.choose(t.Context()); err == nil {
			t.Error("no verdict")
		}
		if s := r.state(); s.Transport != "" || s.Error == "" || s.RetryAt.IsZero() {
			t.Errorf("state = %+v", s)
		}
		time.Sleep(2 * time.Second)
		wantChoice(t, r, "h3")
	})
}

func TestManyDialsShareARace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		r := newRace([]string{"h3"}, defaultTiming, noLog, func(context.Context, string) (Welcome, error) {
			n++
			time.Sleep(time.Second)
			return Welcome{}, nil
		})
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
		r.unanswered(r.now("h3"), errors.New("x"), nothing)
		if _, err := r.choose(done); !errors.Is(err, context.Canceled) {
			t.Errorf("choose of one who left: %v", err)
		}
	})
}

func TestWhatIsUnlikelyIsProbedSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{blocked: map[string]bool{"h3": true}}
		r := n.race()
		defer r.close()
		r.putOff("h3")
		wantChoice(t, r, "ws")
		if got := fmt.Sprint(n.hellos()); got != "[ws]" {
			t.Errorf("hellos of %s", got)
		}
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if got := len(n.hellos()); got < 5 || got > 12 {
			t.Errorf("%d probes in a day", got)
		}
		n.allow("h3")
		time.Sleep(5 * time.Hour)
		wantChoice(t, r, "h3")
	})
}

// What is not unlikely has all the time that it wants, also when it is lost a day later; the others are for when it fails.
func TestWhatIsUnlikelyIsTriedWhenTheOthersHaveFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{blocked: map[string]bool{"h3": true}}
		r := n.race()
		defer r.close()
		slow := n.hello
		r.hello = func(ctx context.Context, transport string) (Welcome, error) {
			time.Sleep(8 * time.Second)
			return slow(ctx, transport)
		}
		r.putOff("h3")
		r.putOff("h2")
		for range 2 {
			wantChoice(t, r, "ws")
			n.hellos()
			time.Sleep(24 * time.Hour)
			if got := n.hellos(); slices.Contains(got, "h2") {
				t.Errorf("hellos of %s", got)
			}
			r.unanswered(r.now("ws"), errBlocked, nothing)
		}
		n.block("ws")
		wantChoice(t, r, "h2")
	})
}

func TestAutoPrefersH3(t *testing.T) {
	r := newRig(t, TransportAuto, func(r *rig) {
		r.dialer.timing = defaultTiming
		r.dialer.timing.stagger = time.Minute // however slow this machine is just now
	})
	if c, _ := r.dial(); c.Transport() != TransportH3 {
		t.Errorf("auto took %s", c.Transport())
	}
}

func TestAutoPassesOverWhatIsUnlikely(t *testing.T) {
	r := newRig(t, TransportAuto, func(r *rig) { r.dialer.Unlikely = []string{TransportH3, TransportH2} })
	c, _ := r.dial()
	if s := r.dialer.State(); c.Transport() != TransportWS || s.Why != "h3 is not expected to work at this host" {
		t.Errorf("auto took %s, state %+v", c.Transport(), s)
	}
	if h2 := r.dialer.State().Tried[2]; !h2.Tried.IsZero() {
		t.Errorf("%+v was tried beside ws", h2)
	}
}

// UDP is dropped without a word, as many networks do.
func TestAutoFallsBackToWSWhenUDPIsSilent(t *testing.T) {
	r := newRig(t, "silent", func(r *rig) {
		r.dialer.Transport = TransportAuto
	})
	start := time.Now()
	c, s := r.dial()
	if c.Transport() != TransportWS || time.Since(start) > 3*time.Second {
		t.Errorf("auto took %s, after %v", c.Transport(), time.Since(start))
	}
	if s := r.dialer.State(); s.Transport != TransportWS || s.Why != "h3 has not answered yet" {
		t.Errorf("state %+v", s)
	}
	io.WriteString(c, "x")
	io.ReadFull(s, make([]byte, 1))
}

// UDP is refused by ICMP: auto need not even wait before it turns to ws.
func TestAutoDoesNotWaitForH3WhereUDPIsRefused(t *testing.T) {
	r := newRig(t, "noudp", func(r *rig) {
		r.dialer.Transport = TransportAuto
		r.dialer.timing = defaultTiming
		r.dialer.timing.stagger = time.Hour
	})
	c, _ := r.dial()
	if s := r.dialer.State(); c.Transport() != TransportWS || !strings.Contains(s.Why, "nothing takes UDP there") {
		t.Errorf("state %+v", s)
	}
}

func TestADialerOfNobody(t *testing.T) {
	u, _ := url.Parse("https://127.0.0.1:1")
	d := &Dialer{URL: u, timing: defaultTiming}
	d.timing.handshake = time.Second
	defer d.Close()
	_, err := d.Dial(t.Context(), Open{}, nil)
	if err == nil || !strings.HasPrefix(err.Error(), "no transport reaches the gateway: ") ||
		!strings.Contains(err.Error(), "dial gateway 127.0.0.1:1 over ws: dial tcp") {
		t.Errorf("Dial = %v", err)
	}
}
