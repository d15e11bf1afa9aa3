package tunnel

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-proxy/culvert/proxy/tunnel/exchange"
)

const (
	// pollStreams is how often a registry looks, while it waits, whether the streams that are left only linger.
	pollStreams = 250 * time.Millisecond

	// lastWordsTimeout is how long agents may take, when the time to drain is over, to take why their streams end.
	lastWordsTimeout = time.Second
)

// errDraining must not be changed.
var errDraining = &Error{Code: CodeDraining, Message: "this gateway is draining"}

// errRevoked must not be changed. The code is that of a gateway which drains, for the same is to be done: what was made ready counts for nothing,
// and the next request, with the credentials that the agent has by then, is let in or told why not.
var errRevoked = &Error{Code: CodeDraining, Message: "the token or certificate that this stream was opened with is not accepted any more"}

// A registry knows the streams of a Server, and ends them when it drains.
type registry struct {
	t timing

	ctx    context.Context // of all streams
	cancel context.CancelFunc

	serving atomic.Int64   // streams that are served, as opposed to those that only linger
	served  sync.WaitGroup // a count for each stream, until what serves it has returned

	mu       sync.Mutex
	draining bool
	had      bool // there were streams when draining began
	streams  map[*Conn]struct{}
	spares   map[*Conn]any // those that have no OPEN yet, and whose agent knows, with their Grant
	empty    chan struct{} // closed when draining and streams is empty
}

// newRegistry returns a registry whose streams end with ctx at the latest.
func newRegistry(ctx context.Context, t timing) *registry {
	r := &registry{t: t, streams: make(map[*Conn]struct{}), spares: make(map[*Conn]any), empty: make(chan struct{})}
	r.ctx, r.cancel = context.WithCancel(ctx)
	return r
}

// newStream makes a stream that the registry knows of, or aborts the exchange and returns nil when it came too late. What serves it must call
// served.Done.
func (r *registry) newStream(x exchange.Exchange, transport string) *Conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.draining && len(r.streams) == 0 {
		x.Abort()
		return nil
	}
	var c *Conn
	c = newConn(x, transport, r.t, func() { r.forget(c) })
	r.streams[c] = struct{}{}
	r.served.Add(1)
	return c
}

func (r *registry) forget(c *Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.streams, c)
	if r.draining && len(r.streams) == 0 {
		close(r.empty)
	}
}

// addSpare notes that a stream has no OPEN yet, so that drain ends it.
func (r *registry) addSpare(c *Conn, grant any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, have := r.spares[c]; !have && r.draining {
		go c.Reset(errDraining)
	}
	r.spares[c] = grant
}

func (r *registry) removeSpare(c *Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.spares, c)
}

// endSpares ends the streams without OPEN whose grant is revoked.
func (r *registry) endSpares(revoked func(grant any) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c, grant := range r.spares {
		if revoked(grant) {
			go c.Reset(errRevoked)
		}
	}
}

func (r *registry) isDraining() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.draining
}

// drain ends the spares, and lets streams that are open go on. It is called once.
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

// isEmpty reports whether the last stream has ended, and no other begins.
func (r *registry) isEmpty() bool {
	select {
	case <-r.empty:
		return true
	default:
		return false
	}
}

// wait waits, after drain, until the streams have ended, and ends those that are left when ctx is done. Streams that only linger are waited for no
// longer than some seconds.
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

// end tells agents why their streams end, so that they do not blame the way, and cuts those that have not taken it after a while. It returns how
// many there were.
func (r *registry) end() int {
	late := time.After(lastWordsTimeout)
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
			r.cancel() // not before: Serve may return then, and close a stream before it is told
		case <-late:
			r.cut()
			return n
		}
	}
	return n
}

// cut ends all streams at once.
func (r *registry) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer r.cancel()
	for c := range r.streams {
		c.end(net.ErrClosed)
		c.x.Abort()
	}
}

// mostStalled returns the stream over HTTP/2 for which something has waited longest to be read, if that is longer than d, else nil.
func (r *registry) mostStalled(d time.Duration) (worst *Conn) {
	since := exchange.Clock() - int64(d)
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.streams {
		if x, ok := c.x.(*exchange.Post); ok && x.Stalled() > 0 && x.Stalled() < since {
			worst, since = c, x.Stalled()
		}
	}
	return worst
}
