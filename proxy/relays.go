package proxy

import (
	"errors"
	"maps"
	"sync"
	"time"

	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

const (
	// revokeEvery is how often a gateway checks whether the credentials of its streams are still
	// accepted. The check also reads their files, so that a missing file is noticed even if no
	// agent connects. It costs a stat for each file.
	revokeEvery = 2 * time.Second
	// revokeChecks is how many checks in a row must fail before open streams end. A file that is
	// written in place is incomplete for a moment.
	revokeChecks = 2
)

var errRevoked = errors.New("the token or certificate of this connection is no longer accepted")

// admission holds the credentials with which a connection was accepted, and the results of checking
// them again.
type admission struct {
	peer tunnel.Peer

	missed  int       // owned by revoke: checks in a row that failed
	revoked time.Time // when the connection was told to end; zero if it was not. Set by revoke, under relays.mu
}

// relayedConn is a connection that a gateway relays: a [conn], or one of a forward. Both methods may be
// called from any goroutine.
type relayedConn interface {
	drain()
	cut(why error)
}

// relays are the open connections of a gateway, in order to drain and revoke them. Whoever adds one
// removes it. The zero value is ready.
type relays struct {
	mu       sync.Mutex
	draining time.Time // when drain was called; zero if it was not
	cut      int       // connections that were cut at the end of the drain
	conns    map[relayedConn]*admission
}

func (r *relays) add(c relayedConn, peer tunnel.Peer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conns == nil {
		r.conns = map[relayedConn]*admission{}
	}
	r.conns[c] = &admission{peer: peer}
	if !r.draining.IsZero() {
		c.drain()
	}
}

// remove removes a connection that has ended, or that was cut because the process ends.
func (r *relays) remove(c relayedConn, cut bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, c)
	if cut {
		r.cut++
	}
}

// count returns how many connections there are.
func (r *relays) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.conns)
}

// cutByEnd returns how many connections were cut at the end of the drain.
func (r *relays) cutByEnd() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cut
}

// drain drains all connections, whose number it returns, and those that are added later. It does
// not block.
func (r *relays) drain() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.draining = time.Now()
	for c := range r.conns {
		c.drain()
	}
	return len(r.conns)
}

// drainingSince returns when drain was called, or the zero time.
func (r *relays) drainingSince() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.draining
}

// revoke drains connections whose credentials judge has refused revokeChecks times in a row. Those
// that have not ended after patience are cut, in goroutines of cuts. It returns how many
// connections it has started to drain, by identity. It must not be called concurrently.
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
			if a.missed++; a.missed == revokeChecks {
				r.setRevoked(a)
				c.drain()
				ended[a.peer.Identity]++
			}
		}
	}
	return ended
}

// setRevoked notes that the connection of a is told to end.
func (r *relays) setRevoked(a *admission) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a.revoked = time.Now()
}

// isRevoked reports whether revoke has told a connection to end, which was not removed yet.
func (r *relays) isRevoked(c relayedConn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.conns[c]
	return a != nil && !a.revoked.IsZero()
}
