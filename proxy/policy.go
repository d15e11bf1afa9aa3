package proxy

import (
	"time"

	"github.com/culvert-proxy/culvert/protocol"
	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/rewrite"
)

// defaultHeadTimeout bounds how long a request's header may take to arrive after its first byte.
// The request is held in memory meanwhile. It is generous: a header has at most a few hundred
// bytes, but a mobile network may stall for seconds.
const defaultHeadTimeout = 30 * time.Second

// policy is the difference between an agent's connections, [agentConn], and a gateway's,
// [ticketer]. The goroutine that relays requests calls screen, the one that relays responses calls
// touches, relay and timed, and both call lenient.
type policy interface {
	// screen decides about a request before any byte of it is relayed. It returns an answer to give
	// in the broker's place, a [refusal] as error, or nil and nil to relay the request.
	screen(protocol.Request) (answer []byte, err error)
	// touches reports whether responses of an API and version are given to relay. All others are
	// relayed unchanged.
	touches(k protocol.APIKey, version int16) bool
	// relay relays the response to r: the next size bytes of f.
	relay(f *protocol.Flow, r protocol.Request, size int64) (rewrite.Result, error)
	// timed is told how long the response to a request took, before any byte of it is relayed.
	timed(k protocol.APIKey, took time.Duration)
	// lenient reports whether bytes that cannot be decoded are relayed unchanged, instead of
	// refused.
	lenient() bool
}

// connSettings are the settings of one connection. They do not change.
type connSettings struct {
	policy       policy
	report       reporter
	settingNames hints.Names   // names of settings, in errors
	headTimeout  time.Duration // bounds the wait for a request's header
	without      without
}

// without switches off defences, in tests that show that the others suffice.
type without struct {
	correlationIDs bool                      // requests keep the client's correlation ids
	reading        func(*protocol.Flow) bool // decides which frames are raw tokens, which are not counted then
}
