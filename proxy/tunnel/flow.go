package tunnel

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/exchange"
)

// A flow is what a stream moves, for the [flowWatch] of its Dialer.
type flow struct {
	up, down oneWay
	watch    *flowWatch    // nil at the gateway's end
	all      *atomic.Int64 // what all streams of the watch have moved over the same transport
}

// oneWay is one direction of a flow.
type oneWay struct {
	moved atomic.Int64 // bytes
	// There are bytes to move now, and they wait for the network: a Write is in progress, or a Read
	// waits in the middle of a capsule.
	busy atomic.Bool

	// Since when it has been busy whenever it was looked at, and what it had moved then. Owned by
	// the flowWatch.
	since int64
	from  int64
}

const (
	// hardlyMoves is how many bytes a stream moves at most in timing.slow when it suffers. Through
	// Envoy's h3 that crawls, one stream moved 0.14 to 0.5 MB/s, and each of three 1 MB/s. That the
	// limit is far above costs little: a check on a line that is slow finds nothing.
	hardlyMoves = 8 << 20

	// muchMoved is how many bytes a transport moves in timing.busy when its CPU time matters: at
	// 100 MB/s, h3 takes a fifth of a core at each end.
	muchMoved = 1 << 30

	// bulk is the size of a Write, in bytes, that makes the flowWatch look.
	bulk = 16 << 10
)

// begin says that there are bytes to move.
func (f *flow) begin(w *oneWay, look bool) {
	if f.watch == nil {
		return
	}
	w.busy.Store(true)
	if look {
		f.watch.look()
	}
}

// end says that nothing waits any more.
func (f *flow) end(w *oneWay) {
	if f.watch != nil {
		w.busy.Store(false)
	}
}

// add says that n bytes have moved.
func (f *flow) add(w *oneWay, n int) {
	if f.watch == nil {
		return
	}
	w.moved.Add(int64(n))
	f.all.Add(int64(n))
}

// suffers reports whether the direction has had bytes to move for the whole of a time, and has
// hardly moved any. It is called at intervals.
func (w *oneWay) suffers(now int64, within time.Duration) bool {
	moved := w.moved.Load()
	if !w.busy.Load() {
		w.since = 0
		return false
	}
	if w.since == 0 {
		w.since, w.from = now, moved
		return false
	}
	if time.Duration(now-w.since) < within {
		return false
	}
	suffers := moved-w.from < hardlyMoves
	w.since, w.from = now, moved
	return suffers
}

// A flowWatch looks at the streams of a Dialer while bytes wait for the network, and reports the
// streams that suffer, and the transports that are busy. It does not know why streams suffer: the
// peer may read slowly, for example.
type flowWatch struct {
	moved   map[string]*atomic.Int64 // by transport, bytes that all streams have moved, both ways
	t       timing
	streams func() []*Conn
	suffers func(transport string)
	busy    func(transport string)
	loads   map[string]*load // by transport; owned by sample

	looking atomic.Bool
	mu      sync.Mutex
	timer   *time.Timer // runs sample; nil until look is called first, and after stop
	stopped bool
}

// A load is what a transport had moved at a moment.
type load struct {
	at   int64
	from int64
}

// busy reports whether much has moved within a time. It is called at intervals while bytes move.
func (l *load) busy(now, moved int64, within time.Duration) bool {
	since := time.Duration(now - l.at)
	if l.at != 0 && since < within {
		return false
	}
	busy := l.at != 0 && since < 2*within && moved-l.from >= muchMoved
	l.at, l.from = now, moved
	return busy
}

// init prepares the watch of some transports.
func (w *flowWatch) init(transports []string) {
	w.moved, w.loads = make(map[string]*atomic.Int64), make(map[string]*load)
	for _, t := range transports {
		w.moved[t], w.loads[t] = new(atomic.Int64), new(load)
	}
}

// movedBy returns what all streams have moved so far, by transport.
func (w *flowWatch) movedBy() map[string]int64 {
	moved := make(map[string]int64, len(w.moved))
	for t, n := range w.moved {
		moved[t] = n.Load()
	}
	return moved
}

// total returns what all streams have moved so far.
func (w *flowWatch) total() (n int64) {
	for _, moved := range w.moved {
		n += moved.Load()
	}
	return n
}

// look makes the watch look at intervals until nothing waits any more.
func (w *flowWatch) look() {
	if w.looking.Load() || !w.looking.CompareAndSwap(false, true) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.stopped:
	case w.timer == nil:
		w.timer = time.AfterFunc(w.t.slow/12, w.sample)
	default:
		w.timer.Reset(w.t.slow / 12)
	}
}

// sample looks at all streams once.
func (w *flowWatch) sample() {
	busy, now := false, exchange.Clock()
	for _, c := range w.streams() {
		up, down := c.flow.up.suffers(now, w.t.slow), c.flow.down.suffers(now, w.t.slow)
		busy = busy || c.flow.up.since != 0 || c.flow.down.since != 0
		if up || down {
			w.suffers(c.transport)
		}
	}
	for t, l := range w.loads {
		if l.busy(now, w.moved[t].Load(), w.t.busy) {
			w.busy(t)
		}
	}
	w.looking.Store(false)
	if busy {
		w.look()
	}
}

// stop ends the watch.
func (w *flowWatch) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopped = true
	if w.timer != nil {
		w.timer.Stop()
	}
}
