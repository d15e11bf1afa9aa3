package tunnel

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// A spareKeeper keeps as many streams ready as are wanted, on one goroutine that starts when some
// are wanted for the first time.
type spareKeeper struct {
	every time.Duration // how often the spares are checked
	fill  func(ctx context.Context, last string, n int) (transport string, err error)

	n      atomic.Int64
	bursts bursts
	short  atomic.Bool // one was asked for
	due    chan struct{}
	ctx    context.Context // of the goroutine that fills
	cancel context.CancelFunc
	task   sync.WaitGroup

	mu      sync.Mutex
	started bool
}

// newSpareKeeper returns a keeper that wants no streams yet. fill makes n streams ready; last is
// the transport that it returned before. ctx ends the keeper, as does stop.
func newSpareKeeper(ctx context.Context, t timing, fill func(ctx context.Context, last string, n int) (string, error)) *spareKeeper {
	k := &spareKeeper{every: t.spares, fill: fill, bursts: bursts{window: t.burst, memory: t.bursts}, due: make(chan struct{}, 1)}
	k.ctx, k.cancel = context.WithCancel(ctx)
	return k
}

// wanted returns how many streams should be ready: as many as were set, or as many as came in the
// largest burst lately if that is more.
func (k *spareKeeper) wanted() int {
	n := int(k.n.Load())
	if n == 0 {
		return 0
	}
	return max(n, k.bursts.largest(time.Now()))
}

// set changes how many streams should be ready at least; if that is 0, none are wanted. It does not
// block.
func (k *spareKeeper) set(n int) {
	k.n.Store(int64(n))
	if n > 0 {
		k.start()
	}
	k.look()
}

// one asks for one stream to be made ready, also if none are wanted. It does not block.
func (k *spareKeeper) one() {
	k.short.Store(true)
	k.start()
	k.look()
}

// took counts a stream that was opened.
func (k *spareKeeper) took() { k.bursts.add(time.Now()) }

func (k *spareKeeper) start() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.started && k.ctx.Err() == nil {
		k.started = true
		k.task.Go(k.keep)
	}
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
		n := k.wanted()
		if k.short.Swap(false) {
			n = max(n, 1)
		}
		var err error
		last, err = k.fill(k.ctx, last, n)
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
