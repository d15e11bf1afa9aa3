package race

import (
	"context"
	"net"
	"slices"
	"time"
)

// A round has the transports say hello until one works. It goes on for some time after it is decided, until the better ones have succeeded or
// failed.
type round[W any] struct {
	ctx     context.Context
	cancel  context.CancelFunc
	decided chan struct{}
	over    chan struct{}

	// Valid after decided.
	winner  string
	turn    int
	welcome W
	err     error
}

// roundLocked returns a round and what to wait for: the decision of one that is on, or that is started; or, where its winner is lost already, its
// end.
func (r *Race[W]) roundLocked() (h *round[W], done <-chan struct{}) {
	if h = r.running; h != nil {
		if h.winner == "" {
			return h, h.decided
		}
		h.cancel()
		return h, h.over
	}
	h = &round[W]{decided: make(chan struct{}), over: make(chan struct{})}
	h.ctx, h.cancel = context.WithCancel(r.ctx)
	r.running = h
	first, later := r.startersLocked()
	r.tasks.Go(func() { r.run(h, first, later) })
	return h, h.decided
}

// startersLocked splits the transports into those that start by themselves, and those that start when nothing else works: they are broken, or not
// expected to work.
func (r *Race[W]) startersLocked() (first, later []string) {
	for _, t := range r.order {
		k := r.known[t]
		if time.Now().Before(k.broken) || k.Unlikely && (k.tried.IsZero() || k.err != nil) {
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

type result[W any] struct {
	transport string
	welcome   W
	err       error
}

// run has the transports say hello until one works and the better ones have ended.
func (r *Race[W]) run(h *round[W], first, later []string) {
	results := make(chan result[W], len(r.order))
	running := make(map[string]context.CancelFunc)
	start := func(transport string) {
		ctx, cancel := context.WithCancel(h.ctx)
		running[transport] = cancel
		r.tasks.Go(func() {
			welcome, err := r.try(ctx, transport)
			results <- result[W]{transport, welcome, err}
		})
	}
	due := make(chan struct{}, 1)
	wake := func() {
		select {
		case due <- struct{}{}:
		default:
		}
	}
	next := time.AfterFunc(time.Hour, wake)
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
			next.Reset(r.known[first[0]].HeadStart)
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
			case !decided && r.isVerdict(got, running):
				first, later, decided = nil, nil, true
				r.lost(h, []error{got.err})
				r.cancelWorse(running, "")
			case !decided:
				failures = append(failures, got.err)
				if Authoritative(got.err) {
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
		if i := slices.IndexFunc(failures, Authoritative); i >= 0 {
			failures = failures[i : i+1]
		}
		r.lost(h, failures)
	}
	h.cancel()
	r.mu.Lock()
	r.running = nil
	r.scheduleLocked()
	r.mu.Unlock()
	close(h.over)
}

// isVerdict reports whether a result ends the round for all. What an ingress says leaves the better ones that are on their way the time to work.
func (r *Race[W]) isVerdict(got result[W], running map[string]context.CancelFunc) bool {
	if fromIngress(got.err) {
		for transport := range running {
			if r.rank(transport) < r.rank(got.transport) {
				return false
			}
		}
	}
	return Authoritative(got.err)
}

// cancelWorse ends the hellos of those that are not better than winner; "" is better than all.
func (r *Race[W]) cancelWorse(running map[string]context.CancelFunc, winner string) {
	for transport, cancel := range running {
		if winner == "" || r.rank(transport) > r.rank(winner) {
			cancel()
		}
	}
}

// try says hello, and takes note of how it went unless nobody wanted to know any more.
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
		k.failures, k.broken = 0, time.Time{}
	} else if !Authoritative(err) && !Draining(err) {
		r.breakLocked(k)
	}
	return welcome, err
}

// won makes the transport of a hello that worked the one that is used, if it is better.
func (r *Race[W]) won(h *round[W], got result[W]) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.switchLocked(got.transport, "")
	if h.winner == "" {
		h.winner, h.turn, h.welcome = got.transport, r.chosen.turn, got.welcome
		close(h.decided)
	}
}

// lost is the verdict that nothing works.
func (r *Race[W]) lost(h *round[W], failures []error) {
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
