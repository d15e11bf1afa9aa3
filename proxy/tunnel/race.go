package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"
)

// A race decides which transport a Dialer uses under auto: the first whose exchange answered a hello with its echo. Intermediaries are known
// that accept an exchange and then carry nothing, so nothing less counts. The decision holds for a while, is taken again in the background
// after that, and at once when a dial fails. It is never final.
type race struct {
	order []string // the first starts, the next when it fails or after timing.stagger
	hello func(ctx context.Context, transport string) error
	say   func(from, to string) // told when the winner is not the last one
	t     timing
	ctx   context.Context // of the hellos
	stop  context.CancelFunc
	tasks sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	winner  string // "" for none
	last    string // the winner before, or the one that should have won
	until   time.Time
	running *heat
}

// A heat is one run of the race.
type heat struct {
	done chan struct{}
	err  error // valid after done
}

func newRace(order []string, t timing, hello func(context.Context, string) error, say func(from, to string)) *race {
	r := &race{order: order, t: t, hello: hello, say: say, last: order[0]}
	r.ctx, r.stop = context.WithCancel(context.Background())
	return r
}

// transports are those that auto tries for a gateway, in order. The ingress of Snowpark Container Services is known for WebSockets alone.
func transports(scheme, host string) []string {
	switch {
	case scheme == "http":
		return []string{TransportWS, TransportH2}
	case strings.HasSuffix(host, ".snowflakecomputing.app"), strings.HasSuffix(host, ".snowflake.app"):
		return []string{TransportWS, TransportH3, TransportH2}
	}
	return []string{TransportH3, TransportWS, TransportH2}
}

// choose returns the winner, and waits for one if there is none.
func (r *race) choose(ctx context.Context) (string, error) {
	for {
		r.mu.Lock()
		if r.closed {
			r.mu.Unlock()
			return "", net.ErrClosed
		}
		winner := r.winner
		if winner == "" || time.Now().After(r.until) {
			r.startLocked()
		}
		h := r.running
		r.mu.Unlock()
		if winner != "" {
			return winner, nil
		}
		select {
		case <-h.done:
			if h.err != nil {
				return "", h.err
			}
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
}

// lost takes a transport's win back because a dial failed with err, unless that says nothing about the transport. It reports whether it did.
func (r *race) lost(transport string, err error) bool {
	if _, ok := errors.AsType[*AnswerError](err); ok || errors.Is(err, context.Canceled) || errors.Is(err, net.ErrClosed) {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.winner == transport {
		r.winner = ""
	}
	return !r.closed
}

func (r *race) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.stop()
	r.tasks.Wait()
}

func (r *race) startLocked() {
	if r.running != nil {
		return
	}
	h := &heat{done: make(chan struct{})}
	r.running = h
	r.tasks.Go(func() { r.decide(h) })
}

func (r *race) decide(h *heat) {
	winner, err := r.run(r.ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	h.err = err
	r.running = nil
	r.until = time.Now().Add(r.t.verdict)
	close(h.done)
	if err != nil {
		return // what won before may still work; the next dial will tell
	}
	if r.say != nil && winner != r.last {
		r.say(r.last, winner)
	}
	r.winner, r.last = winner, winner
}

// run has the transports say hello, and cancels the losers.
func (r *race) run(ctx context.Context) (winner string, err error) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	type result struct {
		transport string
		err       error
	}
	results := make(chan result, len(r.order))
	start := func(transport string) {
		wg.Go(func() { results <- result{transport, r.hello(ctx, transport)} })
	}
	waiting := r.order
	stagger := time.NewTimer(0)
	defer stagger.Stop()
	var failures []error
	for len(failures) < len(r.order) {
		next := stagger.C
		if len(waiting) == 0 {
			next = nil
		}
		select {
		case <-next:
			start(waiting[0])
			waiting = waiting[1:]
			stagger.Reset(r.t.stagger)
		case got := <-results:
			if got.err == nil {
				return got.transport, nil
			}
			failures = append(failures, got.err)
			stagger.Reset(0)
		}
	}
	if len(failures) == 1 {
		return "", failures[0]
	}
	err = failures[0]
	for _, next := range failures[1:] {
		err = fmt.Errorf("%w; %w", err, next)
	}
	return "", explain(fmt.Errorf("no transport reaches the gateway: %w", err))
}
