package race

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/exchange"
)

// A course says how long the hello of each transport takes, and how it ends.
type course map[string]struct {
	takes time.Duration
	err   error
}

func (c course) hello(ctx context.Context, transport string) (struct{}, error) {
	select {
	case <-time.After(c[transport].takes):
		return struct{}{}, c[transport].err
	case <-ctx.Done():
		return struct{}{}, context.Cause(ctx)
	}
}

var (
	noLog      = slog.New(slog.DiscardHandler)
	errBlocked = errors.New("blocked")
	all        = []string{"h3", "ws", "h2"}
)

// newRace returns a race of transports with the head starts that they have in package tunnel.
func newRace(names []string, hello func(context.Context, string) (struct{}, error), unlikely ...string) *Race[struct{}] {
	var transports []Transport
	for _, name := range names {
		t := Transport{Name: name, HeadStart: time.Second, Unlikely: slices.Contains(unlikely, name)}
		if name == "h3" {
			t.HeadStart = 300 * time.Millisecond
		}
		transports = append(transports, t)
	}
	return New(context.Background(), Config[struct{}]{Transports: transports, Hello: hello, Timing: DefaultTiming, Log: noLog})
}

func TestRace(t *testing.T) {
	const ms = time.Millisecond
	refused := errors.New("refused")
	for _, tt := range []struct {
		name   string
		course course
		winner string
		after  time.Duration
		last   string // the transport in use at the end
	}{
		{"all work", course{"h3": {40 * ms, nil}, "ws": {30 * ms, nil}}, "h3", 40 * ms, "h3"},
		{"h3 slow", course{"h3": {time.Second, nil}, "ws": {30 * ms, nil}}, "ws", 330 * ms, "h3"},
		{"h3 refused", course{"h3": {ms, errBlocked}, "ws": {30 * ms, nil}}, "ws", 31 * ms, "ws"},
		{"UDP dropped", course{"h3": {5 * time.Second, errBlocked}, "ws": {60 * ms, nil}}, "ws", 360 * ms, "ws"},
		{"ws refused", course{"h3": {time.Second, nil}, "ws": {ms, refused}, "h2": {5 * time.Second, refused}}, "h3", time.Second, "h3"},
		{"ws refused without UDP", course{"h3": {5 * time.Second, errBlocked}, "ws": {ms, refused}, "h2": {50 * ms, nil}}, "h2", 351 * ms, "h2"},
		{"ws silent without UDP", course{"h3": {5 * time.Second, errBlocked}, "ws": {10 * time.Second, refused}, "h2": {50 * ms, nil}}, "h2", 1350 * ms, "h2"},
		{"nothing", course{"h3": {5 * time.Second, errBlocked}, "ws": {time.Second, refused}, "h2": {time.Second, refused}}, "", 5 * time.Second, ""},
		{"no token", course{"h3": {20 * ms, &exchange.AnswerError{Status: 401, Gateway: true}}, "ws": {time.Second, nil}}, "", 20 * ms, ""},
		{"upgrade removed", course{"h3": {5 * time.Second, errBlocked}, "ws": {ms, &exchange.AnswerError{Status: 426, Gateway: true}}, "h2": {50 * ms, nil}}, "h2", 351 * ms, "h2"},
		{"ws refused by an ingress", course{"h3": {500 * ms, nil}, "ws": {ms, &exchange.AnswerError{Status: 404, Final: true}}}, "h3", 500 * ms, "h3"},
		{"all refused by an ingress", course{"h3": {500 * ms, errBlocked}, "ws": {ms, &exchange.AnswerError{Status: 404, Final: true}}}, "", 500 * ms, ""},
		{"no token at the ingress", course{"h3": {20 * ms, &exchange.AnswerError{Status: 401}}, "ws": {500 * ms, nil}}, "ws", 520 * ms, "ws"},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRace(all, tt.course.hello)
				defer r.Close()
				start := time.Now()
				c, err := r.Choose(t.Context())
				winner, welcome := c.Transport, c.Welcome
				if winner != tt.winner || time.Since(start) != tt.after || (err != nil) != (winner == "") || winner != "" && welcome == nil {
					t.Errorf("choose = %q, %v after %v, want %q after %v", winner, err, time.Since(start), tt.winner, tt.after)
				}
				time.Sleep(20 * time.Second)
				if s := r.State(); s.Transport != tt.last {
					t.Errorf("at the end %q is in use, want %q", s.Transport, tt.last)
				}
			})
		})
	}
}

func TestARaceWithoutAWinnerNamesEachFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRace(all, course{"h3": {3, errBlocked}, "ws": {2, errors.New("refused")}, "h2": {1, errors.New("reset")}}.hello)
		defer r.Close()
		_, err := r.Choose(t.Context())
		if err == nil || err.Error() != "no transport reaches the gateway: blocked; refused; reset" || !errors.Is(err, errBlocked) {
			t.Errorf("choose: %v", err)
		}
	})
}

// What all transports have in common is said once: a name that does not resolve, of which package
// net says more over TCP, and a port on which nobody listens.
func TestAReasonThatTransportsShareIsSaidOnce(t *testing.T) {
	dial := func(transport string, err error) error {
		return fmt.Errorf("wrapped: %w", &DialError{Doing: "dial gateway", Gateway: "g:443", Transport: transport, Err: err})
	}
	name := &net.DNSError{Err: "no such host", Name: "g", IsNotFound: true}
	refused := errors.New("connection refused")
	for _, tt := range []struct {
		failures []error
		want     string
	}{
		{[]error{dial("h3", name), dial("ws", &net.OpError{Op: "dial", Net: "tcp", Err: name}), dial("h2", name)}, "dial gateway g:443 over h3, ws and h2: lookup g: no such host"},
		{[]error{dial("h3", errors.New("silent")), dial("ws", refused), dial("h2", refused)}, "dial gateway g:443 over h3: silent; over ws and h2: connection refused"},
		{[]error{dial("ws", refused), dial("h3", errors.New("silent")), dial("h2", refused), errors.New("other")}, "dial gateway g:443 over ws and h2: connection refused; over h3: silent; other"},
	} {
		err := noTransport(tt.failures)
		if got := strings.TrimPrefix(err.Error(), "no transport reaches the gateway: "); got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
		if _, ok := errors.AsType[*DialError](err); !ok {
			t.Errorf("%v does not wrap its failures", err)
		}
	}
}

// Where TCP has failed too, a transport over TCP is no remedy.
func TestOnlyATransportOverUDPAloneLeadsToTCP(t *testing.T) {
	blocked := Explain(&quic.IdleTimeoutError{})
	refused := hints.New(errors.New("refused"), "is it running?")
	for _, tt := range []struct {
		failures []error
		want     []string
	}{
		{[]error{blocked}, []string{`nothing answers over UDP; "transport" ws needs only TCP`}},
		{[]error{blocked, refused, errors.New("reset")}, []string{"is it running?"}},
		{[]error{blocked, errors.New("reset")}, nil},
	} {
		if got := hints.Of(noTransport(tt.failures), nil); !slices.Equal(got, tt.want) {
			t.Errorf("hints of %v = %q, want %q", tt.failures, got, tt.want)
		}
	}
}

// The end of an outage is logged as well as its beginning.
func TestTheEndOfAnOutageIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		n := &network{blocked: map[string]bool{"ws": true}}
		r := newRace([]string{"ws"}, n.hello)
		r.Log = slog.New(slog.NewTextHandler(&log, nil))
		defer r.Close()
		for range 3 {
			if _, err := r.Choose(t.Context()); err == nil {
				t.Fatal("a transport was chosen")
			}
			time.Sleep(10 * time.Second)
		}
		n.allow("ws")
		for range 2 {
			if _, err := r.Choose(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		lost, back := strings.Count(log.String(), "gateway not reached"), strings.Count(log.String(), `level=INFO msg="gateway reached" transport=ws after=30s`)
		if lost != 1 || back != 1 {
			t.Errorf("%d lines about the outage and %d about its end, want one each:\n%s", lost, back, &log)
		}
	})
}

// A network has transports that it blocks, and records their hellos.
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

// hellos returns the transports that said hello since the last call.
func (n *network) hellos() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	log := n.log
	n.log = nil
	return log
}

func (n *network) hello(_ context.Context, transport string) (struct{}, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.log = append(n.log, transport)
	if n.blocked[transport] {
		return struct{}{}, errBlocked
	}
	return struct{}{}, nil
}

func (n *network) race(unlikely ...string) *Race[struct{}] { return newRace(all, n.hello, unlikely...) }

