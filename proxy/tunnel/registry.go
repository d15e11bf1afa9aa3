package tunnel

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/exchange"
)

const (
	// pollStreams is how often a registry that waits checks whether the remaining streams are only
	// lingering.
	pollStreams = 250 * time.Millisecond

	// resetTimeout is how long agents have to read the ERROR that ends their streams when the drain
	// timeout is over.
	resetTimeout = time.Second
)

// errDraining is shared by all streams; nobody may change it.
var errDraining = &Error{Code: CodeDraining, Message: "this gateway is draining"}

// errRevoked is shared by all streams; nobody may change it. Its code is that of a draining
// gateway, because the agent must do the same: discard what it has ready and send a new request.
// With the credentials that the agent has by then, that request is accepted or refused with a
// reason.
var errRevoked = &Error{Code: CodeDraining, Message: "the token or certificate that opened this stream is no longer accepted"}

// A registry holds the streams of a Server, and ends them when the Server drains.
type registry struct {
	t timing

	ctx    context.Context // of all streams; canceled when they are cut
	cancel context.CancelFunc

	serving atomic.Int64   // streams that something serves, not counting those that only linger
	served  sync.WaitGroup // one count per stream, until whatever serves it has returned

	mu       sync.Mutex
	draining bool
	had      bool // there were streams when drain was called
	streams  map[*Conn]struct{}
	spares   map[*Conn]any // streams without OPEN that an agent holds ready, with their Grant
	empty    chan struct{} // closed when draining is true and streams is empty
}

// newRegistry returns a registry whose streams end with ctx at the latest.
func newRegistry(ctx context.Context, t timing) *registry {
	r := &registry{t: t, streams: make(map[*Conn]struct{}), spares: make(map[*Conn]any), empty: make(chan struct{})}
	r.ctx, r.cancel = context.WithCancel(ctx)
	return r
}

// newStream creates and registers a stream. If draining has finished, it aborts the exchange and
// returns nil. Whatever serves the stream must call served.Done.
func (r *registry) newStream(x exchange.Exchange, transport string) *Conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.draining && len(r.streams) == 0 {
		x.Abort()
		return nil
	}
	var c *Conn
	c = newServed(x, transport, &r.t, func() { r.forget(c) })
	r.streams[c] = struct{}{}
	r.served.Add(1)
	return c
}

// forget removes a stream whose exchange is over.
func (r *registry) forget(c *Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.streams, c)
	if r.draining && len(r.streams) == 0 {
		close(r.empty)
	}
}

// all returns the streams.
func (r *registry) all() []*Conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Keys(r.streams))
}

// addSpare registers a stream without OPEN, so that drain and endSpares find it. A gateway that is
// draining already resets it.
func (r *registry) addSpare(c *Conn, grant any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, have := r.spares[c]; !have && r.draining {
		go c.Reset(errDraining)
	}
	r.spares[c] = grant
}

// removeSpare is called when the OPEN of a spare has arrived, and when the spare has ended.
func (r *registry) removeSpare(c *Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.spares, c)
}

// endSpares resets the streams without OPEN whose grant has been revoked. Each reset has a
// goroutine, because it waits for its peer and the caller must not.
func (r *registry) endSpares(revoked func(grant any) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c, grant := range r.spares {
		if revoked(grant) {
			go c.Reset(errRevoked)
		}
	}
}

// isDraining reports whether drain was called.
func (r *registry) isDraining() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.draining
}

// drain resets the spares and lets open streams continue. It is called once.
func (r *registry) drain() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.draining, r.had = true, len(r.streams) > 0
	for c := range r.spares {
		go c.Reset(errDraining)
	}
	if !r.had {
		close(r.empty)
	}
}

// hadStreams reports whether there were streams when draining began.
func (r *registry) hadStreams() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.had
}

// isEmpty reports whether the last stream has ended after drain; no more streams start then.
func (r *registry) isEmpty() bool {
	select {
	case <-r.empty:
		return true
	default:
		return false
	}
}

// wait blocks, after drain, until all streams have ended. When ctx is done it ends those that are
// left and returns an error with their number. It waits only timing.reset for streams that merely
// linger, because a client that never closes would otherwise hold up the shutdown.
func (r *registry) wait(ctx context.Context) error {
	for idle := time.Duration(0); ; {
		tick := time.NewTimer(pollStreams)
		select {
		case <-r.empty:
			tick.Stop()
			return nil
		case <-ctx.Done():
			tick.Stop()
			return fmt.Errorf("drain: %d streams cut: %w", r.end(), context.Cause(ctx))
		case <-tick.C:
		}
		if idle += pollStreams; r.serving.Load() > 0 {
			idle = 0
		}
		if idle >= r.t.reset {
			r.cut()
			return nil
		}
	}
}

// end resets all streams with errDraining, so that agents do not blame the network, and after
// resetTimeout cuts those whose agents have not read it. It returns the number of streams there
// were.
func (r *registry) end() int {
	late := time.After(resetTimeout)
	r.mu.Lock()
	n := len(r.streams)
	var resets sync.WaitGroup
	for c := range r.streams {
		resets.Go(func() { c.Reset(errDraining) })
	}
	r.mu.Unlock()
	said := make(chan struct{})
	r.served.Go(func() {
		resets.Wait()
		close(said)
	})
	for _, over := range []<-chan struct{}{said, r.empty} {
		select {
		case <-over:
			r.cancel() // not earlier: Serve may return on it and close a stream before the ERROR is sent
		case <-late:
			r.cut()
			return n
		}
	}
	return n
}

// cut ends all streams at once. Agents read ErrCut.
func (r *registry) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer r.cancel()
	for c := range r.streams {
		c.end(net.ErrClosed)
		c.x.Abort()
	}
}

// stalled returns the streams whose received bytes have waited longer than d for a reader, among
// those whose exchange is Buffering. The one that has waited longest comes first.
func (r *registry) stalled(d time.Duration) (list []*Conn) {
	type waiting struct {
		c     *Conn
		since int64
	}
	var found []waiting
	latest := exchange.Clock() - int64(d)
	r.mu.Lock()
	for c := range r.streams {
		if x, ok := c.x.(exchange.Buffering); ok {
			if since := x.StalledSince(); since > 0 && since < latest {
				found = append(found, waiting{c, since})
			}
		}
	}
	r.mu.Unlock()
	slices.SortFunc(found, func(a, b waiting) int { return cmp.Compare(a.since, b.since) })
	for _, w := range found {
		list = append(list, w.c)
	}
	return list
}
