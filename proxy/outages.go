package proxy

import (
	"sync"
	"time"
)

// maxOutages bounds the outages that are remembered. An agent may name more addresses than it has
// nodes.
const maxOutages = 1024

// outageKept is how long an outage of a node that nobody asks for is remembered.
const outageKept = time.Hour

// outages remembers which nodes could not be reached, so that the beginning and the end of an outage
// are logged once each, and not each try of each client. Of a node that comes and goes, one outage
// in warnEvery is logged. The zero value is ready. It may be used concurrently.
type outages struct {
	mu    sync.Mutex
	nodes map[string]*outageOf
}

// outageOf is the last outage of a node.
type outageOf struct {
	open  bool
	since time.Time
	seen  time.Time // the last failure
	told  time.Time // when an outage of this node was logged last
	quiet bool      // this one has not been
}

// begins records that a node was not reached, and reports whether to log that. If there are too many
// outages, it says no.
func (o *outages) begins(node string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := time.Now()
	n := o.nodes[node]
	if n == nil {
		if !o.makeRoom(now) {
			return false
		}
		n = &outageOf{}
		o.nodes[node] = n
	}
	if !n.open {
		n.open, n.since, n.quiet = true, now, true
	}
	n.seen = now
	if !n.quiet || !n.told.IsZero() && now.Sub(n.told) < warnEvery {
		return false
	}
	n.quiet, n.told = false, now
	return true
}

// makeRoom reports whether another node can be remembered. It forgets those that work again or that
// nobody has asked for lately, if it must. The caller holds mu.
func (o *outages) makeRoom(now time.Time) bool {
	if o.nodes == nil {
		o.nodes = map[string]*outageOf{}
	}
	if len(o.nodes) < maxOutages {
		return true
	}
	for node, n := range o.nodes {
		if !n.open && now.Sub(n.told) >= warnEvery || now.Sub(n.seen) >= outageKept {
			delete(o.nodes, node)
		}
	}
	return len(o.nodes) < maxOutages
}

// forget forgets all outages.
func (o *outages) forget() {
	o.mu.Lock()
	defer o.mu.Unlock()
	clear(o.nodes)
}

// ends records that a node was reached. If that ends an outage that was logged, it returns how long
// it was.
func (o *outages) ends(node string) (took time.Duration, was bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := o.nodes[node]
	if n == nil || !n.open {
		return 0, false
	}
	n.open = false
	return time.Since(n.since), !n.quiet
}

// lasts reports whether a node could not be reached when it was last asked.
func (o *outages) lasts(node string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := o.nodes[node]
	return n != nil && n.open
}
