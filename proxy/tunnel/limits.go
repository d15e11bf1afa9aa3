package tunnel

import (
	"sync"

	"github.com/culvert-proxy/culvert/proxy/hints"
)

// Limits bound what agents can make a [Server] hold. 0 means no limit.
type Limits struct {
	Streams            int // all streams with an OPEN, except hellos, which are short
	StreamsPerIdentity int // such streams of one identity
	SparesPerIdentity  int // streams without OPEN that one identity keeps ready
	// Bytes the process may have in use before new streams are refused. From a tenth more on, QUIC
	// connections and stalled HTTP/2 streams end.
	Memory int64
}

// mostMemory is how many bytes may be in use before streams that are open end; 0 means no limit.
func (l Limits) mostMemory() int64 { return l.Memory + l.Memory/10 }

// Limit names one of [Limits], in metrics and logs.
type Limit string

// The limits of a Server.
const (
	LimitStreams            Limit = "streams"
	LimitStreamsPerIdentity Limit = "streams_per_identity"
	LimitSparesPerIdentity  Limit = "spares_per_identity"
	LimitMemory             Limit = "memory"
	// What a peer may hold, and for how long, before it has authenticated.
	LimitUnauthenticated Limit = "unauthenticated"
)

// LimitUse is how much of a limit is used now.
type LimitUse struct {
	Limit Limit
	Used  int64 // bytes of memory, otherwise a number; of limits for each identity, what the identity with the most has
	Max   int64 // 0 means no limit
}

// LimitUses returns how much of each limit is used now.
func (s *Server) LimitUses() []LimitUse {
	s.init()
	return append(s.limiter.uses(), s.unauthenticatedUse())
}

// unauthenticatedUse is that of TCP or of QUIC connections, whichever are nearer to their limit.
func (s *Server) unauthenticatedUse() LimitUse {
	tcp := LimitUse{LimitUnauthenticated, int64(s.unauthenticated.len()), int64(s.unauthenticated.limit())}
	if h := s.h3Server(); h != nil {
		if n := int64(h.unauthenticated.len()); n*tcp.Max > tcp.Used*maxUnauthenticatedQUIC {
			return LimitUse{LimitUnauthenticated, n, maxUnauthenticatedQUIC}
		}
	}
	return tcp
}

// limitReached names the limit for whoever runs the gateway, and has the error for the agent.
type limitReached struct {
	limit Limit
	err   *Error
}

// reached returns the refusal for one limit. Its text names the setting that raises the limit.
func (l *limiter) reached(limit Limit, format string, a ...any) *limitReached {
	return &limitReached{limit, &Error{Code: CodeLimit, Message: "the gateway's limit of " + l.names.Sprintf(format, a...)}}
}

// A limiter counts what each identity holds. An identity that holds nothing takes no memory.
type limiter struct {
	Limits
	names  hints.Names // names of settings, for messages to agents
	memory memory

	mu      sync.Mutex
	streams int
	of      map[string]holding
}

// holding is what one identity holds: streams, spares, and streams whose OPEN has not arrived.
type holding struct{ streams, spares, waiting int }

// uses returns how much of each of the Limits is used.
func (l *limiter) uses() []LimitUse {
	l.mu.Lock()
	defer l.mu.Unlock()
	most := holding{}
	for _, has := range l.of {
		most.streams, most.spares = max(most.streams, has.streams), max(most.spares, has.spares)
	}
	return []LimitUse{
		{LimitStreams, int64(l.streams), int64(l.Streams)},
		{LimitStreamsPerIdentity, int64(most.streams), int64(l.StreamsPerIdentity)},
		{LimitSparesPerIdentity, int64(most.spares), int64(l.SparesPerIdentity)},
		{LimitMemory, l.memory.inUse(), l.Memory},
	}
}

// open counts a stream until leave is called, or returns the limit that is reached.
func (l *limiter) open(identity string) (leave func(), full *limitReached) {
	if l.memory.exceeds(l.Memory) {
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

// spare counts a spare, like open.
func (l *limiter) spare(identity string) (leave func(), full *limitReached) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.SparesPerIdentity > 0 && l.of[identity].spares >= l.SparesPerIdentity {
		return nil, l.reached(LimitSparesPerIdentity, "%d spares for identity %q is reached; %s raises it", l.SparesPerIdentity, identity, hints.MaxSparesPerIdentity)
	}
	l.add(identity, holding{spares: 1})
	return func() { l.leave(identity, holding{spares: -1}) }, nil
}

// wait counts a stream whose OPEN has not arrived, like open. There may be as many of them as could
// become streams and spares.
func (l *limiter) wait(identity string) (leave func(), full *limitReached) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.StreamsPerIdentity > 0 && l.of[identity].waiting >= l.StreamsPerIdentity+l.SparesPerIdentity {
		return nil, l.reached(LimitStreamsPerIdentity, "%d streams for identity %q is reached by streams without OPEN; %s raises it", l.StreamsPerIdentity, identity, hints.MaxStreamsPerIdentity)
	}
	l.add(identity, holding{waiting: 1})
	return func() { l.leave(identity, holding{waiting: -1}) }, nil
}

// leave takes h, whose counts are negative, off what identity holds.
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
