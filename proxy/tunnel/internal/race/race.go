// Package race chooses the transport for new streams. It sends a hello over each transport,
// remembers how that went, and decides what an error means for the choice.
package race

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/culvert-proxy/culvert/proxy/internal/backoff"
)

// A Transport is one that a [Race] can choose.
type Transport struct {
	Name string
	// HeadStart is how long this transport is tried before less preferred ones start.
	HeadStart time.Duration
	// Unlikely transports are not expected to work. They are tried when the others have failed, and
	// rarely otherwise.
	Unlikely bool
	// Remedies say what a user can do about a fault; "" means there is no specific advice.
	Remedies [faults]string
	// Unfixed is the remedy for Slow if Mend does not help.
	Unfixed string
}

// Config configures a [Race]. W is the gateway's answer to a hello.
type Config[W any] struct {
	Transports []Transport // most preferred first
	// Hello tries a transport end to end. A successful handshake is not enough: some intermediaries
	// accept an exchange and then carry nothing.
	Hello func(ctx context.Context, transport string) (W, error)
	// Measure measures a transport on a carrier of its own, in what matters for a fault.
	Measure func(ctx context.Context, transport string, f Fault) (Pace, error)
	// Mend returns another way to use a transport that may be faster: its name, and a function that
	// changes to it and returns one that changes back. The name is "" if there is none. nil means
	// that no transport has one.
	Mend func(transport string) (how string, try func() (undo func()))
	// OnFault is called when a transport has a fault, with the Race's lock held; nil means nobody is
	// told.
	OnFault func(transport string, f Fault, o Outcome)
	OnState func(State) // called on changes, with the Race's lock held; nil means nobody is told
	Timing  Timing
	Log     *slog.Logger
}

// Timing holds the durations for choosing a transport.
type Timing struct {
	// A failed transport is probed after Probe, which doubles with each failure up to ProbeMost.
	// The other two apply to transports that are Unlikely.
	Probe, ProbeMost                 time.Duration
	UnlikelyProbe, UnlikelyProbeMost time.Duration

	SwitchEvery time.Duration // minimum time between changes to a more preferred transport
	CutWindow   time.Duration // two cuts within this demote a transport
	CutApart    time.Duration // cuts closer together than this count as one

	// If the gateway was not reached, the next try is due after Retry, which doubles up to
	// RetryMost. The other two apply if waiting alone will not change the answer.
	Retry, RetryMost                   time.Duration
	PermanentRetry, PermanentRetryMost time.Duration
	MaxWait                            time.Duration // a dial waits for a try that is due within this

	// After a check that found no fault, the next is due after Check, which doubles up to CheckMost.
	// 0 means that no faults are looked for.
	Check, CheckMost time.Duration
}

// DefaultTiming is for production; tests shorten it.
var DefaultTiming = Timing{
	Probe: 30 * time.Second, ProbeMost: 15 * time.Minute,
	UnlikelyProbe: 15 * time.Minute, UnlikelyProbeMost: 4 * time.Hour,

	SwitchEvery: time.Minute,
	CutWindow:   10 * time.Minute,
	// Streams notice an outage by a missing KEEPALIVE, so at times up to one interval apart.
	CutApart: 20 * time.Second,

	Retry: 250 * time.Millisecond, RetryMost: 5 * time.Second,
	PermanentRetry: time.Second, PermanentRetryMost: 30 * time.Second,
	MaxWait: time.Second,

	Check: time.Minute, CheckMost: 30 * time.Minute,
}

// A Race decides which transport new streams take.
//
// In a round the transports start one after the other, most preferred first, and the first whose
// hello succeeds is chosen. More preferred ones that are still running may replace it. A failed
// transport is broken for a while and is then probed in the background; when it works, new streams
// move to it. After a dial that fails or gets no answer, the choice is made again at once. No
// decision is final.
//
// If no transport works, that verdict is kept: until the next try is due, dials return its error
// without a try of their own. So a thousand clients that reconnect do not cause a thousand logins
// at an ingress.
type Race[W any] struct {
	Config[W]
	order []string        // most preferred first
	ctx   context.Context // of the hellos
	stop  context.CancelFunc
	tasks sync.WaitGroup

	mu       sync.Mutex
	closed   bool
	known    map[string]*candidate
	chosen   chosen
	failed   verdict
	running  *round[W]
	checking bool        // a check is running
	timer    *time.Timer // runs probe
}

