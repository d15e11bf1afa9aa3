// Package race chooses the transport that new streams take: it has the transports say hello to the gateway, remembers what is known of each, and
// knows which error means what.
package race

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/culvert-proxy/culvert/proxy/backoff"
)

// A Transport is one of those that a [Race] chooses from.
type Transport struct {
	Name string
	// HeadStart is for how long nothing that is worse starts beside it.
	HeadStart time.Duration
	// Unlikely transports are not expected to work: they are tried when the others have failed, and otherwise seldom.
	Unlikely bool
}

// Config is what a [Race] is made of. W is what a gateway says to a hello.
type Config[W any] struct {
	Transports []Transport // by preference
	// Hello tries a transport end to end. Intermediaries are known that accept an exchange and then carry nothing.
	Hello   func(ctx context.Context, transport string) (W, error)
	OnState func(State) // told of changes, under a lock of the Race's; nil means nobody
	Timing  Timing
	Log     *slog.Logger
}

// Timing holds the durations of choosing a transport.
type Timing struct {
	// A transport that failed is probed after Probe, which doubles with each failure up to ProbeMost; one that is Unlikely, after the other two.
	Probe, ProbeMost                 time.Duration
	UnlikelyProbe, UnlikelyProbeMost time.Duration

	SwitchEvery time.Duration // changes for the better are this far apart
	CutWindow   time.Duration // two cuts within this demote a transport
	CutApart    time.Duration // cuts that are closer together are one

	// A gateway that was not reached is tried again after Retry, which doubles up to RetryMost; where time alone does not change the answer, after
	// the other two.
	Retry, RetryMost       time.Duration
	Hopeless, HopelessMost time.Duration
	Patience               time.Duration // a dial waits for a try that is due within this
}

// DefaultTiming is right for the world as it is; tests shorten it.
var DefaultTiming = Timing{
	Probe: 30 * time.Second, ProbeMost: 15 * time.Minute,
	UnlikelyProbe: 15 * time.Minute, UnlikelyProbeMost: 4 * time.Hour,

	SwitchEvery: time.Minute,
	CutWindow:   10 * time.Minute,
	CutApart:    20 * time.Second, // streams learn of an outage by what does not come, within a KEEPALIVE of each other

	Retry: 250 * time.Millisecond, RetryMost: 5 * time.Second,
	Hopeless: time.Second, HopelessMost: 30 * time.Second,
	Patience: time.Second,
}

// A Race decides which transport new streams take.
//
// The transports start one after the other, the best first, and the first whose hello succeeds is taken. Better ones may still succeed, and take
// its place. One that failed is broken for a while, and is then probed in the background; new streams move when it works. A dial that fails, or is
// not answered, makes the decision anew at once. Nothing is ever final.
//
// When no transport works, that is a verdict too: dials fail from it, without a try of their own, until the next try is due. A thousand clients
// that try again are then no thousand logins at an ingress.
type Race[W any] struct {
	Config[W]
	order []string        // by preference
	ctx   context.Context // of the hellos
	stop  context.CancelFunc
	tasks sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	known   map[string]*candidate
	chosen  chosen
	failed  verdict
	running *round[W]
	timer   *time.Timer // probes
}

// chosen is the transport that is used.
type chosen struct {
	transport string // "" for none
	turn      int    // changes with transport
	since     time.Time
	why       string
	last      string // the transport that was used last, also while there is none
}

// A verdict is that no transport works.
type verdict struct {
	err     error // nil if nothing is known
	retryAt time.Time
	inARow  int // verdicts, without one that worked in between
}

// A candidate is what is known of one transport.
type candidate struct {
	Transport
	tried    time.Time // when the last hello ended; zero if there was none
	took     time.Duration
	err      error     // how it ended, or what ended the transport's use after it
	failures int       // in a row
	broken   time.Time // until then it is not tried
	cut      time.Time // when a stream was cut last
	demoted  int       // how often cuts have demoted it without a quiet CutWindow in between
}

