package tunnel

import (
	"context"
	"fmt"
	"log/slog"
	"time"
)

// stalledFor is how long received bytes must have waited for a reader before a stream can be ended
// for lack of memory. It is short, because memory fills fast; those that have waited longest end
// first.
const stalledFor = 50 * time.Millisecond

// A stallWatch ends HTTP/2 streams while too much memory is in use, the longest-stalled first.
// net/http buffers up to a window of what nobody reads, and no counter of ours sees it. The
// connection must stay, because behind an ingress it carries the streams of many agents. QUIC has
// memoryWatch for this, and over WebSocket the kernel holds what we do not read.
type stallWatch struct {
	limit    int64 // bytes in use
	memory   *memory
	registry *registry
	window   int // bytes that a stream may hold
	log      *slog.Logger
}

// run looks every watchMemory until ctx is done.
func (w *stallWatch) run(ctx context.Context) {
	tick := time.NewTicker(watchMemory)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if w.memory.exceeds(w.limit) {
			w.endMostStalled(w.memory.inUse() - w.limit)
		}
	}
}

// endMostStalled ends the streams that have stalled longest, as many as must hold the excess
// together if each of them holds a whole window. If they hold less, there is a next time.
func (w *stallWatch) endMostStalled(excess int64) {
	stalled := w.registry.stalled(stalledFor)
	stalled = stalled[:min(len(stalled), 1+int(excess/int64(w.window)))]
	for _, c := range stalled {
		c.end(&Error{Code: CodeLimit, Message: fmt.Sprintf("the gateway is short of memory, and nobody has read what this stream received for %v", stalledFor)})
		c.x.Abort() // without an ERROR: the memory would stay in use until the peer reads it
	}
	if len(stalled) > 0 {
		w.log.Warn("stalled streams aborted: memory in use exceeds the limit", "streams", len(stalled), "agent_addr", stalled[0].RemoteAddr(), "limit", w.limit)
	}
}