func wantChoice(t *testing.T, r *Race[struct{}], want string) {
	t.Helper()
	if got, err := r.Choose(t.Context()); got.Transport != want {
		t.Errorf("choose = %q, %v, want %q", got.Transport, err, want)
	}
	synctest.Wait()
}

// now returns the Choice that a dial would get now.
func (r *Race[W]) now(transport string) Choice[W] {
	r.mu.Lock()
	defer r.mu.Unlock()
	return Choice[W]{Transport: transport, generation: r.chosen.generation}
}

func nothing() {}

func TestABrokenTransportIsProbedInTheBackgroundEverMoreSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{blocked: map[string]bool{"h3": true}}
		r := n.race()
		defer r.Close()
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
		// 30 s at first, then doubling, plus or minus a tenth; not before one minute is over.
		last := 30 * time.Second
		for i, at := range probes[1:] {
			gap := at - probes[i]
			if want := min(2*last, 15*time.Minute); gap < want-want/10-time.Second || gap > want+want/10+time.Second {
				t.Errorf("probe %d came %v after the one before, want about %v", i+1, gap, want)
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
		defer r.Close()
		var switches []time.Time
		r.OnState = func(s State) {
			if s.Transport != "" && !slices.ContainsFunc(switches, s.Since.Equal) {
				switches = append(switches, s.Since)
			}
		}
		wantChoice(t, r, "ws")
		n.allow("h3") // from now on h3 works whenever it is probed, and fails when it is used
		for range 20 {
			time.Sleep(61 * time.Second)
			wantChoice(t, r, "h3")
			n.block("h3")
			r.Refused(r.now("h3"), errBlocked)
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
		defer r.Close()
		wantChoice(t, r, "h3")
		old := r.now("h3")
		old.generation--
		r.Unanswered(old, errBlocked, func() { t.Error("what was dialled after the failure was dropped") })
		if !r.Refused(old, &exchange.AnswerError{Status: 401}) {
			t.Error("an outdated refusal ends a dial that would use another transport")
		}
		wantChoice(t, r, "h3")
		dropped := false
		r.Unanswered(r.now("h3"), errBlocked, func() { dropped = true })
		if !dropped {
			t.Error("what was ready is kept")
		}
		n.block("h3")
		wantChoice(t, r, "ws")
		if got := fmt.Sprint(n.hellos()); got != "[h3 h3 ws]" {
			t.Errorf("hellos of %s", got)
		}
		if !r.Refused(r.now("ws"), errBlocked) {
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

// quic-go's errors are all net.ErrClosed, too; that must not be taken for the end of the Dialer.
// auto once stayed with h3 as long as its handshakes timed out.
func TestAQUICHandshakeWithoutAnswerIsDecidedAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{blocked: map[string]bool{}}
		r := n.race()
		defer r.Close()
		wantChoice(t, r, "h3")
		n.block("h3")
		if !r.Refused(r.now("h3"), fmt.Errorf("QUIC handshake: %w", &quic.HandshakeTimeoutError{})) {
			t.Error("no other transport is tried")
		}
		wantChoice(t, r, "ws")
	})
}

// Tokens are being rotated: one replica knows the new token while another still answers 401.
func TestAVerdictAndAWinnerAtTheSameTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRace(all, func(_ context.Context, transport string) (struct{}, error) {
			if transport == "h3" {
				time.Sleep(400 * time.Millisecond)
				return struct{}{}, &exchange.AnswerError{Status: 401, Gateway: true}
			}
			time.Sleep(200 * time.Millisecond) // and ignores its cancellation
			return struct{}{}, nil
		})
		defer r.Close()
		for range 10 {
			if c, err := r.Choose(t.Context()); err == nil {
				t.Errorf("%s is in use in spite of the verdict", c.Transport)
			}
			time.Sleep(10 * time.Second)
		}
	})
}

