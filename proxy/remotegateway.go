package proxy

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// remoteGateway is what an agent knows of one of its gateways.
type remoteGateway struct {
	*tunnel.Dialer
	changed func()                                  // is called when up or keys have changed; does not block
	seen    func(g *remoteGateway, instance string) // is called with each answer; likewise

	up     atomic.Bool              // it has answered, and no dial has failed since
	keys   atomic.Pointer[[]string] // those of its tickets; nil: not known
	picked atomic.Int64             // dials for which it was chosen and which have not ended
	failed atomic.Int64             // when it last failed a stream of a client, in Unix nanoseconds
}

const (
	// doubtFor is how long other gateways are preferred to one that did not reach a broker, or
	// refused a stream for a limit. Such a gateway has the fewest streams and would get all new ones.
	doubtFor = 10 * time.Second
	// unfitFor is how long no connection is moved for the sake of such a gateway.
	unfitFor = 10 * time.Minute
)

// fail notes that the gateway answers, and cannot serve a stream now.
func (g *remoteGateway) fail() { g.failed.Store(time.Now().UnixNano()) }

// failedWithin reports whether it could not serve a stream lately.
func (g *remoteGateway) failedWithin(d time.Duration) bool {
	return time.Since(time.Unix(0, g.failed.Load())) < d
}

// doubt returns 1 if the gateway comes after others that are equal, else 0.
func (g *remoteGateway) doubt() int {
	if g.failedWithin(doubtFor) {
		return 1
	}
	return 0
}

// answered is told each answer to OPEN.
func (g *remoteGateway) answered(o tunnel.Opened) {
	keys := o.Keys[:min(len(o.Keys), maxKeyIDs)]
	if last := g.keys.Load(); last == nil || !slices.Equal(*last, keys) {
		g.keys.Store(&keys)
		g.changed()
	}
	g.seen(g, o.Instance)
	g.setUp(true)
}

// setUp says whether new streams may use the gateway.
func (g *remoteGateway) setUp(up bool) {
	if g.up.Swap(up) != up {
		g.changed()
	}
}

// load returns how many streams lead to the gateway, with those that are about to.
func (g *remoteGateway) load() int { return g.Streams() + int(g.picked.Load()) }

// equals reports whether a stream may lead to one gateway as well as to the other: each accepts the
// tickets of the other. Gateways share a key for that reason only.
func (g *remoteGateway) equals(h *remoteGateway) bool {
	if g == h {
		return true
	}
	ours, theirs := g.keys.Load(), h.keys.Load()
	return ours != nil && theirs != nil && len(*ours) > 0 && len(*theirs) > 0 &&
		slices.Contains(*ours, (*theirs)[0]) && slices.Contains(*theirs, (*ours)[0])
}
