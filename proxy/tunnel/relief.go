package tunnel

import (
	"context"
	"fmt"
	"runtime"
	"time"
)

// stalledFor is how long nobody must have taken what came on a stream for the stream to be ended when memory runs out.
const stalledFor = time.Second

// relieve ends streams of HTTP/2 while twice the memory is in use that Limits allows, until ctx is done: first the one that has stood still for
// longest. net/http holds what comes on a stream and nobody reads, up to windows.stream, and no book of ours has it. A connection would be
// the wrong thing to end: behind an ingress it carries the streams of many agents. For QUIC there is quicWatch, and over WebSocket the kernel
// holds what we do not read.
func (s *Server) relieve(ctx context.Context) {
	tick := time.NewTicker(watchMemory)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if s.ledger.inUse() <= 2*s.Limits.Memory {
			continue
		}
		if runtime.GC(); s.ledger.inUse() > 2*s.Limits.Memory {
			s.endStalled()
		}
	}
}

// endStalled ends the stream that has stood still for longest, if one has for long enough.
func (s *Server) endStalled() {
	var worst *Conn
	since := clock() - int64(stalledFor)
	s.mu.Lock()
	for c := range s.streams {
		if x, ok := c.x.(*postExchange); ok && x.in.waits() > 0 && x.in.waits() < since {
			worst, since = c, x.in.waits()
		}
	}
	s.mu.Unlock()
	if worst == nil {
		return
	}
	err := &Error{CodeLimit, fmt.Sprintf("the gateway has too little memory for what this stream was sent and nobody took for %v", stalledFor)}
	s.log.Warn("stream ended, too much memory is in use", "agent_addr", worst.RemoteAddr(), "limit", 2*s.Limits.Memory)
	worst.end(err)
	worst.x.Abort() // and no ERROR before it: a peer that does not take that would go on holding the memory
}
