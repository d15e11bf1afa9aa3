package race

import (
	"context"
	"net"
	"slices"
	"time"
)

// A round sends a hello over the transports until one works. After that decision it continues until
// the more preferred transports have succeeded or failed.
type round[W any] struct {
	ctx     context.Context
	cancel  context.CancelFunc
	decided chan struct{}
	over    chan struct{}

	// Valid once decided is closed.
	winner     string
	generation int
	welcome    W
	err        error
}

// roundLocked returns the current round, or starts one, and a channel to wait for: the decision of
// the round, or its end if it is decided and its winner has failed since.
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

// startersLocked splits the transports into those that start right away and those that start when
// nothing else works, because they are broken or unlikely.
func (r *Race[W]) startersLocked() (first, later []string) {
	for _, t := range r.order {
		k := r.known[t]
		if time.Now().Before(k.brokenUntil) || k.Unlikely && (k.tried.IsZero() || k.err != nil) {
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

// A result is the end of one hello in a round.
type result[W any] struct {
	transport string
	welcome   W
	err       error
}

// run sends the hellos of a round. Hellos report on results; due wakes the loop to start the next
// transport, when the head start of the last one is over or a hello has failed.
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
			case decided && h.winner == "": // a verdict: the gateway has said who may not connect
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

// isVerdict reports whether a result decides the round for all transports. If an ingress refused,
// more preferred transports that are still running may still succeed and get their time.
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

// cancelWorse cancels the hellos of transports that are less preferred than winner; "" cancels all.
func (r *Race[W]) cancelWorse(running map[string]context.CancelFunc, winner string) {
	for transport, cancel := range running {
		if winner == "" || r.rank(transport) > r.rank(winner) {
			cancel()
		}
	}
}

// won makes the transport of a successful hello the one in use, and decides the round.
func (r *Race[W]) won(h *round[W], got result[W]) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.switchLocked(got.transport, change{})
	if h.winner == "" {
		h.winner, h.generation, h.welcome = got.transport, r.chosen.generation, got.welcome
		close(h.decided)
	}
}

// lost records that no transport works, and decides the round.
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
