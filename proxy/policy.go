package proxy

import (
	"time"

	"github.com/culvert-proxy/culvert/protocol"
	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/rewrite"
)

// defaultHeadTimeout bounds how long a request's header may be on its way once
// its first byte has come, for it is held back meanwhile.
const defaultHeadTimeout = 30 * time.Second

// policy is in what an agent's connections and a gateway's differ. screen is
// called by the goroutine that relays requests, touches and relay by the one that
// relays responses, lenient by both.
type policy interface {
	// screen looks at a request before a byte of it has been passed. It refuses
	// the request by a [refusal], or answers it in the broker's place; nil and
	// nil let it pass.
	screen(protocol.Request) (answer []byte, err error)
	// touches reports whether the responses of an API in a version are given to
	// relay. All others pass as they come.
	touches(k protocol.APIKey, version int16) bool
	// relay relays the response to r, of size bytes, that begins f.
	relay(f *protocol.Flow, r protocol.Request, size int64) (rewrite.Result, error)
	// lenient reports whether what cannot be followed is relayed untouched,
	// instead of refused.
	lenient() bool
}

// connSettings is what a connection is made with.
type connSettings struct {
	policy      policy
	report      reporter
	wording     hints.Names   // names of settings, in errors
	headTimeout time.Duration // bounds the wait for a request's header
	without     without
}

// without names defences that a test takes away, to see that the others hold.
type without struct {
	correlationIDs bool                      // the broker is given the client's own
	reading        func(*protocol.Flow) bool // it says which frames are raw tokens, and they are not counted
}
