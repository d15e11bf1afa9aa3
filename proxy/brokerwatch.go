package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-proxy/culvert/proxy/backoff"
)

const (
	// checkEveryAgent and checkEveryGateway are how long brokers that answer are not asked again.
	// There may be a thousand agents, and a failed connection of a client asks at once.
	checkEveryAgent   = 30 * time.Second
	checkEveryGateway = 10 * time.Second
	// checkAtMost is the least time between two checks while brokers answer. While a node is down,
	// its clients reconnect many times a second.
	checkAtMost = time.Second
	// checkRetry and checkRetryMost are the first and the longest wait while no broker answers.
	checkRetry     = 200 * time.Millisecond
	checkRetryMost = 5 * time.Second
	// maxReasons bounds the lines about one outage, when its reason changes.
	maxReasons = 4
)

// brokerWatch knows whether clients of this end would get an answer from a broker: it asks one
// itself, when it starts, from time to time, and when a connection has failed. It logs once when
// brokers stop answering, and once when they answer again. Set the fields up to log before run,
// which is called once. The other methods may be called at any time, concurrently.
type brokerWatch struct {
	ask   func(ctx context.Context) error // asks once, and takes a bounded time
	every time.Duration                   // between two checks while brokers answer
	lost  string                          // what to log when they do not
	early chan struct{}                   // of capacity 1: holds an element if a check is due early
	log   *slog.Logger

	nodes  outages      // of single brokers, while others answer
	resets atomic.Int64 // connections that were reset because the way to their broker failed

	mu         sync.Mutex
	ever       bool            // a broker has answered since the start
	missing    error           // why none answers; nil while one does
	since      time.Time       // when the outage began
	told       bool            // the outage has a line in the log
	reasons    map[string]bool // that have been logged for this outage; nil: none
	lastResets int64           // resets when a broker answered last
}

var errNotAsked = errors.New("no broker has been asked yet")

// upstreamError says that there was no stream to ask a broker on.
type upstreamError struct {
	error
	logged bool // the tunnel has logged it
}

func (e upstreamError) Unwrap() error { return e.error }

// run asks until ctx is done.
func (w *brokerWatch) run(ctx context.Context) {
	for failures := 0; ; {
		switch err := w.ask(ctx); {
		case ctx.Err() != nil:
			return
		case err == nil:
			failures = 0
			w.answered()
		default:
			failures++
			w.unanswered(err, failures)
		}
		if !w.wait(ctx, failures) {
			return
		}
	}
}

// wait waits until the next check is due, and reports whether there is one.
func (w *brokerWatch) wait(ctx context.Context, failures int) bool {
	pause, early := backoff.Delay(max(0, failures-1), checkRetry, checkRetryMost), (chan struct{})(nil)
	if failures == 0 {
		if !sleep(ctx, checkAtMost) {
			return false
		}
		pause, early = w.every-checkAtMost, w.early
	}
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-early:
	case <-t.C:
	}
	return true
}

// sleep waits for d, and reports whether that was before the end of ctx.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// suspect has a check made soon. It does not block.
func (w *brokerWatch) suspect() {
	select {
	case w.early <- struct{}{}:
	default:
	}
}

// reset counts a connection that was reset because the way to its broker failed.
func (w *brokerWatch) reset() {
	w.resets.Add(1)
	w.suspect()
}

// answered records that a broker has answered, and logs the end of an outage. The end of the first
// one, at the start, is the line with "ready".
func (w *brokerWatch) answered() {
	w.mu.Lock()
	defer w.mu.Unlock()
	resets := w.resets.Load()
	if w.ever && w.missing != nil {
		w.log.Info("brokers answer again", "after", time.Since(w.since), "clients_reset", resets-w.lastResets)
	}
	w.ever, w.missing, w.since, w.told, w.reasons, w.lastResets = true, nil, time.Time{}, false, nil, resets
}

// unanswered records that no broker has answered. While they answered before, that takes two
// failures in a row: a gateway or a broker may just be restarting.
func (w *brokerWatch) unanswered(err error, failures int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.since.IsZero() {
		w.since = time.Now()
	}
	if w.ever && failures == 1 {
		return
	}
	says := w.lost
	up, isUpstream := errors.AsType[upstreamError](err)
	if isUpstream {
		says = "no stream to a broker"
	}
	w.missing = fmt.Errorf("%s: %w", says, err)
	w.told = true
	if isUpstream && up.logged || !w.isNews(err) {
		w.log.Debug(says, "err", err)
		return
	}
	w.log.Warn(says, "err", err)
}

// isNews reports whether the outage has not been logged yet for the same reason. Reasons that
// differ only in numbers, such as ports of ours, or in their order are the same. The caller holds
// mu.
func (w *brokerWatch) isNews(err error) bool {
	parts := strings.Split(strings.Map(withoutDigits, err.Error()), "; ")
	slices.Sort(parts)
	reason := strings.Join(slices.Compact(parts), "; ")
	if w.reasons[reason] || len(w.reasons) >= maxReasons {
		return false
	}
	if w.reasons == nil {
		w.reasons = map[string]bool{}
	}
	w.reasons[reason] = true
	return true
}

func withoutDigits(r rune) rune {
	if '0' <= r && r <= '9' {
		return -1
	}
	return r
}

// explains reports whether there is an outage that has its line in the log.
func (w *brokerWatch) explains() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.told
}

// state returns whether a broker has answered since the start, and why none answers now; nil means
// that one does.
func (w *brokerWatch) state() (ever bool, missing error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.ever && w.missing == nil {
		return false, errNotAsked
	}
	return w.ever, w.missing
}
