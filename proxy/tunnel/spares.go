package tunnel

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// A spareKeeper sees to it that as many streams are ready as are wanted.
type spareKeeper struct {
	every time.Duration // how often they are looked after
	fill  func(ctx context.Context, last string, n int) (transport string, err error)

	n      atomic.Int64
	due    chan struct{}
	ctx    context.Context // of the goroutine that fills
	cancel context.CancelFunc
	task   sync.WaitGroup

	mu      sync.Mutex
	started bool
}

func newSpareKeeper(ctx context.Context, every time.Duration, fill func(ctx context.Context, last string, n int) (string, error)) *spareKeeper {
	k := &spareKeeper{every: every, fill: fill, due: make(chan struct{}, 1)}
	k.ctx, k.cancel = context.WithCancel(ctx)
	return k
}

// wanted is how many are to be ready.
func (k *spareKeeper) wanted() int { return int(k.n.Load()) }

// set says how many are to be ready.
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

// look has the spares looked after soon.
func (k *spareKeeper) look() {
	select {
	case k.due <- struct{}{}:
	default:
	}
}

// stop ends keep, and wait waits until it has ended.
func (k *spareKeeper) stop() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.cancel()
}

func (k *spareKeeper) wait() { k.task.Wait() }

// keep makes spares until stop.
func (k *spareKeeper) keep() {
	last := ""
	for k.ctx.Err() == nil {
		var err error
		last, err = k.fill(k.ctx, last, k.wanted())
		due := k.due
		if err != nil {
			due = nil // not before its time
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