// A Choice is what a dial is to take.
type Choice[W any] struct {
	Transport string
	Welcome   *W // what the gateway said in a round that was waited for; nil if there was none

	turn int // tells whether somebody has found out already that the choice was wrong
}

// New returns a race, which begins with the first Choose. Its hellos end with ctx, or with Close.
func New[W any](ctx context.Context, c Config[W]) *Race[W] {
	r := &Race[W]{Config: c, known: make(map[string]*candidate)}
	for _, t := range c.Transports {
		r.order = append(r.order, t.Name)
		k := &candidate{Transport: t}
		if t.Unlikely {
			k.broken = time.Now().Add(c.Timing.UnlikelyProbe)
		}
		r.known[t.Name] = k
	}
	r.ctx, r.stop = context.WithCancel(ctx)
	return r
}

// Choose returns the transport to use, and waits for a round where there is none, also for one that is due soon. Where the gateway was not reached
// lately it waits no longer than Patience.
func (r *Race[W]) Choose(ctx context.Context) (Choice[W], error) {
	for {
		r.mu.Lock()
		now, failed := Choice[W]{Transport: r.chosen.transport, turn: r.chosen.turn}, r.failed.err
		if r.closed {
			failed = net.ErrClosed
		}
		if now.Transport != "" && !r.closed {
			r.mu.Unlock()
			return now, nil
		}
		wait := time.Until(r.failed.retryAt)
		if r.closed || failed != nil && (wait > r.Timing.Patience || wait > 0 && hopeless(failed)) {
			r.mu.Unlock()
			return Choice[W]{}, failed
		}
		if failed != nil && wait > 0 {
			r.mu.Unlock()
			if err := sleep(ctx, wait); err != nil {
				return Choice[W]{}, err
			}
			continue
		}
		h, done := r.roundLocked()
		r.mu.Unlock()
		if err := r.await(ctx, done, failed); err != nil {
			return Choice[W]{}, err
		}
		if done == h.decided {
			return Choice[W]{h.winner, &h.welcome, h.turn}, h.err
		}
	}
}

