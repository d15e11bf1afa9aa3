package tunnel

import (
	"container/list"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"
)

// maxUnauthenticated is how many connections may be open at once on which no request has authenticated yet. Each may cost 256 KiB (a test holds
// that), so all of them 256 MiB. An agent's connection is one of them for some round trips only.
const maxUnauthenticated = 1024

// unauthenticatedTCP are the connections of a [Server] on which no request has authenticated yet. Each is closed when it has been one of them for
// too long, and the oldest of the place with most of them when there are too many: agents authenticate at once, so that is the least likely to be
// an agent's. Behind an ingress all come from one place.
// The zero value is not ready: set within, onFull and log.
type unauthenticatedTCP struct {
	within time.Duration // how long a connection may take
	most   int           // 0 means maxUnauthenticated
	onFull func(evicted Peer, why *Error)
	log    *slog.Logger

	mu      sync.Mutex
	list    list.List // of *entry, the oldest first
	sources sources
}

// An entry is one such connection.
type entry struct {
	peer  Peer
	close func(why error) // ends the connection; called once at most, and on a goroutine that may not wait
	from  netip.Prefix
	place *list.Element // guarded by unauthenticatedTCP.mu; nil when the entry is not in the list any more
	timer *time.Timer
}

// add counts a connection, until remove is called. close ends it; it must not wait for the peer.
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
		why := &Error{Code: CodeLimit, Message: fmt.Sprintf("more than %d connections are open on which no request has authenticated: the oldest is closed", u.limit())}
		oldest.close(why)
		u.onFull(oldest.peer, why)
	}
	return e
}

// oldest is that of the place with most of them. The caller holds mu, and there is one.
func (u *unauthenticatedTCP) oldest() *entry {
	most := u.sources.most()
	for at := u.list.Front(); ; at = at.Next() {
		if e := at.Value.(*entry); u.sources[e.from] == most {
			return e
		}
	}
}

func (u *unauthenticatedTCP) limit() int {
	if u.most > 0 {
		return u.most
	}
	return maxUnauthenticated
}

// remove is told that a request has authenticated, or that the connection is closed. It may be called more than once.
func (u *unauthenticatedTCP) remove(e *entry) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.drop(e)
}

// drop takes e out of the list, and reports whether it was there. The caller holds mu.
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

func (u *unauthenticatedTCP) expire(e *entry) {
	u.mu.Lock()
	late := u.drop(e)
	u.mu.Unlock()
	if late {
		e.close(fmt.Errorf("no request has authenticated within %v", u.within))
	}
}

// len is how many connections there are.
func (u *unauthenticatedTCP) len() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.list.Len()
}
