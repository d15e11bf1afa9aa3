package tunnel

import (
	"runtime"
	"runtime/metrics"
	"sync"
	"time"

	"github.com/culvert-proxy/culvert/proxy/hints"
)

// Limits bound what agents can make a [Server] hold. 0 is no limit.
type Limits struct {
	Streams            int   // all that have their OPEN, but for hellos, which are short
	StreamsPerIdentity int   // those of them that one identity has
	SparesPerIdentity  int   // what one identity holds ready, without OPEN
	Memory             int64 // bytes in use by the process, beyond which no stream is opened; beyond twice that QUIC connections are closed
}

// Limit is the name of one of [Limits].
type Limit string

// The limits of a Server.
const (
	LimitStreams            Limit = "streams"
	LimitStreamsPerIdentity Limit = "streams_per_identity"
	LimitSparesPerIdentity  Limit = "spares_per_identity"
	LimitMemory             Limit = "memory"
	LimitUnauthenticated    Limit = "unauthenticated" // what a peer may hold, and for how long, before a request of it has authenticated
)

// limitReached is a refusal by name: the agent is told what was reached, and whoever runs the gateway what raises it.
type limitReached struct {
	limit Limit
	err   *Error
}

func (l *limiter) reached(limit Limit, format string, a ...any) *limitReached {
	return &limitReached{limit, &Error{Code: CodeLimit, Message: "the gateway's limit of " + l.names.Sprintf(format, a...)}}
}

// A limiter counts what each identity holds. An identity that holds nothing takes no place in it.
type limiter struct {
	Limits
	names  hints.Names  // of settings, in what agents are told
	memory func() int64 // bytes in use; nil asks the runtime

	mu      sync.Mutex
	streams int
	of      map[string]holding
	fresh   time.Time // when memory was last collected for an exact answer
}

type holding struct{ streams, spares, waiting int }

// open counts a stream, until leave is called, unless that is one too many.
func (l *limiter) open(identity string) (leave func(), full *limitReached) {
	if l.exhausted() {
		return nil, l.reached(LimitMemory, "%d bytes of memory in use is reached; %s raises it", l.Memory, hints.MaxMemory)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.Streams > 0 && l.streams >= l.Streams:
		return nil, l.reached(LimitStreams, "%d streams is reached; %s raises it", l.Streams, hints.MaxStreams)
	case l.StreamsPerIdentity > 0 && l.of[identity].streams >= l.StreamsPerIdentity:
		return nil, l.reached(LimitStreamsPerIdentity, "%d streams for identity %q is reached; %s raises it", l.StreamsPerIdentity, identity, hints.MaxStreamsPerIdentity)
	}
	l.add(identity, holding{streams: 1})
	return func() { l.leave(identity, holding{streams: -1}) }, nil
}

// spare counts a spare, as open does a stream.
func (l *limiter) spare(identity string) (leave func(), full *limitReached) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.SparesPerIdentity > 0 && l.of[identity].spares >= l.SparesPerIdentity {
		return nil, l.reached(LimitSparesPerIdentity, "%d spares for identity %q is reached; %s raises it", l.SparesPerIdentity, identity, hints.MaxSparesPerIdentity)
	}
	l.add(identity, holding{spares: 1})
	return func() { l.leave(identity, holding{spares: -1}) }, nil
}

// wait counts a stream whose OPEN has not come, as open does one that has it. There may be as many as all that could become streams and spares.
func (l *limiter) wait(identity string) (leave func(), full *limitReached) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.StreamsPerIdentity > 0 && l.of[identity].waiting >= l.StreamsPerIdentity+l.SparesPerIdentity {
		return nil, l.reached(LimitStreamsPerIdentity, "%d streams for identity %q is reached by streams without OPEN; %s raises it", l.StreamsPerIdentity, identity, hints.MaxStreamsPerIdentity)
	}
	l.add(identity, holding{waiting: 1})
	return func() { l.leave(identity, holding{waiting: -1}) }, nil
}

func (l *limiter) leave(identity string, h holding) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.add(identity, h)
}

// add changes what an identity holds. The caller holds mu.
func (l *limiter) add(identity string, h holding) {
	if l.of == nil {
		l.of = make(map[string]holding)
	}
	l.streams += h.streams
	has := l.of[identity]
	has.streams += h.streams
	has.spares += h.spares
	has.waiting += h.waiting
	l.of[identity] = has
	if has == (holding{}) {
		delete(l.of, identity)
	}
}

// exhausted reports whether more memory is in use than may be. The figure is of the last garbage collection, and as a heap that doubles is
// collected it is never far too small. It may be too large: then it is made exact before anybody is refused, once a second at most.
func (l *limiter) exhausted() bool {
	if l.Memory <= 0 || l.inUse() <= l.Memory {
		return false
	}
	l.mu.Lock()
	stale := time.Since(l.fresh) > time.Second
	if stale {
		l.fresh = time.Now()
	}
	l.mu.Unlock()
	if stale {
		runtime.GC()
	}
	return l.inUse() > l.Memory
}

// inUse is what the process holds. It counts what no count of ours could: bytes that a peer sent over QUIC and nobody has read yet.
func (l *limiter) inUse() int64 {
	if l.memory != nil {
		return l.memory()
	}
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"}}
	metrics.Read(s)
	return int64(s[0].Value.Uint64() + s[1].Value.Uint64())
}
