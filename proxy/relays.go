package proxy

import (
	"errors"
	"maps"
	"sync"
	"time"

	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

const (
	// revokeEvery is how often a gateway checks whether the credentials behind its
	// streams are still accepted. That reads their files too, so that a missing file
	// is noticed in time, even if no agent comes.
	revokeEvery = 2 * time.Second
	// revokeLooks is how often in a row a credential must be missing before open
	// streams end: a file that is written in place is incomplete for a moment.
	revokeLooks = 2
)

var errRevoked = errors.New("the token or certificate behind this connection is not accepted any more")

// admission says with which credentials a connection was let in, and whether they
// are still accepted.
type admission struct {
	peer tunnel.Peer

	// Owned by revoke.
	missed  int       // looks in a row that did not find it
	revoked time.Time // when the connection was told to end; zero for not
}

// relays are the Kafka connections that a gateway relays. The zero value is ready.
type relays struct {
	mu       sync.Mutex
	draining time.Time // since when; zero for not
	conns    map[*conn]*admission
}

func (r *relays) add(c *conn, peer tunnel.Peer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conns == nil {
		r.conns = map[*conn]*admission{}
	}
	r.conns[c] = &admission{peer: peer}
	if !r.draining.IsZero() {
		c.drain()
	}
}

func (r *relays) remove(c *conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, c)
}

// drain ends all connections between two requests, and those to come.
func (r *relays) drain() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.draining = time.Now()
	for c := range r.conns {
		c.drain()
	}
}

// drainingSince is when drain was called, or zero.
func (r *relays) drainingSince() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.draining
}

// revoke ends connections whose credentials judge does not accept any more: between
// two requests or, after patience, at once, in a goroutine of cuts. It returns how
// many it has told to end, by identity. It is not called concurrently.
func (r *relays) revoke(judge func(grant any) error, patience time.Duration, cuts *sync.WaitGroup) (ended map[string]int) {
	r.mu.Lock()
	conns := maps.Clone(r.conns)
	r.mu.Unlock()
	ended = map[string]int{}
	for c, a := range conns {
		switch {
		case !a.revoked.IsZero():
			if time.Since(a.revoked) >= patience {
				cuts.Go(func() { c.cut(errRevoked) })
			}
		case judge(a.peer.Grant) == nil:
			a.missed = 0
		default:
			if a.missed++; a.missed == revokeLooks {
				a.revoked = time.Now()
				c.drain()
				ended[a.peer.Identity]++
			}
		}
	}
	return ended
}
