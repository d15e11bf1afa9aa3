package tunnel

import (
	"fmt"
	"net"
	"net/http"
	"sync"

	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/exchange"
)

const (
	// maxGuardedRead is how many bytes a peer may send before a request on its TCP connection is
	// accepted or refused. Nothing more is read until then, which bounds everything that crypto/tls
	// and net/http hold for the peer: half a handshake, headers, and bodies in windows of 4 MiB
	// each. It has room for a handshake with client certificates and twice for the largest header
	// (exchange.MaxHeader).
	maxGuardedRead = 64 << 10

	// maxGuardedWrite is how many bytes such a peer can make us send: a TLS handshake with a long
	// chain and the answers to about a hundred requests. It is less than the kernel buffers for a
	// peer that does not read (50 KiB in small writes at an MSS of 88, measured on Linux 6.18). So
	// no request blocks in a write, with all the memory it holds, before it has authenticated.
	maxGuardedWrite = 32 << 10

	// maxGuardedRequests is how many requests of such a connection may be refused, or reset before
	// their answer. Each costs a goroutine for a moment, and an attacker could otherwise send them
	// in an endless loop.
	maxGuardedRequests = 128
)

// A guard bounds what a peer can make us hold on a TCP connection before a request on it has
// authenticated.
type guard struct {
	wire    *exchange.Wire
	list    *unauthenticatedTCP
	entry   *entry
	written int // bytes; the wire serializes access

	mu       sync.Mutex
	change   sync.Cond
	room     int  // bytes that may still be read while requests are decided, or before the first one
	requests int  // being decided
	refused  int  // refused so far
	over     bool // a request has authenticated, or the connection is closed
}

// guard counts w as an unauthenticated connection and sets its guard.
func (u *unauthenticatedTCP) guard(w *exchange.Wire) {
	g := &guard{wire: w, list: u, room: maxGuardedRead}
	g.change.L = &g.mu
	w.SetGuard(g)
	g.entry = g.list.add(Peer{Addr: w.RemoteAddr().String()}, func(why error) {
		u.log.Debug("unauthenticated connection closed", "agent_addr", w.RemoteAddr(), "err", why)
		g.end()
		w.Conn.Close()
	})
}

// lift removes the guard, when a request has authenticated.
func (g *guard) lift() {
	g.wire.SetGuard(nil)
	g.Leave()
}

// Leave is called when the connection closes.
func (g *guard) Leave() {
	g.list.remove(g.entry)
	g.end()
}

// end wakes a MayRead that waits, and lets all later ones pass.
func (g *guard) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.over = true
	g.change.Broadcast()
}

// begin is called before a request is decided and done after it. done counts the request as
// refused; after lift that no longer matters.
func (g *guard) begin() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.requests++; g.requests == 1 && g.refused > 0 {
		g.room = maxGuardedRead
	}
}

// done is the other half of begin. It closes the connection after too many refusals.
func (g *guard) done() {
	g.mu.Lock()
	g.requests--
	g.refused++
	tooMany := g.refused > maxGuardedRequests && !g.over
	g.change.Broadcast()
	g.mu.Unlock()
	if tooMany {
		g.wire.Close()
	}
}

// MayRead returns how many of n bytes may be read now. It blocks when the peer has used up its
// allowance. Once all requests have been refused there is no limit, because nothing of a refused
// request is kept: an ingress that multiplexes a request of an attacker with those of agents must
// not make the agents wait.
func (g *guard) MayRead(n int) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	for {
		switch {
		case g.over, g.refused > 0 && g.requests == 0:
			return n
		case g.room > 0:
			return min(n, g.room)
		}
		g.change.Wait()
	}
}

// HasRead takes n bytes off the allowance.
func (g *guard) HasRead(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.room = max(0, g.room-n)
}

// MayWrite counts n bytes to be written, and closes the connection when there are too many. The
// wire calls it one call at a time.
func (g *guard) MayWrite(n int) error {
	if g.written += n; g.written <= maxGuardedWrite {
		return nil
	}
	g.wire.Close()
	return fmt.Errorf("no request has authenticated after %d bytes of responses: %w", maxGuardedWrite, net.ErrClosed)
}

// guardOf returns the guard of the request's connection, or nil if a request on it has
// authenticated.
func guardOf(r *http.Request) *guard {
	if w := wireOf(r); w != nil {
		g, _ := w.Guard().(*guard)
		return g
	}
	return nil
}