// A probe that gets a 401, or the answer of a draining gateway, is no reason for another one at
// once.
func TestProbesAreFarApartWhateverTheyGet(t *testing.T) {
	for _, answer := range []error{&exchange.AnswerError{Status: 401, Gateway: true}, &exchange.AnswerError{Status: 503, Gateway: true}, &exchange.Error{Code: exchange.CodeDraining}} {
		synctest.Test(t, func(t *testing.T) {
			var probes atomic.Int32
			first := true
			r := newRace([]string{"h3", "ws"}, func(_ context.Context, transport string) (struct{}, error) {
				time.Sleep(20 * time.Millisecond)
				if transport == "ws" {
					return struct{}{}, nil
				}
				if first {
					first = false
					return struct{}{}, errBlocked
				}
				probes.Add(1)
				return struct{}{}, answer
			})
			defer r.Close()
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
		defer r.Close()
		wantChoice(t, r, "h2")
		r.mu.Lock()
		r.known["h3"].brokenUntil = time.Time{} // its probe was cancelled, or reached a draining gateway
		r.mu.Unlock()
		n.allow("h3")
		time.Sleep(20 * time.Minute)
		wantChoice(t, r, "h3")
	})
}

// The network cuts everything over h3 after a minute, and lets every hello pass.
func TestATransportThatIsCutAgainAndAgainIsUsedEverMoreSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{blocked: map[string]bool{}}
		r := n.race()
		defer r.Close()
		changes := 0
		for range 60 {
			c, err := r.Choose(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if c.Transport == "h3" {
				changes++
				r.Cut("h3")
			}
			time.Sleep(time.Minute)
		}
		if changes > 14 {
			t.Errorf("in %d of 60 minutes clients were cut", changes)
		}
	})
}

// With two gateways, the second must get its turn while the first one does not answer.
func TestAGatewayThatWasNotReachedIsNotWaitedForAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRace(all, course{"h3": {5 * time.Second, errBlocked}, "ws": {10 * time.Second, errBlocked}, "h2": {10 * time.Second, errBlocked}}.hello)
		defer r.Close()
		r.Choose(t.Context())
		for range 1000 {
			start := time.Now()
			if _, err := r.Choose(t.Context()); !errors.Is(err, errBlocked) || time.Since(start) > 2*time.Second {
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
		defer r.Close()
		wantChoice(t, r, "h3")
		for range 100 { // at the same time: one event
			r.Cut("h3")
		}
		wantChoice(t, r, "h3")
		time.Sleep(11 * time.Minute)
		r.Cut("h3")
		wantChoice(t, r, "h3")
		time.Sleep(9 * time.Minute)
		r.Cut("h3")
		wantChoice(t, r, "ws")
		if s := r.State(); !strings.Contains(s.Why, "cut twice") {
			t.Errorf("why = %q", s.Why)
		}
		r.Cut("no such transport")
	})
}

// Even if every transport is cut again and again, one of them is in use.
func TestNothingIsFinal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{blocked: map[string]bool{}}
		r := n.race()
		defer r.Close()
		for i := range 50 {
			c, err := r.Choose(t.Context())
			transport := c.Transport
			if err != nil {
				t.Fatalf("after %d cuts: %v", 2*i, err)
			}
			r.Cut(transport)
			time.Sleep(25 * time.Second)
			r.Cut(transport)
		}
	})
}

