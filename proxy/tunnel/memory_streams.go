package tunnel

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"time"
)

// stalledFor is how long received bytes must have waited for a reader before a stream can be ended
// for lack of memory.
const stalledFor = time.Second

// endStalledStreams ends HTTP/2 streams while more memory than limit is in use, the longest-stalled
// first, until ctx is done. net/http buffers up to windows.stream of what nobody reads, and no
// counter of ours sees it. The connection must stay, because behind an ingress it carries the
// streams of many agents. QUIC has memoryWatch for this, and over WebSocket the kernel holds what
// we do not read.
func endStalledStreams(ctx context.Context, l *limiter, r *registry, limit int64, log *slog.Logger) {
	tick := time.NewTicker(watchMemory)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if l.inUse() <= limit {
			continue
		}
		if runtime.GC(); l.inUse() > limit {
			endMostStalled(r, limit, log)
		}
	}
}

// endMostStalled ends the stream that has stalled longest, if any has for stalledFor.
func endMostStalled(r *registry, limit int64, log *slog.Logger) {
	worst := r.mostStalled(stalledFor)
	if worst == nil {
		return
	}
	err := &Error{Code: CodeLimit, Message: fmt.Sprintf("the gateway is short of memory, and nobody has read what this stream received for %v", stalledFor)}
	log.Warn("stream aborted: memory in use exceeds the limit", "agent_addr", worst.RemoteAddr(), "limit", limit)
	worst.end(err)
	worst.x.Abort() // without an ERROR: the memory would stay in use until the peer reads it
}
