package proxy

import (
	"bytes"

	"github.com/culvert-proxy/culvert/protocol"
)

// firstRequest is what is known about a connection's first request before it is relayed. The zero
// value means that the request is on its way, so a drain waits for it.
type firstRequest struct {
	request     // zero until its header has been read
	sent    int // how many of its bytes were sent ahead, when the stream was opened
}

// maxRepeatable bounds, in bytes, a first request that is sent ahead. ApiVersions and SaslHandshake
// have about a hundred bytes; a Metadata request may list many topics, and what is sent ahead is
// held in memory until the gateway answers.
const maxRepeatable = 4 << 10

// expectFirst says that the first request is on its way.
func (r *requests) expectFirst() { r.first = &firstRequest{} }

// readFirst waits for the first request and reads its header. No broker is connected yet.
func (r *requests) readFirst() error {
	if err := r.await(); err != nil {
		return err
	}
	in, err := r.peek()
	if err != nil {
		return r.unreadable(err)
	}
	r.first = &firstRequest{request: in}
	return nil
}

// repeatable returns a copy of the first request, with a correlation id of ours, if the request may
// be sent twice: opening a stream may send it over more than one transport. It returns nil unless
// the request changes nothing, has arrived completely, and would be relayed unchanged.
func (r *requests) repeatable() []byte {
	first := r.first
	if first.token || !changesNothing(first.Key) || first.Size > int64(min(r.flow.Buffered(), maxRepeatable)) {
		return nil
	}
	if answer, err := r.policy.screen(first.Request); answer != nil || err != nil {
		return nil
	}
	first.sentID = r.newID(first.Request)
	protocol.SetRequestID(r.flow, first.sentID)
	defer protocol.SetRequestID(r.flow, first.CorrelationID) // forward sets sentID again, if it relays the request
	b, err := r.flow.Peek(int(first.Size), maxRepeatable)
	if err != nil {
		return nil
	}
	return bytes.Clone(b)
}

// changesNothing reports whether a broker may receive the request twice.
func changesNothing(k protocol.APIKey) bool {
	return k == protocol.APIVersions || k == protocol.SASLHandshake || k == protocol.Metadata
}

// sentAhead records how many bytes of what repeatable returned were sent ahead.
func (r *requests) sentAhead(n int) { r.first.sent = n }

// relaySent relays the first request, if it was sent ahead. It must be called before responses are
// read: the response to it may have arrived already.
func (r *requests) relaySent() error {
	if r.first == nil || r.first.sent == 0 {
		return nil
	}
	return r.relayNext()
}
