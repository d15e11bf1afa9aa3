package proxy

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-proxy/culvert/proxy/internal/backoff"
	"github.com/culvert-proxy/culvert/proxy/status/document"
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
	// maxUnexplained bounds the lines that wait for a check.
	maxUnexplained = 64
)

// brokerWatch knows whether clients of this end would get an answer from a broker: it asks one
// itself, when it starts, from time to time, and when a connection has failed. It logs once when
// brokers stop answering, and once when they answer again. Set the fields up to log before run,
// which is called once. The other methods may be called at any time, concurrently.
type brokerWatch struct {
	ask     func(ctx context.Context) error // asks once, and takes a bounded time
	every   time.Duration                   // between two checks while brokers answer
	lost    string                          // what to log when they do not
	early   chan struct{}                   // of capacity 1: holds an element if a check is due early
	clients bool                            // resets counts connections of clients
	log     *slog.Logger

	nodes  outages // of single brokers, while others answer
	states nodeStates
	resets atomic.Int64 // connections that were reset because the way to their broker failed

	mu         sync.Mutex
	ever       bool      // a broker has answered since the start
	answering  time.Time // since when brokers answer, or did until the outage
	lastResets int64     // resets when a broker answered last
	stopped    bool      // run has returned
	outage
}

// outage is what is known while no broker answers. Its zero value means that one does, or that none
// has been asked.
type outage struct {
	missing     error           // why none answers; nil before the second failure
	since       time.Time       // of the first failure
	told        bool            // it has a line in the log, of ours or of the tunnel
	reasons     map[string]bool // that have been logged
	unexplained []func()        // log failures that may be part of it
}

var errNotAsked = errors.New("no broker has been asked yet")

// unreachable says why no broker answers.
type unreachable struct {
	what string // without addresses
	err  error
}

func (e unreachable) Error() string { return e.what + ": " + e.err.Error() }

func (e unreachable) Unwrap() error { return e.err }

// Brief is for whoever must not see addresses.
func (e unreachable) Brief() string { return e.what }

// upstreamError says that there was no stream to ask a broker on.
type upstreamError struct {
	error
	logged bool // the tunnel has logged it
}

func (e upstreamError) Unwrap() error { return e.error }

// run asks until ctx is done.
func (w *brokerWatch) run(ctx context.Context) {
	defer w.stop()
	for failures := 0; ; {
		switch err := w.ask(ctx); {
		case ctx.Err() != nil:
			return
		case err == nil:
			failures = 0
			logAll(w.answered())
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

// unlessOutage calls log after the next check, unless that shows an outage, whose line then says
// everything. log is called at once if nobody checks any more.
func (w *brokerWatch) unlessOutage(log func()) {
	w.mu.Lock()
	wait := !w.stopped && len(w.unexplained) < maxUnexplained
	if wait {
		w.unexplained = append(w.unexplained, log)
	}
	w.mu.Unlock()
	if !wait {
		log()
	}
	w.suspect()
}

// afterUnexplained calls log when what unlessOutage holds back has been logged, so that the end of an
// outage is not logged before its beginning. It calls log at once if nothing is held back.
func (w *brokerWatch) afterUnexplained(log func()) {
	w.mu.Lock()
	wait := len(w.unexplained) > 0 && len(w.unexplained) < maxUnexplained
	if wait {
		w.unexplained = append(w.unexplained, log)
	}
	w.mu.Unlock()
	if !wait {
		log()
	}
}

// explains reports whether there is an outage that has its line in the log.
func (w *brokerWatch) explains() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.told
}

// stop logs what has not been explained by the end of run.
func (w *brokerWatch) stop() {
	w.mu.Lock()
	logs := w.unexplained
	w.unexplained, w.stopped = nil, true
	w.mu.Unlock()
	logAll(logs)
}

func logAll(logs []func()) {
	for _, log := range logs {
		log()
	}
}

// answered records that a broker has answered, and logs the end of an outage. The end of the first
// one, at the start, is the line with "ready". It returns what no outage has explained.
func (w *brokerWatch) answered() (unexplained []func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	resets := w.resets.Load()
	if w.ever && w.missing != nil {
		w.logEnd(resets - w.lastResets)
	}
	if !w.ever || w.missing != nil {
		w.answering = time.Now()
	}
	unexplained = w.unexplained
	w.outage, w.ever, w.lastResets = outage{}, true, resets
	return unexplained
}

// logEnd logs the end of an outage. A gateway does not count clients: some streams of its agents
// belong to none. The caller holds mu.
func (w *brokerWatch) logEnd(resets int64) {
	took := time.Since(w.since)
	if !w.clients {
		w.log.Info("brokers answer again", "after", took)
		return
	}
	w.log.Info("brokers answer again", "after", took, "clients_reset", resets)
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
	w.missing, w.told, w.unexplained = unreachable{says, err}, true, nil
	w.nodes.forget()
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

// showNode sets the state of a node in the status document. While no broker answers, it is not known
// whether one would that was reached before.
func (w *brokerWatch) showNode(node string, n *document.Node) {
	w.states.show(node, n)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.missing != nil && n.State == document.NodeReached {
		n.State, n.Since = document.NodeUnknown, w.since.UTC()
	}
}

// changed returns since when brokers answer or, in an outage, do not; zero before the first answer.
func (w *brokerWatch) changed() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ever && w.missing != nil {
		return w.since
	}
	return w.answering
}
