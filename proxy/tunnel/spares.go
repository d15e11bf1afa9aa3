package tunnel

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// A spareKeeper keeps as many streams ready as are wanted, on one goroutine that the first set
// starts.
type spareKeeper struct {
	every time.Duration // how often the spares are checked
	fill  func(ctx context.Context, last string, n int) (transport string, err error)

	n      atomic.Int64
	due    chan struct{}
	ctx    context.Context // of the goroutine that fills
	cancel context.CancelFunc
	task   sync.WaitGroup

	mu      sync.Mutex
	started bool
}

// newSpareKeeper returns a keeper that wants no streams yet. fill makes n streams ready; last is
// the transport that it returned before. ctx ends the keeper, as does stop.
func newSpareKeeper(ctx context.Context, every time.Duration, fill func(ctx context.Context, last string, n int) (string, error)) *spareKeeper {
	k := &spareKeeper{every: every, fill: fill, due: make(chan struct{}, 1)}
	k.ctx, k.cancel = context.WithCancel(ctx)
	return k
}

// wanted returns how many streams should be ready.
func (k *spareKeeper) wanted() int { return int(k.n.Load()) }

// set changes how many streams should be ready. It does not block.
func (k *spareKeeper) set(n int) {
	k.n.Store(int64(n))
	k.mu.Lock()
	if !k.started && k.ctx.Err() == nil && n > 0 {
		k.started = true
		k.task.Go(k.keep)
	}
	k.mu.Unlock()
	k.look()
}

// look asks for a check soon. It does not block: a check that is already due covers this one.
func (k *spareKeeper) look() {
	select {
	case k.due <- struct{}{}:
	default:
	}
}

// stop cancels keep and prevents a later start; wait blocks until keep has returned. They are apart
// because Close must cancel other things in between.
func (k *spareKeeper) stop() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.cancel()
}

func (k *spareKeeper) wait() { k.task.Wait() }

// keep fills until stop: every interval, and sooner when look asks for it.
func (k *spareKeeper) keep() {
	last := ""
	for k.ctx.Err() == nil {
		var err error
		last, err = k.fill(k.ctx, last, k.wanted())
		due := k.due
		if err != nil {
			due = nil // after a failure wait for the full interval, however often look is called
		}
		wait := time.NewTimer(k.every)
		select {
		case <-due:
		case <-wait.C:
		case <-k.ctx.Done():
		}
		wait.Stop()
	}
}
