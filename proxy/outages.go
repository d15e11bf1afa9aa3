package proxy

import (
	"sync"
	"time"
)

// maxOutages bounds the outages that are remembered. An agent may name more addresses than it has
// nodes.
const maxOutages = 1024

// outages remembers which nodes could not be reached, so that the beginning and the end of an outage
// are logged once each, and not each try of each client. The zero value is ready. It may be used
// concurrently.
type outages struct {
	mu    sync.Mutex
	since map[string]time.Time
}

// begins records that a node was not reached, and reports whether that is news. If there are too
// many outages, it is none.
func (o *outages) begins(node string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, have := o.since[node]; have || len(o.since) >= maxOutages {
		return false
	}
	if o.since == nil {
		o.since = map[string]time.Time{}
	}
	o.since[node] = time.Now()
	return true
}

// forget forgets all outages.
func (o *outages) forget() {
	o.mu.Lock()
	defer o.mu.Unlock()
	clear(o.since)
}

// ends records that a node was reached. If that ends an outage, it returns how long it was.
func (o *outages) ends(node string) (took time.Duration, was bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	began, was := o.since[node]
	delete(o.since, node)
	return time.Since(began), was
}
