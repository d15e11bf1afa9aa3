package tunnel

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"time"
)

// stalledFor is how long nobody must have taken what came on a stream for the stream to be ended when memory runs out.
const stalledFor = time.Second

// relieve ends streams of HTTP/2 while more memory is in use than limit, until ctx is done: first the one that has stood still for longest.
// net/http holds what comes on a stream and nobody reads, up to windows.stream, and no count of ours has it. A connection would be the wrong thing
// to end: behind an ingress it carries the streams of many agents. For QUIC there is memoryWatch, and over WebSocket the kernel holds what we do
// not read.
func relieve(ctx context.Context, l *limiter, r *registry, limit int64, log *slog.Logger) {
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
			endStalled(r, limit, log)
		}
	}
}

// endStalled ends the stream that has stood still for longest, if one has for long enough.
func endStalled(r *registry, limit int64, log *slog.Logger) {
	worst := r.mostStalled(stalledFor)
	if worst == nil {
		return
	}
	err := &Error{Code: CodeLimit, Message: fmt.Sprintf("the gateway has too little memory for what this stream was sent and nobody took for %v", stalledFor)}
	log.Warn("stream ended, too much memory is in use", "agent_addr", worst.RemoteAddr(), "limit", limit)
	worst.end(err)
	worst.x.Abort() // and no ERROR before it: a peer that does not take that would go on holding the memory
}
