package tunnel

import (
	"fmt"
	"net"
	"net/http"
	"sync"

	"github.com/culvert-proxy/culvert/proxy/tunnel/exchange"
)

const (
	// maxGuardedRead is how many bytes a peer may send before a request on its TCP connection is decided about. Until then no more is read, so
	// that whatever crypto/tls and net/http keep of it (half a handshake, headers, bodies in windows of 4 MiB each) is bounded by it. It holds
	// a handshake with a client's certificates and the largest header (exchange.MaxHeader) twice over.
	maxGuardedRead = 64 << 10

	// maxGuardedWrite is how many bytes such a peer may have us say: a TLS handshake with a long chain, and the answers to some hundred
	// requests. It is less than the kernel keeps for a peer that does not read (50 KiB in small writes at an MSS of 88, measured on Linux
	// 6.18), so that no request waits with all that it holds for its answer to leave.
	maxGuardedWrite = 32 << 10

	// maxGuardedRequests is how many requests may be refused on a connection, answered or reset before that: each is a goroutine for a moment.
	maxGuardedRequests = 128
)

// A guard bounds what a peer can have us hold on a TCP connection on which no request has authenticated yet.
type guard struct {
	wire    *exchange.Wire
	list    *unauthenticatedTCP
	entry   *entry
	written int // guarded by wire

	mu       sync.Mutex
	change   sync.Cond
	room     int  // how much may be read while requests are looked at, or until there is one
	requests int  // that are being looked at
	refused  int  // that have been refused
	over     bool // one has authenticated, or the connection is closed
}

// guard counts w among the connections on which no request has authenticated.
func (u *unauthenticatedTCP) guard(w *exchange.Wire) {
	g := &guard{wire: w, list: u, room: maxGuardedRead}
	g.change.L = &g.mu
	w.SetGuard(g)
	g.entry = g.list.add(Peer{Addr: w.RemoteAddr().String()}, func(why error) {
		u.log.Debug("connection closed", "agent_addr", w.RemoteAddr(), "err", why)
		g.end()
		w.Conn.Close()
	})
}

// lift is told that a request has authenticated.
func (g *guard) lift() {
	g.wire.SetGuard(nil)
	g.Leave()
}

// Leave is told that the connection is closed.
func (g *guard) Leave() {
	g.list.remove(g.entry)
	g.end()
}

func (g *guard) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.over = true
	g.change.Broadcast()
}

// begin is told that a request is looked at, and done that it has been, and refused unless lift was called.
func (g *guard) begin() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.requests++; g.requests == 1 && g.refused > 0 {
		g.room = maxGuardedRead
	}
}

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

// MayRead says how many of n bytes may be read now. It waits when the peer has sent all that it may. Behind a refusal that is without limit, for
// of what was refused nothing is kept: an ingress that has put a stranger's request before those of agents is not made to wait with them.
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

// HasRead is told how many bytes were read.
func (g *guard) HasRead(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.room = max(0, g.room-n)
}

// MayWrite counts n bytes to be written, and closes the connection if they are too many. The wire calls it one at a time.
func (g *guard) MayWrite(n int) error {
	if g.written += n; g.written <= maxGuardedWrite {
		return nil
	}
	g.wire.Close()
	return fmt.Errorf("no request has authenticated, and %d bytes have been answered: %w", maxGuardedWrite, net.ErrClosed)
}

// guardOf is nil when a request on the connection has authenticated.
func guardOf(r *http.Request) *guard {
	if w := wireOf(r); w != nil {
		g, _ := w.Guard().(*guard)
		return g
	}
	return nil
}