// chosen is the transport in use.
type chosen struct {
	transport  string // "" if there is none
	generation int    // incremented with each change of transport
	since      time.Time
	why        string
	last       string // the transport that was in use last, even while there is none
}

// A verdict records that no transport works.
type verdict struct {
	err     error // nil if there is no verdict
	retryAt time.Time
	inARow  int       // consecutive verdicts without a success
	since   time.Time // of the first of them
	logged  []string  // the kinds of those that have been logged
}

// A candidate is what the race knows about one transport.
type candidate struct {
	Transport
	tried       time.Time // end of the last hello; zero if there was none
	took        time.Duration
	err         error     // result of the last hello, or what ended the use of the transport later
	failures    int       // consecutive
	brokenUntil time.Time // not tried before this
	cut         time.Time // when a stream was last cut
	demoted     int       // how often cuts have demoted it, without a quiet CutWindow in between
	doubts      [faults]doubts
	fixed       string // how it is used differently since a fault was found; "" if there was none
}

// A Choice tells a dial which transport to take.
type Choice[W any] struct {
	Transport string
	Welcome   *W // the gateway's answer, if the dial waited for a round; otherwise nil

	generation int // of the choice; if it has changed, somebody else has already reported the failure
}

// New returns a race. Its first round starts with the first Choose. ctx ends its hellos, as does
// Close.
func New[W any](ctx context.Context, c Config[W]) *Race[W] {
	r := &Race[W]{Config: c, known: make(map[string]*candidate)}
	for _, t := range c.Transports {
		r.order = append(r.order, t.Name)
		k := &candidate{Transport: t}
		if t.Unlikely {
			k.brokenUntil = time.Now().Add(c.Timing.UnlikelyProbe)
		}
		r.known[t.Name] = k
	}
	r.ctx, r.stop = context.WithCancel(ctx)
	return r
}

// Choose returns the transport to use. If there is none it waits for a round, including one that is
// due soon. If the last round has failed it waits no longer than MaxWait and then returns that
// failure.
func (r *Race[W]) Choose(ctx context.Context) (Choice[W], error) {
	for {
		r.mu.Lock()
		now, failed := Choice[W]{Transport: r.chosen.transport, generation: r.chosen.generation}, r.failed.err
		if r.closed {
			failed = net.ErrClosed
		}
		if now.Transport != "" && !r.closed {
			r.mu.Unlock()
			return now, nil
		}
		wait := time.Until(r.failed.retryAt)
		if r.closed || failed != nil && (wait > r.Timing.MaxWait || wait > 0 && permanent(failed)) {
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
			return Choice[W]{h.winner, &h.welcome, h.generation}, h.err
		}
	}
}

