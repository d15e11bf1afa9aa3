package tunnel

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"
)

// An epoch is the time between two moments in which everything that was ready is dropped. Dials
// that are waiting when it ends move on to fresh carriers: they begin again in the next epoch.
type epoch struct {
	ctx    context.Context // done when the epoch ends; its cause is why
	end    context.CancelCauseFunc
	begun  chan struct{} // closed when what was ready before has been dropped
	pauses int           // how many there were before
}

// over reports whether the epoch has ended.
func (e *epoch) over() bool { return e.ctx.Err() != nil }

// during returns a context that also ends with the epoch.
func (e *epoch) during(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(e.ctx, func() { cancel(context.Cause(e.ctx)) })
	return ctx, func() { stop(); cancel(nil) }
}

// Why an epoch ends.
var (
	errDropped = errors.New("the connection that was ready does not answer")
	errPaused  = errors.New("this process was paused meanwhile")
)

// epochs notices when the process did not run, because a laptop was asleep or somebody stopped it,
// and begins a new epoch then: at the other end, connections have usually died meanwhile. Use
// newEpochs.
type epochs struct {
	base  context.Context  // of all epochs
	pause time.Duration    // if the process has not run for this long, it was paused
	clock func() time.Time // time.Now
	drop  func()           // drops everything that is ready
	log   *slog.Logger

	mu     sync.Mutex
	now    *epoch
	seen   time.Time // when the process was seen to run
	stop   func()    // ends watch; nil while nobody watches
	closed bool
	tasks  sync.WaitGroup
}

func newEpochs(ctx context.Context, pause time.Duration, clock func() time.Time, drop func(), log *slog.Logger) *epochs {
	e := &epochs{base: ctx, pause: pause, clock: clock, drop: drop, log: log, seen: clock()}
	e.now = newEpoch(ctx, 0)
	close(e.now.begun)
	return e
}

func newEpoch(ctx context.Context, pauses int) *epoch {
	ctx, end := context.WithCancelCause(ctx)
	return &epoch{ctx, end, make(chan struct{}), pauses}
}

// watch looks regularly until close, so that a gap between two looks is a pause.
func (e *epochs) watch() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.stop != nil || e.closed {
		return
	}
	done := make(chan struct{})
	e.stop = sync.OnceFunc(func() { close(done) })
	e.seen = e.clock()
	e.tasks.Go(func() {
		tick := time.NewTicker(e.pause / 10)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				e.look()
			case <-done:
				return
			}
		}
	})
}

// current returns the epoch, once what was ready before it has been dropped.
func (e *epochs) current() *epoch {
	now := e.look()
	<-now.begun
	return now
}

// look begins a new epoch if the process was paused. It returns the current one, without waiting.
func (e *epochs) look() *epoch {
	e.mu.Lock()
	defer e.mu.Unlock()
	at := e.clock()
	// The monotonic clock stands still while some systems sleep; the wall clock does not.
	gap := max(at.Sub(e.seen), at.Round(0).Sub(e.seen.Round(0)))
	e.seen = at
	if e.stop != nil && !e.closed && gap > e.pause {
		e.log.Info("this process was paused: connections that were ready are replaced", "for", gap.Round(time.Second).String())
		e.nextLocked(errPaused, e.now.pauses+1, e.drop)
	}
	return e.now
}

// next ends the epoch and drops with drop what was ready. It returns when that is done.
func (e *epochs) next(drop func()) {
	e.mu.Lock()
	now := e.nextLocked(errDropped, e.now.pauses, drop)
	e.mu.Unlock()
	<-now.begun
}

// nextLocked begins an epoch. drop runs on a goroutine of its own: look may be called by the end of
// a stream that drop ends.
func (e *epochs) nextLocked(why error, pauses int, drop func()) *epoch {
	before := e.now
	now := newEpoch(e.base, pauses)
	e.now = now
	e.tasks.Go(func() {
		drop()
		close(now.begun)
		before.end(why)
	})
	return now
}

// close waits for what the epochs have started. No dial may be in progress.
func (e *epochs) close() {
	e.mu.Lock()
	e.closed = true
	if e.stop != nil {
		e.stop()
	}
	e.mu.Unlock()
	e.tasks.Wait()
}