func TestAVerdictKeepsLoginsFromTheIngress(t *testing.T) {
	for name, tt := range map[string]struct {
		err  error
		most int // tries within ten minutes
	}{
		"wrong token": {&exchange.AnswerError{Status: 401, Gateway: true}, 30},
		"login page":  {&exchange.AnswerError{Status: 302, Location: "login.example.com"}, 30},
		"nobody":      {errors.New("connection refused"), 180},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var hellos atomic.Int32
				var healed atomic.Bool
				r := newRace([]string{"ws"}, func(context.Context, string) (struct{}, error) {
					hellos.Add(1)
					time.Sleep(50 * time.Millisecond)
					if healed.Load() {
						return struct{}{}, nil
					}
					return struct{}{}, tt.err
				})
				defer r.Close()
				var clients sync.WaitGroup
				// 12,000 dials. Timers by the hundred thousand in a bubble crash the race detector:
				// https://go.dev/issue/78156.
				for range 20 {
					clients.Go(func() {
						for range 600 {
							if _, err := r.Choose(t.Context()); !errors.Is(err, tt.err) {
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

// A dial fails over a transport that works: the token has just been revoked.
func TestAnAnswerToADialIsAVerdict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{blocked: map[string]bool{}}
		r := n.race()
		defer r.Close()
		wantChoice(t, r, "h3")
		if r.Refused(r.now("h3"), &exchange.AnswerError{Status: 401, Gateway: true}) {
			t.Error("another transport was tried with the same token")
		}
		if _, err := r.Choose(t.Context()); err == nil {
			t.Error("no verdict")
		}
		if s := r.State(); s.Transport != "" || s.Error == "" || s.RetryAt.IsZero() {
			t.Errorf("state = %+v", s)
		}
		time.Sleep(2 * time.Second)
		wantChoice(t, r, "h3")
	})
}

func TestManyDialsShareARace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		r := newRace([]string{"h3"}, func(context.Context, string) (struct{}, error) {
			n++
			time.Sleep(time.Second)
			return struct{}{}, nil
		})
		defer r.Close()
		for range 10 {
			go r.Choose(t.Context())
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if n != 1 {
			t.Errorf("%d hellos for ten dials", n)
		}
		done, cancel := context.WithCancel(t.Context())
		cancel()
		r.Unanswered(r.now("h3"), errors.New("x"), nothing)
		if _, err := r.Choose(done); !errors.Is(err, context.Canceled) {
			t.Errorf("choose with a canceled context: %v", err)
		}
	})
}

func TestWhatIsUnlikelyIsProbedSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{blocked: map[string]bool{"h3": true}}
		r := n.race("h3")
		defer r.Close()
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

// A transport that is not unlikely gets all the time it needs, even when it is lost a day later;
// the others are for when it fails.
func TestWhatIsUnlikelyIsTriedWhenTheOthersHaveFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{blocked: map[string]bool{"h3": true}}
		r := n.race("h3", "h2")
		defer r.Close()
		slow := n.hello
		r.Hello = func(ctx context.Context, transport string) (struct{}, error) {
			time.Sleep(8 * time.Second)
			return slow(ctx, transport)
		}
		for range 2 {
			wantChoice(t, r, "ws")
			n.hellos()
			time.Sleep(24 * time.Hour)
			if got := n.hellos(); slices.Contains(got, "h2") {
				t.Errorf("hellos of %s", got)
			}
			r.Unanswered(r.now("ws"), errBlocked, nothing)
		}
		n.block("ws")
		wantChoice(t, r, "h2")
	})
}

// A verdict of the ingress is about all transports, so the others are not tried.
func TestAFinalAnswerOfTheIngressEndsTheRace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{blocked: map[string]bool{}}
		r := n.race()
		defer r.Close()
		var asked []string
		r.Hello = func(ctx context.Context, transport string) (struct{}, error) {
			asked = append(asked, transport)
			return struct{}{}, &exchange.AnswerError{Status: 404, Final: true, Text: "no such endpoint"}
		}
		if _, err := r.Choose(t.Context()); err == nil || err.Error() != "no such endpoint" || len(asked) != 1 {
			t.Errorf("choose = %v, after %q were asked", err, asked)
		}
	})
}

// The log says each verdict once: a service that is starting, and then a token that is refused, are
// two different things.
func TestEachVerdictIsLoggedOnce(t *testing.T) {
	var log bytes.Buffer
	r := newRace([]string{"ws"}, nil)
	r.Log = slog.New(slog.NewTextHandler(&log, nil))
	defer r.Close()
	for _, err := range []error{
		&exchange.AnswerError{Status: 503, Text: "starting, request 1"}, &exchange.AnswerError{Status: 503, Text: "starting, request 2"},
		&exchange.AnswerError{Status: 302}, &exchange.AnswerError{Status: 302},
		CredentialsError{errors.New("no such user")}, CredentialsError{errors.New("no such user")}, CredentialsError{errors.New("wrong clock")},
		errors.New("connection refused"), errors.New("connection reset"),
	} {
		r.failLocked(err)
	}
	if n := strings.Count(log.String(), "gateway not reached"); n != 5 {
		t.Errorf("%d lines, want one for each of 503, 302, no such user, wrong clock, connection:\n%s", n, &log)
	}
}

// Without credentials no transport is blamed.
func TestWithoutCredentialsNoTransportIsBroken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRace(all, func(context.Context, string) (struct{}, error) {
			return struct{}{}, CredentialsError{errors.New("no such user")}
		})
		defer r.Close()
		if _, err := r.Choose(t.Context()); err == nil {
			t.Error("a transport was chosen")
		}
		for name, k := range r.known {
			if !k.brokenUntil.IsZero() {
				t.Errorf("%s is broken until %v", name, k.brokenUntil)
			}
		}
	})
}