// await waits for a round. If the previous one failed, it returns that error after MaxWait.
func (r *Race[W]) await(ctx context.Context, done <-chan struct{}, failed error) error {
	var late <-chan time.Time
	if failed != nil {
		t := time.NewTimer(r.Timing.MaxWait)
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

// sleep waits for d, or for the end of ctx.
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

// Proven reports whether a transport was the last in use. If so, a refusal over it is about the
// request and not about the transport.
func (r *Race[W]) Proven(transport string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.chosen.last == transport
}

// rank is a transport's place in the order of preference; 0 is the most preferred.
func (r *Race[W]) rank(transport string) int { return slices.Index(r.order, transport) }

// try sends one hello and records its result, unless it was canceled.
func (r *Race[W]) try(ctx context.Context, transport string) (W, error) {
	start := time.Now()
	welcome, err := r.Hello(ctx, transport)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil && ctx.Err() != nil {
		return welcome, err
	}
	k := r.known[transport]
	k.tried, k.took, k.err = time.Now(), time.Since(start), err
	if err == nil {
		k.failures, k.brokenUntil = 0, time.Time{}
	} else if !Authoritative(err) && !Draining(err) {
		r.breakLocked(k)
	}
	return welcome, err
}

// breakLocked postpones the next try of a transport, twice as long as the last time.
func (r *Race[W]) breakLocked(k *candidate) {
	first, most := r.Timing.Probe, r.Timing.ProbeMost
	if k.Unlikely {
		first, most = r.Timing.UnlikelyProbe, r.Timing.UnlikelyProbeMost
	}
	k.brokenUntil = time.Now().Add(backoff.Delay(k.failures, first, most))
	k.failures++
}

// failLocked records a verdict: dials return err until the next try is due. It logs each verdict
// once.
func (r *Race[W]) failLocked(err error) {
	first, most := r.Timing.Retry, r.Timing.RetryMost
	if permanent(err) {
		first, most = r.Timing.PermanentRetry, r.Timing.PermanentRetryMost
	}
	wait := backoff.Delay(r.failed.inARow, first, most)
	if r.failed.isNews(err) {
		r.Log.Warn("gateway not reached", "err", err, "retry_in", wait)
	}
	if r.failed.inARow == 0 {
		r.failed.since = time.Now()
	}
	r.failed.err, r.failed.retryAt = err, time.Now().Add(wait)
	r.failed.inARow++
	r.setLocked("")
	r.notifyLocked()
}

// setLocked changes the transport in use; "" is none. Failures of dials that chose the old one no
// longer count.
func (r *Race[W]) setLocked(transport string) {
	r.chosen.transport = transport
	r.chosen.generation++
}

// A change is why the transport in use changes. The zero value means that a round has chosen.
type change struct {
	why     string
	remedy  string // what to do about it; may be empty
	cheaper bool   // nothing is wrong, but the new one takes less CPU time
}

// switchLocked makes a transport the one in use, and logs the change, and the end of an outage.
func (r *Race[W]) switchLocked(to string, c change) {
	if r.failed.inARow > 0 {
		r.Log.Info("gateway reached", "transport", to, "after", time.Since(r.failed.since))
	}
	r.failed = verdict{}
	if to == r.chosen.transport {
		return
	}
	from := r.chosen.last
	why := cmp.Or(c.why, r.reasonLocked(to))
	r.setLocked(to)
	r.chosen.last, r.chosen.since, r.chosen.why = to, time.Now(), why
	switch {
	case len(r.order) == 1:
	case from == "":
		r.Log.Info("tunnel transport chosen", "transport", to, "why", why)
	case from == to:
	case r.rank(to) < r.rank(from):
		r.Log.Info("tunnel transport changed for a better one", "from", from, "to", to, "why", why)
	case c.cheaper:
		r.Log.Info("tunnel transport changed for a cheaper one", "from", from, "to", to, "why", why)
	default:
		r.logWith(c.remedy).Warn("tunnel transport changed", "from", from, "to", to, "why", why)
	}
	r.notifyLocked()
}

// notifyLocked reports the state to OnState.
func (r *Race[W]) notifyLocked() {
	if r.OnState != nil {
		r.OnState(r.stateLocked())
	}
}

// reasonLocked says why a transport is chosen, and none that is more preferred.
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

// Unanswered reports that a stream made from something that was ready got no answer, although its
// transport worked before. The first report about a choice calls drop, because everything else that
// is ready may be dead too, and the next dial makes the choice again. drop is called without the
// lock.
func (r *Race[W]) Unanswered(c Choice[W], err error, drop func()) {
	r.mu.Lock()
	if r.chosen.generation != c.generation {
		r.mu.Unlock()
		return
	}
	r.chosen.generation++ // only one caller drops, and never what is dialled later
	r.mu.Unlock()
	drop()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.known[c.Transport].err = err
	if r.chosen.transport == c.Transport {
		r.setLocked("")
	}
}

// Refused reports that a dial failed with err. It returns true if another transport may succeed.
func (r *Race[W]) Refused(c Choice[W], err error) (again bool) {
	if errors.Is(err, context.Canceled) {
		return false
	}
	if Draining(err) {
		return true // a new carrier may lead to another gateway
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.chosen.generation != c.generation {
		return !r.closed // the transport has changed since
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

// Cut reports a stream that was cut by something between the ends. Two cuts within CutWindow demote
// the transport, for twice as long each time. Many streams that are cut at about the same time, as
// by the restart of an ingress or a gateway, count as one cut.
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
	k.brokenUntil = now.Add(backoff.Delay(k.demoted, r.Timing.Probe, r.Timing.ProbeMost))
	k.demoted++
	if r.chosen.transport == transport {
		r.setLocked("")
	}
}

// Close ends the hellos and waits for them. Choose then returns net.ErrClosed.
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
