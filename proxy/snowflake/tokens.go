package snowflake

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/culvert-proxy/culvert/proxy/internal/backoff"
)

const (
	// loginTime is how long one login may take: less than callers wait, so that they learn how it
	// ended.
	loginTime = 8 * time.Second

	// The wait after a login that failed, doubled with each failure: short if no answer came, as in
	// an outage.
	retryTime, retryTimeMost = time.Second, 30 * time.Second
	// It is longer after an answer that time alone does not change, and after 429.
	hopelessTime, refusedTimeMost = 5 * time.Second, 5 * time.Minute

	// forgetTime is the least time between two tokens that are given up before they expire: a
	// refusal may be about something other than the token.
	forgetTime = time.Minute
)

// errNoAnswer ends a login that hangs.
var errNoAnswer = fmt.Errorf("no answer within %v", loginTime)

// tokens keeps one token: fetched when it is first asked for, and again before it expires, by one
// goroutine at a time. While the old one is good nobody waits. After a failure callers get its
// error until it is time for the next fetch.
type tokens struct {
	fetch   func(context.Context) (token, error)
	changed func() bool   // whether what fetch uses has changed since it failed; nil: never
	ended   func(fetched) // called after each fetch; nil: nothing is

	// unfinished makes the error of a caller who stops waiting for a fetch; nil: the cause itself.
	unfinished func(cause error) error

	ctx   context.Context // of fetches
	stop  context.CancelFunc
	tasks sync.WaitGroup

	mu      sync.Mutex
	now     token         // the current token; zero: none
	running chan struct{} // closed when the fetch in progress has ended; nil: there is none
	last    failure       // of the last fetch; zero: it succeeded
	forgot  time.Time     // when forget gave up a token last
	timer   *time.Timer   // of the next fetch; nil before the first is scheduled
	closed  bool
}

// failure says how fetches have failed, and when the next one may start.
type failure struct {
	err     error
	count   int // in a row
	retryAt time.Time
}

func newTokens(fetch func(context.Context) (token, error)) *tokens {
	t := &tokens{fetch: fetch}
	// No caller's context: a fetch serves all callers, and goes on when one leaves. close ends it.
	t.ctx, t.stop = context.WithCancel(context.Background())
	return t
}

// get returns a token that has not expired, and waits for one if there is none.
func (t *tokens) get(ctx context.Context) (string, error) {
	for {
		value, running, err := t.look()
		if running == nil {
			return value, err
		}
		select {
		case <-running:
		case <-ctx.Done():
			if t.unfinished != nil {
				return "", t.unfinished(context.Cause(ctx))
			}
			return "", context.Cause(ctx)
		}
	}
}

// look returns a token; or why there is none; or what is closed at the end of the fetch to wait
// for.
func (t *tokens) look() (value string, running <-chan struct{}, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.closed:
		return "", nil, net.ErrClosed
	case t.good():
		return t.now.value, nil, nil
	case t.running == nil && t.last.err != nil && time.Now().Before(t.last.retryAt) && !t.hasChanged():
		return "", nil, t.last.err
	}
	return "", t.start(), nil
}

func (t *tokens) hasChanged() bool { return t.changed != nil && t.changed() }

// good reports whether there is a token that has not expired. Both times are of the wall clock: the
// monotonic clock may stand still while a laptop sleeps, and tokens expire all the same. The caller
// holds mu.
func (t *tokens) good() bool {
	return t.now.value != "" && time.Now().Round(0).Before(t.now.expires)
}

// current is the token that there is, good or not.
func (t *tokens) current() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.now.value
}

// state returns when the current token was obtained and when it expires, and the error of the last
// fetch if that failed.
func (t *tokens) state() (obtained, expires time.Time, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.now.obtained, t.now.expires, t.last.err
}

// forget gives up a token that was refused, and reports whether it did: not if another was given up
// lately.
func (t *tokens) forget(value string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || t.now.value != value || time.Since(t.forgot) < forgetTime {
		return false
	}
	t.now, t.forgot = token{}, time.Now()
	return true
}

// start starts a fetch unless one is in progress. The caller holds mu.
func (t *tokens) start() <-chan struct{} {
	if t.running == nil {
		t.running = make(chan struct{})
		t.tasks.Go(t.run)
	}
	return t.running
}

// run fetches a token.
func (t *tokens) run() {
	ctx, cancel := context.WithTimeoutCause(t.ctx, loginTime, errNoAnswer)
	defer cancel()
	fresh, err := t.fetch(ctx)
	f := t.settle(fresh, err)
	if t.ended != nil && t.ctx.Err() == nil {
		t.ended(f)
	}
}

// fetched is how a fetch ended.
type fetched struct {
	token    token
	err      error
	hadToken bool          // the previous token has not expired, so nobody waited
	next     time.Duration // until the next fetch may start
}

// settle records how a fetch ended, and schedules the next.
func (t *tokens) settle(fresh token, err error) fetched {
	t.mu.Lock()
	defer t.mu.Unlock()
	var next time.Duration
	good := t.good()
	if err == nil {
		fresh.expires, fresh.obtained = fresh.expires.Round(0), time.Now().Round(0)
		t.now, t.last = fresh, failure{}
		next = refreshAfter(time.Until(fresh.expires))
	} else {
		next = waitAfter(err, t.last.count)
		t.last = failure{err, t.last.count + 1, time.Now().Add(next)}
	}
	if err == nil || good {
		t.schedule(next)
	}
	close(t.running)
	t.running = nil
	return fetched{fresh, err, good, next}
}

// waitAfter returns how long to wait after a fetch has failed with err, after n other failures in a
// row.
func waitAfter(err error, n int) time.Duration {
	switch {
	case isHopeless(err):
		return backoff.Delay(n, hopelessTime, refusedTimeMost)
	case isTooMany(err):
		return backoff.Delay(n, retryTime, refusedTimeMost)
	}
	return backoff.Delay(n, retryTime, retryTimeMost)
}

// schedule starts a fetch after some time, whether anybody asks for a token or not. The caller
// holds mu.
func (t *tokens) schedule(after time.Duration) {
	if t.closed {
		return
	}
	if t.timer == nil {
		t.timer = time.AfterFunc(after, t.refresh)
		return
	}
	t.timer.Reset(after)
}

func (t *tokens) refresh() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.closed {
		t.start()
	}
}

func (t *tokens) close() {
	t.mu.Lock()
	t.closed = true
	if t.timer != nil {
		t.timer.Stop()
	}
	t.mu.Unlock()
	t.stop()
	t.tasks.Wait()
}

// refreshAfter is how long after its start a token with this life is replaced: a minute before its
// end or after four fifths, whichever is first, but not in its first half, nor within a second.
func refreshAfter(life time.Duration) time.Duration {
	after := min(life-time.Minute, life/5*4)
	return max(after, life/2, time.Second)
}