// await waits for a round, but not for long if the one before has failed.
func (r *Race[W]) await(ctx context.Context, done <-chan struct{}, failed error) error {
	var late <-chan time.Time
	if failed != nil {
		t := time.NewTimer(r.Timing.Patience)
		defer t.Stop()
		late = t.C
	}
	select {
	case <-done:
		return nil
	case <-late:
		return failed
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Proven reports whether a transport was the last in use: what is answered over it is about the request.
func (r *Race[W]) Proven(transport string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.chosen.last == transport
}

func (r *Race[W]) rank(transport string) int { return slices.Index(r.order, transport) }

// breakLocked puts off the next try of a transport, twice as far as the last time.
func (r *Race[W]) breakLocked(k *candidate) {
	first, most := r.Timing.Probe, r.Timing.ProbeMost
	if k.Unlikely {
		first, most = r.Timing.UnlikelyProbe, r.Timing.UnlikelyProbeMost
	}
	k.broken = time.Now().Add(backoff.Delay(k.failures, first, most))
	k.failures++
}

// failLocked has dials fail with err until the next try is due.
func (r *Race[W]) failLocked(err error) {
	first, most := r.Timing.Retry, r.Timing.RetryMost
	if hopeless(err) {
		first, most = r.Timing.Hopeless, r.Timing.HopelessMost
	}
	wait := backoff.Delay(r.failed.inARow, first, most)
	if r.failed.inARow == 0 || r.chosen.transport != "" || r.failed.err == nil || !sameVerdict(r.failed.err, err) {
		r.Log.Warn("gateway not reached", "err", err, "retry_in", wait.Round(time.Millisecond))
	}
	r.failed = verdict{err, time.Now().Add(wait), r.failed.inARow + 1}
	r.setLocked("")
	r.tellLocked()
}

func (r *Race[W]) setLocked(transport string) {
	r.chosen.transport = transport
	r.chosen.turn++
}

// switchLocked makes a transport the one that is used.
func (r *Race[W]) switchLocked(to, why string) {
	r.failed.err, r.failed.inARow = nil, 0
	if to == r.chosen.transport {
		return
	}
	from := r.chosen.last
	if why == "" {
		why = r.reasonLocked(to)
	}
	r.setLocked(to)
	r.chosen.last, r.chosen.since, r.chosen.why = to, time.Now(), why
	switch {
	case len(r.order) == 1:
	case from == "":
		r.Log.Info("tunnel transport chosen", "transport", to, "why", why)
	case from == to:
	case r.rank(to) < r.rank(from):
		r.Log.Info("tunnel transport changed for a better one", "from", from, "to", to, "why", why)
	default:
		r.Log.Warn("tunnel transport changed", "from", from, "to", to, "why", why)
	}
	r.tellLocked()
}

func (r *Race[W]) tellLocked() {
	if r.OnState != nil {
		r.OnState(r.stateLocked())
	}
}

// reasonLocked says why a transport is taken and none that is better.
func (r *Race[W]) reasonLocked(to string) string {
	var reasons []string
	for _, t := range r.order[:r.rank(to)] {
		switch k := r.known[t]; {
		case k.err != nil:
			reasons = append(reasons, fmt.Sprintf("%s failed: %v", t, k.err))
		case k.tried.IsZero() && k.Unlikely:
			reasons = append(reasons, t+" is not expected to work at this host")
		default:
			reasons = append(reasons, t+" has not answered yet")
		}
	}
	if reasons == nil {
		return "it answered, and is the first choice"
	}
	return strings.Join(reasons, "; ")
}

// Unanswered says that nothing came back over what was ready, which worked before. The first to say so of a choice has drop called, and the next
// dial decides anew.
func (r *Race[W]) Unanswered(c Choice[W], err error, drop func()) {
	r.mu.Lock()
	if r.chosen.turn != c.turn {
		r.mu.Unlock()
		return
	}
	r.chosen.turn++ // nobody else drops, and least of all what comes next
	r.mu.Unlock()
	drop()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.known[c.Transport].err = err
	if r.chosen.transport == c.Transport {
		r.setLocked("")
	}
}

// Refused takes note that a dial failed with err. It reports whether another transport may do better.
func (r *Race[W]) Refused(c Choice[W], err error) (again bool) {
	if errors.Is(err, context.Canceled) {
		return false
	}
	if Draining(err) {
		return true // a fresh carrier may lead to another gateway
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.chosen.turn != c.turn {
		return !r.closed // things have changed since
	}
	k := r.known[c.Transport]
	k.err = err
	if endsRace(err) {
		r.failLocked(err)
		return false
	}
	r.setLocked("")
	r.breakLocked(k)
	return !r.closed
}

// Cut counts a stream that was cut by whatever is between the ends. Two such events within CutWindow demote a transport, for twice as long each
// time; many streams that are cut at about the same time, by the restart of an ingress or a gateway, are one event.
func (r *Race[W]) Cut(transport string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := r.known[transport]
	if k == nil || len(r.order) == 1 {
		return
	}
	now := time.Now()
	since := now.Sub(k.cut)
	if !k.cut.IsZero() && since < r.Timing.CutApart {
		return
	}
	first := k.cut.IsZero() || since > r.Timing.CutWindow
	k.cut = now
	if first {
		k.demoted = 0
		return
	}
	k.err = errors.New("streams over it were cut twice within " + r.Timing.CutWindow.String())
	k.broken = now.Add(backoff.Delay(k.demoted, r.Timing.Probe, r.Timing.ProbeMost))
	k.demoted++
	if r.chosen.transport == transport {
		r.setLocked("")
	}
}

// Close ends the hellos and waits for them. Choose fails with net.ErrClosed from then on.
func (r *Race[W]) Close() {
	r.mu.Lock()
	r.closed = true
	if r.timer != nil {
		r.timer.Stop()
	}
	r.mu.Unlock()
	r.stop()
	r.tasks.Wait()
}
