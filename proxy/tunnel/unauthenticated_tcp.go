package tunnel

import (
	"container/list"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"
)

// maxUnauthenticated is how many TCP connections may be open on which no request has authenticated.
// Each may cost 256 KiB, which a test checks, so all of them 256 MiB. An agent's connection is one
// of them only for some round trips.
const maxUnauthenticated = 1024

// unauthenticatedTCP holds the TCP connections of a [Server] on which no request has authenticated.
// Each is closed after a while. If there are too many, the oldest one of the most frequent source
// is closed: agents authenticate at once, so it is the least likely to be an agent's. Behind an
// ingress all connections have one source.
//
// The zero value is not ready to use: set within, onFull and log.
type unauthenticatedTCP struct {
	within time.Duration // how long a connection may take to authenticate
	most   int           // 0 means maxUnauthenticated
	onFull func(evicted Peer, why *Error)
	log    *slog.Logger

	mu      sync.Mutex
	list    list.List // of *entry, oldest first
	sources sources
}

// An entry is one unauthenticated connection.
type entry struct {
	peer  Peer
	close func(why error) // closes the connection; called at most once, and must not block
	from  netip.Prefix
	place *list.Element // guarded by unauthenticatedTCP.mu; nil once removed
	timer *time.Timer
}

// add counts a connection until remove is called. close must not block.
func (u *unauthenticatedTCP) add(peer Peer, close func(why error)) *entry {
	e := &entry{peer: peer, close: close, from: sourceOf(peer.Addr)}
	u.mu.Lock()
	if u.sources == nil {
		u.sources = make(sources)
	}
	u.sources[e.from]++
	e.place = u.list.PushBack(e)
	e.timer = time.AfterFunc(u.within, func() { u.expire(e) })
	var oldest *entry
	if u.list.Len() > u.limit() {
		oldest = u.oldest()
		u.drop(oldest)
	}
	u.mu.Unlock()
	if oldest != nil {
		why := &Error{Code: CodeLimit, Message: fmt.Sprintf("the gateway's limit of %d unauthenticated connections is reached, and this was the oldest", u.limit())}
		oldest.close(why)
		u.onFull(oldest.peer, why)
	}
	return e
}

// oldest returns the oldest connection of the most frequent source. The caller holds mu, and there
// is one.
func (u *unauthenticatedTCP) oldest() *entry {
	most := u.sources.most()
	for at := u.list.Front(); ; at = at.Next() {
		if e := at.Value.(*entry); u.sources[e.from] == most {
			return e
		}
	}
}

// limit returns how many connections there may be.
func (u *unauthenticatedTCP) limit() int {
	if u.most > 0 {
		return u.most
	}
	return maxUnauthenticated
}

// move counts a connection by the address of the client that a PROXY header names.
func (u *unauthenticatedTCP) move(e *entry, peer Peer) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if e.place == nil {
		return
	}
	u.sources.leave(e.from)
	e.peer, e.from = peer, sourceOf(peer.Addr)
	u.sources[e.from]++
}

// remove is called when a request has authenticated and when the connection closes. It may be
// called more than once.
func (u *unauthenticatedTCP) remove(e *entry) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.drop(e)
}

// drop takes e off the list and reports whether it was on it. The caller holds mu.
func (u *unauthenticatedTCP) drop(e *entry) bool {
	if e.place == nil {
		return false
	}
	u.list.Remove(e.place)
	e.place = nil
	u.sources.leave(e.from)
	e.timer.Stop()
	return true
}

// expire closes a connection whose time is over.
func (u *unauthenticatedTCP) expire(e *entry) {
	u.mu.Lock()
	late := u.drop(e)
	u.mu.Unlock()
	if late {
		e.close(fmt.Errorf("no request has authenticated within %v", u.within))
	}
}

// len returns the number of connections.
func (u *unauthenticatedTCP) len() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.list.Len()
}
