package happyeyeballs

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"
)

// A race dials n targets one after the other, each with a head start before the next one.
type race[C any] struct {
	n       int
	dial    func(ctx context.Context, i int) (C, error)
	discard func(C) // closes a connection that nobody wants
	results chan result[C]
	started []attempt
	failed  []result[C]
}

// An attempt is a dial that has started.
type attempt struct {
	at     time.Time
	cancel context.CancelFunc
	detach func() bool // it then outlives the context of its race
}

// A result is the end of an attempt.
type result[C any] struct {
	i    int
	conn C
	err  error
}

// Race calls dial for 0, and after each delay or failure for the next number below n. It returns
// the first connection. The other dials are canceled, and what they still connect is discarded.
func Race[C any](ctx context.Context, n int, delay time.Duration, dial func(ctx context.Context, i int) (C, error), discard func(C)) (C, error) {
	r := &race[C]{n: n, dial: dial, discard: discard, results: make(chan result[C], n)}
	won, err := r.run(ctx, delay)
	r.cancelFrom(0)
	if err == nil {
		go r.settle(1, func(result[C]) {})
	}
	return won.conn, err
}

// run returns the first result that is a connection, or an error when all have failed.
func (r *race[C]) run(ctx context.Context, delay time.Duration) (won result[C], err error) {
	next := time.NewTimer(delay)
	defer next.Stop()
	r.start(ctx)
	for {
		select {
		case <-next.C:
		case got := <-r.results:
			if got.err == nil {
				return got, nil
			}
			r.failed = append(r.failed, got)
		}
		switch {
		case len(r.started) < r.n && ctx.Err() == nil:
			r.start(ctx)
			next.Reset(delay)
		case len(r.failed) == len(r.started):
			if by, ok := ctx.Deadline(); ok && !time.Now().Before(by) {
				<-ctx.Done() // callers ask ctx why the time is up
			}
			return won, r.failure()
		}
	}
}

// start starts the next attempt. Its context has the deadline of ctx.
func (r *race[C]) start(ctx context.Context) {
	own, cancel := withDeadlineOf(ctx)
	detach := context.AfterFunc(ctx, func() {
		if !errors.Is(ctx.Err(), context.DeadlineExceeded) { // own reports that by itself
			cancel()
		}
	})
	i := len(r.started)
	r.started = append(r.started, attempt{time.Now(), cancel, detach})
	go r.attempt(own, i)
}

func (r *race[C]) attempt(ctx context.Context, i int) {
	conn, err := r.dial(ctx, i)
	r.results <- result[C]{i, conn, err}
}

// withDeadlineOf returns a context with the values and the deadline of ctx that does not end with
// it.
func withDeadlineOf(ctx context.Context) (context.Context, context.CancelFunc) {
	own := context.WithoutCancel(ctx)
	if by, ok := ctx.Deadline(); ok {
		return context.WithDeadline(own, by)
	}
	return context.WithCancel(own)
}

// cancelFrom cancels the attempts from i on. Those before may outlive the context of the race.
func (r *race[C]) cancelFrom(i int) {
	for _, a := range r.started[:i] {
		a.detach()
	}
	for _, a := range r.started[i:] {
		a.detach()
		a.cancel()
	}
}

// settle waits until all attempts have ended, except for those that won. It discards what they
// connect, and calls ended with each result.
func (r *race[C]) settle(won int, ended func(result[C])) {
	for range len(r.started) - len(r.failed) - won {
		got := <-r.results
		if got.err == nil {
			r.discard(got.conn)
		}
		ended(got)
	}
	r.cancelFrom(0)
}

// failure returns the error of a race that nobody has won, in the order of the targets.
func (r *race[C]) failure() error {
	slices.SortFunc(r.failed, func(a, b result[C]) int { return a.i - b.i })
	var all Failures
	for _, f := range r.failed {
		all = append(all, f.err)
	}
	if len(all) == 1 {
		return all[0]
	}
	return all
}

// Failures are the errors of several tries. Unlike those of [errors.Join] they print on one line:
// log messages and errors to the other end have only one. What several of them say is said once.
type Failures []error

func (f Failures) Error() string {
	var all []string
	for _, err := range f {
		if text := err.Error(); !slices.Contains(all, text) {
			all = append(all, text)
		}
	}
	return strings.Join(all, "; ")
}

func (f Failures) Unwrap() []error { return f }
