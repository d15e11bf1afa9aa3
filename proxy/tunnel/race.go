package tunnel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/culvert-proxy/culvert/proxy/printable"
)

// A race decides which transport new streams take. A transport counts as working when its exchange has answered a hello with its echo:
// intermediaries are known that accept an exchange and then carry nothing.
//
// The transports start one after the other, the best first, and the first that works is taken. Those that are better may still come in, and
// take its place. One that failed is broken for a while, which doubles with each failure, and is then probed in the background; new streams
// move when it works. A dial that fails, or is not answered, makes the decision anew at once. Nothing is ever final.
//
// When no transport works, that is a verdict too: dials fail from it, without a try of their own, until the next try is due. A thousand
// clients that try again are then no thousand logins at an ingress.
type race struct {
	order []string    // by preference
	say   func(State) // told of changes; may be nil
	hello func(ctx context.Context, transport string) (Welcome, error)
	t     timing
	log   *slog.Logger
	ctx   context.Context // of the hellos
	stop  context.CancelFunc
	tasks sync.WaitGroup

	mu       sync.Mutex
	closed   bool
	current  string // "" for none
	turn     int    // changes with current
	since    time.Time
	last     string // the one before, which a change is said to be from
	why      string
	legs     map[string]*leg
	failed   error // why there is none; nil if that is not known
	retryAt  time.Time
	failures int // in a row, of all transports
	running  *heat
	timer    *time.Timer // probes
}

// A leg is what is known of one transport.
type leg struct {
	tried    time.Time // when the last hello ended; zero if there was none
	took     time.Duration
	err      error // how it ended, or what ended the transport's use after it
	rare     bool  // to be probed seldom
	failures int   // in a row
	broken   time.Time
	cut      time.Time // when a stream was cut last
	demoted  int       // how often cuts have demoted it without ten quiet minutes in between
}

// A heat is one run of the race. It is over some time after it is decided, when those that are better have come in or failed.
type heat struct {
	ctx     context.Context
	cancel  context.CancelFunc
	decided chan struct{}
	over    chan struct{}

	// Valid after decided.
	winner  string
	turn    int
	welcome Welcome
	err     error
}

// A choice is what a dial is to take. When it turns out to be wrong, turn tells whether somebody has found that out already.
type choice struct {
	transport string
	turn      int
	welcome   *Welcome // what the gateway said in a heat that was waited for; nil if there was none
}

// transports are those that auto tries for a gateway, the best first.
func transports(scheme string) []string {
	if scheme == "http" {
		return []string{TransportWS, TransportH2}
	}
	return []string{TransportH3, TransportWS, TransportH2}
}

func newRace(order []string, t timing, log *slog.Logger, hello func(context.Context, string) (Welcome, error)) *race {
	r := &race{order: order, t: t, log: log, hello: hello, legs: make(map[string]*leg)}
	for _, transport := range order {
		r.legs[transport] = &leg{}
	}
	r.ctx, r.stop = context.WithCancel(context.Background())
	return r
}

// putOff says that a transport is to be tried when all others have failed, and otherwise seldom.
func (r *race) putOff(transport string) {
	if l := r.legs[transport]; l != nil {
		l.rare = true
		l.broken = time.Now().Add(r.t.rareProbe)
	}
}

// choose returns the transport to use, and waits for a heat where there is none, also for one that is due soon. Where the gateway was not
// reached lately it waits no longer than its patience is.
func (r *race) choose(ctx context.Context) (choice, error) {
	for {
		r.mu.Lock()
		now, failed := choice{transport: r.current, turn: r.turn}, r.failed
		if r.closed {
			failed = net.ErrClosed
		}
		if now.transport != "" && !r.closed {
			r.mu.Unlock()
			return now, nil
		}
		wait := time.Until(r.retryAt)
		if r.closed || failed != nil && (wait > r.t.patience || wait > 0 && hopeless(failed)) {
			r.mu.Unlock()
			return choice{}, failed
		}
		if failed != nil && wait > 0 {
			r.mu.Unlock()
			if err := sleep(ctx, wait); err != nil {
				return choice{}, err
			}
			continue
		}
		h, done := r.heatLocked()
		r.mu.Unlock()
		if err := r.await(ctx, done, failed); err != nil {
			return choice{}, err
		}
		if done == h.decided {
			return choice{h.winner, h.turn, &h.welcome}, h.err
		}
	}
}

