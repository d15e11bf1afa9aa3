package proxy

import (
	"bytes"

	"github.com/culvert-proxy/culvert/protocol"
)

// firstRequest is what is known of a connection's first request before its turn.
// The zero value says only that it is on its way, and that a drain lets it come.
type firstRequest struct {
	request     // zero until its header has been read
	sent    int // how many bytes of it the broker's side has already
}

// maxRepeatable bounds the first request that may be sent twice. Those that
// introduce a client are some hundred bytes; Metadata may name many topics.
const maxRepeatable = 4 << 10

// expectFirst says that the first request is on its way.
func (r *requests) expectFirst() { r.first = &firstRequest{} }

// readFirst waits for the first request and reads its header, before there is a
// broker for it.
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

// repeatable returns the first request, with a correlation id of ours, if it may
// be sent twice, and nil if not: it must change nothing, be here as a whole, and
// go to the broker as it is.
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
	defer protocol.SetRequestID(r.flow, first.CorrelationID) // which stays where nobody awaits the response
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

// sentAhead says how many bytes of what repeatable returned were sent ahead.
func (r *requests) sentAhead(n int) { r.first.sent = n }

// relaySent relays the first request, if it was sent ahead. It is called before
// responses are read, for the one to this may be here already.
func (r *requests) relaySent() error {
	if r.first == nil || r.first.sent == 0 {
		return nil
	}
	return r.relayNext()
}
