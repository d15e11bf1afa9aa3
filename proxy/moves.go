package proxy

import (
	"time"

	"github.com/culvert-proxy/culvert/proxy/internal/backoff"
)

// While two brokers disagree about a node's address, as they may while brokers restart, each
// response moves the node back. These bound how often that resets connections: the first move does
// so at once, further ones after 5 s, 10 s and so on, until the node has stayed for a while.
const (
	moveWait     = 5 * time.Second
	mostMoveWait = 10 * time.Minute
	movesForgot  = 2 * mostMoveWait
)

// move is that a node has another address than before.
type move struct {
	nodeID          int32
	former, address string
}

// moves is what is known about the moves of one node. The zero value is a node that never moved.
type moves struct {
	former  string // the address before the last move
	pending bool   // connections to a former address may be open
	resets  int    // in a row
	resetAt time.Time
}

// note records that the node had the address former until now.
func (m *moves) note(former string) { m.former, m.pending = former, true }

// due reports whether to reset the connections to former addresses now, and if so, records that
// this is done.
func (m *moves) due(now time.Time) bool {
	if !m.pending {
		return false
	}
	since := now.Sub(m.resetAt)
	if since >= movesForgot {
		m.resets = 0
	}
	if m.resets > 0 && since < backoff.Delay(m.resets-1, moveWait, mostMoveWait) {
		return false // a later response asks again
	}
	m.pending, m.resetAt = false, now
	m.resets++
	return true
}