// await waits for a heat, but not for long if the one before has failed.
func (r *race) await(ctx context.Context, done <-chan struct{}, failed error) error {
	var late <-chan time.Time
	if failed != nil {
		t := time.NewTimer(r.t.patience)
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

// heatLocked returns a heat and what to wait for: the decision of one that is on, or that is started; or, where its winner is lost already, its
// end.
func (r *race) heatLocked() (h *heat, done <-chan struct{}) {
	if h = r.running; h != nil {
		if h.winner == "" {
			return h, h.decided
		}
		h.cancel()
		return h, h.over
	}
	h = &heat{decided: make(chan struct{}), over: make(chan struct{})}
	h.ctx, h.cancel = context.WithCancel(r.ctx)
	r.running = h
	first, later := r.fieldLocked()
	r.tasks.Go(func() { r.run(h, first, later) })
	return h, h.decided
}

// fieldLocked splits the transports into those that start by themselves, and those that start when nothing else works: they are broken, or not
// expected to work.
func (r *race) fieldLocked() (first, later []string) {
	for _, t := range r.order {
		l := r.legs[t]
		if time.Now().Before(l.broken) || l.rare && (l.tried.IsZero() || l.err != nil) {
			later = append(later, t)
		} else {
			first = append(first, t)
		}
	}
	if len(first) == 0 {
		return later, nil
	}
	return first, later
}

type result struct {
	transport string
	welcome   Welcome
	err       error
}

// run has the transports say hello until one works and those that are better have ended.
func (r *race) run(h *heat, first, later []string) {
	results := make(chan result, len(r.order))
	running := make(map[string]context.CancelFunc)
	start := func(transport string) {
		ctx, cancel := context.WithCancel(h.ctx)
		running[transport] = cancel
		r.tasks.Go(func() {
			welcome, err := r.try(ctx, transport)
			results <- result{transport, welcome, err}
		})
	}
	due := make(chan struct{}, 1)
	wake := func() {
		select {
		case due <- struct{}{}:
		default:
		}
	}
	next := time.AfterFunc(r.t.silent, wake)
	defer next.Stop()
	wake()
	var failures []error
	decided := false
	for len(running) > 0 || !decided && len(first) > 0 {
		select {
		case <-due:
			if decided || len(first) == 0 {
				continue
			}
			start(first[0])
			next.Reset(r.alone(first[0]))
			first = first[1:]
		case got := <-results:
			running[got.transport]()
			delete(running, got.transport)
			switch {
			case decided && h.winner == "": // the gateway has said who may not come in
			case got.err == nil:
				r.won(h, got)
				decided = true
				r.cancelWorse(running, got.transport)
			case !decided && r.verdict(got, running):
				first, later, decided = nil, nil, true
				r.lostAll(h, []error{got.err})
				r.cancelWorse(running, "")
			case !decided:
				failures = append(failures, got.err)
				if authoritative(got.err) {
					first, later = nil, nil
					r.cancelWorse(running, got.transport)
				}
				if len(first) == 0 && len(running) == 0 {
					first, later = later, nil
				}
				wake()
			}
		}
	}
	if !decided {
		if i := slices.IndexFunc(failures, authoritative); i >= 0 {
			failures = failures[i : i+1]
		}
		r.lostAll(h, failures)
	}
	h.cancel()
	r.mu.Lock()
	r.running = nil
	r.scheduleLocked()
	r.mu.Unlock()
	close(h.over)
}

// alone is how long a transport has the course for itself.
func (r *race) alone(transport string) time.Duration {
	if transport == TransportH3 {
		return r.t.stagger
	}
	return r.t.silent
}

// authoritative reports an error that would be the same over any transport: there are no credentials, or the gateway, or an ingress that we
// know, has said who may not come in. Other answers of a gateway are about the request, which something on the way may have changed.
func authoritative(err error) bool {
	if _, ok := errors.AsType[credentialsError](err); ok {
		return true
	}
	e, ok := errors.AsType[*AnswerError](err)
	return ok && (e.Final || e.Gateway && (e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden))
}

// verdict reports whether a result ends the race for all. What an ingress says leaves those that are better, and on their way, the time to work.
func (r *race) verdict(got result, running map[string]context.CancelFunc) bool {
	if e, ok := errors.AsType[*AnswerError](got.err); ok && !e.Gateway {
		for transport := range running {
			if r.rank(transport) < r.rank(got.transport) {
				return false
			}
		}
	}
	return authoritative(got.err)
}

// proven reports whether a transport was the last in use: what is answered over it is about the request.
func (r *race) proven(transport string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last == transport
}

// draining reports that the gateway is about to stop, which says nothing about the way to it.
func draining(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Code == CodeDraining
}

// cancelWorse ends the hellos of those that are not better than winner; "" is better than all.
func (r *race) cancelWorse(running map[string]context.CancelFunc, winner string) {
	for transport, cancel := range running {
		if winner == "" || r.rank(transport) > r.rank(winner) {
			cancel()
		}
	}
}

func (r *race) rank(transport string) int { return slices.Index(r.order, transport) }

// try says hello, and takes note of how it went unless nobody wanted to know any more.
func (r *race) try(ctx context.Context, transport string) (Welcome, error) {
	start := time.Now()
	welcome, err := r.hello(ctx, transport)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil && ctx.Err() != nil {
		return welcome, err
	}
	l := r.legs[transport]
	l.tried, l.took, l.err = time.Now(), time.Since(start), err
	if err == nil {
		l.failures, l.broken = 0, time.Time{}
	} else if !authoritative(err) && !draining(err) {
		r.breakLocked(l)
	}
	return welcome, err
}

// breakLocked puts off the next probe of a transport, twice as far as the last time.
func (r *race) breakLocked(l *leg) {
	first, most := r.t.probe, r.t.probeMost
	if l.rare {
		first, most = r.t.rareProbe, r.t.rareProbeMost
	}
	l.broken = time.Now().Add(backoff(l.failures, first, most))
	l.failures++
}

// backoff is first, doubled n times, most at most, give or take a tenth: whoever failed together shall not come back together.
func backoff(n int, first, most time.Duration) time.Duration {
	d := most
	if n < 20 && first<<n < most {
		d = first << n
	}
	return d - d/10 + rand.N(d/5+1)
}

// won makes the transport of a hello that worked the current one, if that is better.
func (r *race) won(h *heat, got result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.switchLocked(got.transport, "")
	if h.winner == "" {
		h.winner, h.turn, h.welcome = got.transport, r.turn, got.welcome
		close(h.decided)
	}
}

// lostAll is the verdict that nothing works.
func (r *race) lostAll(h *heat, failures []error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		h.err = net.ErrClosed
	} else {
		h.err = noTransport(failures)
		r.failLocked(h.err)
	}
	close(h.decided)
}

func noTransport(failures []error) error {
	if len(failures) == 1 {
		return failures[0]
	}
	var all []string
	for _, err := range failures {
		all = append(all, err.Error())
	}
	return Explain(&noTransportError{failures, "no transport reaches the gateway: " + strings.Join(all, "; ")})
}

type noTransportError struct {
	failures []error
	text     string
}

func (e *noTransportError) Error() string   { return e.text }
func (e *noTransportError) Unwrap() []error { return e.failures }

// failLocked has dials fail with err until the next try is due.
func (r *race) failLocked(err error) {
	first, most := r.t.retry, r.t.retryMost
	if hopeless(err) {
		first, most = r.t.hopeless, r.t.hopelessMost
	}
	wait := backoff(r.failures, first, most)
	if r.failures == 0 || r.current != "" || r.failed == nil || !sameVerdict(r.failed, err) {
		r.log.Warn("gateway not reached", "err", err, "retry_in", wait.Round(time.Millisecond))
	}
	r.failures++
	r.failed, r.retryAt = err, time.Now().Add(wait)
	r.setLocked("")
	r.tellLocked()
}

// sameVerdict reports whether two failures mean the same, so that the log has said so already. Answers differ in words from time to time, in a
// number of the request for one.
func sameVerdict(a, b error) bool {
	x, answeredA := errors.AsType[*AnswerError](a)
	y, answeredB := errors.AsType[*AnswerError](b)
	if answeredA || answeredB {
		return answeredA && answeredB && x.Status == y.Status
	}
	_, credsA := errors.AsType[credentialsError](a)
	_, credsB := errors.AsType[credentialsError](b)
	return !credsA && !credsB || a.Error() == b.Error()
}

// hopeless reports that only somebody's doing can make the next try better.
func hopeless(err error) bool {
	e, ok := errors.AsType[*AnswerError](err)
	return ok && !e.Temporary()
}

func (r *race) setLocked(current string) {
	r.current = current
	r.turn++
}

// switchLocked makes a transport the current one.
func (r *race) switchLocked(to, why string) {
	r.failed, r.failures = nil, 0
	if to == r.current {
		return
	}
	from := r.last
	if why == "" {
		why = r.reasonLocked(to)
	}
	r.setLocked(to)
	r.last, r.since, r.why = to, time.Now(), why
	switch {
	case len(r.order) == 1:
	case from == "":
		r.log.Info("tunnel transport chosen", "transport", to, "why", why)
	case from == to:
	case r.rank(to) < r.rank(from):
		r.log.Info("tunnel transport changed for a better one", "from", from, "to", to, "why", why)
	default:
		r.log.Warn("tunnel transport changed", "from", from, "to", to, "why", why)
	}
	r.tellLocked()
}

func (r *race) tellLocked() {
	if r.say != nil {
		r.say(r.stateLocked())
	}
}

// reasonLocked says why a transport is taken and none that is better.
func (r *race) reasonLocked(to string) string {
	var reasons []string
	for _, t := range r.order[:r.rank(to)] {
		switch l := r.legs[t]; {
		case l.err != nil:
			reasons = append(reasons, fmt.Sprintf("%s failed: %v", t, l.err))
		case l.tried.IsZero() && l.rare:
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

// unanswered says that nothing came back over what was ready, which worked before. The first to say so of a choice has drop called, and the
// next dial decides anew.
func (r *race) unanswered(c choice, err error, drop func()) {
	r.mu.Lock()
	if r.turn != c.turn {
		r.mu.Unlock()
		return
	}
	r.turn++ // nobody else drops, and least of all what comes next
	r.mu.Unlock()
	drop()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.legs[c.transport].err = err
	if r.current == c.transport {
		r.setLocked("")
	}
}

// refused takes note that a dial failed with err. It reports whether another transport may do better.
func (r *race) refused(c choice, err error) (again bool) {
	if errors.Is(err, context.Canceled) {
		return false
	}
	if draining(err) {
		return true // a fresh carrier may lead to another gateway
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.turn != c.turn {
		return !r.closed // things have changed since
	}
	l := r.legs[c.transport]
	l.err = err
	if _, ok := errors.AsType[*AnswerError](err); ok || authoritative(err) {
		r.failLocked(err)
		return false
	}
	r.setLocked("")
	r.breakLocked(l)
	return !r.closed
}

// cut counts a stream that was cut by whatever is between the ends. Two such events within some minutes demote a transport, for twice as long
// each time; many streams that are cut at about the same time, by the restart of an ingress or a gateway, are one event.
func (r *race) cut(transport string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.legs[transport]
	if l == nil || len(r.order) == 1 {
		return
	}
	now := time.Now()
	since := now.Sub(l.cut)
	if !l.cut.IsZero() && since < r.t.cutApart {
		return
	}
	first := l.cut.IsZero() || since > r.t.cutWindow
	l.cut = now
	if first {
		l.demoted = 0
		return
	}
	l.err = errors.New("streams over it were cut twice within " + r.t.cutWindow.String())
	l.broken = now.Add(backoff(l.demoted, r.t.probe, r.t.probeMost))
	l.demoted++
	if r.current == transport {
		r.setLocked("")
	}
}

// scheduleLocked sets the timer for the next probe of a transport that is better than the current one.
func (r *race) scheduleLocked() {
	if r.closed || r.current == "" || r.running != nil {
		return
	}
	_, at := r.nextProbeLocked()
	if at.IsZero() {
		return
	}
	if r.timer == nil {
		r.timer = time.AfterFunc(max(atOnce, time.Until(at)), r.probe)
		return
	}
	r.timer.Reset(max(atOnce, time.Until(at)))
}

// nextProbeLocked is which better transport is probed next, and when: not before it may be taken.
func (r *race) nextProbeLocked() (transport string, at time.Time) {
	for _, t := range r.order[:max(0, r.rank(r.current))] {
		if broken := r.legs[t].broken; transport == "" || broken.Before(at) {
			transport, at = t, broken
		}
	}
	if earliest := r.since.Add(r.t.switchEvery); transport != "" && at.Before(earliest) {
		at = earliest
	}
	return transport, at
}

// probe tries a better transport in the background.
func (r *race) probe() {
	r.mu.Lock()
	transport, at := r.nextProbeLocked()
	if r.closed || r.current == "" || r.running != nil || transport == "" {
		r.mu.Unlock()
		return
	}
	if time.Now().Before(at) {
		r.scheduleLocked()
		r.mu.Unlock()
		return
	}
	r.tasks.Add(1)
	r.mu.Unlock()
	defer r.tasks.Done()
	_, err := r.try(r.ctx, transport)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	if err == nil && r.rank(transport) < r.rank(r.current) {
		r.switchLocked(transport, "it answers again")
	} else {
		l, soonest := r.legs[transport], time.Now().Add(r.t.probe)
		if l.broken.Before(soonest) { // an answer that does not count as a failure
			l.broken = soonest
		}
		r.tellLocked()
	}
	r.scheduleLocked()
}

func (r *race) close() {
	r.mu.Lock()
	r.closed = true
	if r.timer != nil {
		r.timer.Stop()
	}
	r.mu.Unlock()
	r.stop()
	r.tasks.Wait()
}

// State is what a [Dialer] knows of the ways to its gateway.
type State struct {
	Transport string        `json:"transport"`       // that new streams take; "" while none works
	Since     time.Time     `json:"since,omitzero"`  // when it was chosen
	Why       string        `json:"why,omitempty"`   // it was chosen
	Error     string        `json:"error,omitempty"` // why none works
	RetryAt   time.Time     `json:"retry_at,omitzero"`
	Tried     []TransportAt `json:"tried"` // by preference
}

// TransportAt is what is known of one transport.
type TransportAt struct {
	Transport string        `json:"transport"`
	Tried     time.Time     `json:"tried,omitzero"`      // when it was tried last; zero for never
	Took      time.Duration `json:"took_ns,omitempty"`   // from the dial to the end of the echo
	Error     string        `json:"error,omitempty"`     // how that ended
	NextProbe time.Time     `json:"next_probe,omitzero"` // not before
}

func (r *race) state() State {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stateLocked()
}

func (r *race) stateLocked() State {
	s := State{Transport: r.current, Since: r.since, Why: r.why}
	if r.current == "" {
		s.Since, s.Why = time.Time{}, ""
		if r.failed != nil {
			s.Error, s.RetryAt = printable.Text(r.failed.Error(), printable.Record), r.retryAt
		}
	}
	probe, at := r.nextProbeLocked()
	for _, t := range r.order {
		l := r.legs[t]
		a := TransportAt{Transport: t, Tried: l.tried, Took: l.took}
		if l.err != nil {
			a.Error = printable.Text(l.err.Error(), printable.Record)
		}
		if t == probe && r.current != "" {
			a.NextProbe = at
		} else if r.current != "" && r.rank(t) < r.rank(r.current) {
			a.NextProbe = l.broken
		}
		s.Tried = append(s.Tried, a)
	}
	return s
}
