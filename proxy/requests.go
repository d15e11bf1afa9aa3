package proxy

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/culvert-proxy/culvert/protocol"
	"github.com/culvert-proxy/culvert/proxy/metrics"
)

// requests is the direction from the client to the broker. One goroutine calls
// its methods and uses its fields.
type requests struct {
	*connSettings
	near, far *source
	flow      *protocol.Flow // from near to far
	inflight  *inflight
	ending    *ending

	first      *firstRequest // before its turn, as far as something is known of it; else nil
	ids        correlationIDs
	begun      bool // a frame has been passed
	noResponse bool // a request has been passed that wants no response
}

// relay relays requests until the client ends (nil) or something breaks.
func (r *requests) relay() error {
	for {
		err := r.await()
		if err == io.EOF {
			return nil
		}
		if err == nil {
			err = r.relayNext()
		}
		if err != nil {
			return err
		}
	}
}

// await waits for the first byte of a request.
func (r *requests) await() error {
	if r.drained() && !protocol.FrameBuffered(r.flow) {
		return errDraining
	}
	return r.near.await(r.flow, r.drained)
}

// drained reports whether no more requests are to be read.
func (r *requests) drained() bool {
	onItsWay := r.first != nil && r.first.at.IsZero()
	return r.ending.drained(onItsWay)
}

// relayNext relays one request, or a raw SASL token.
func (r *requests) relayNext() (err error) {
	var next firstRequest
	if r.first != nil {
		next, r.first = *r.first, nil
	}
	if !r.inflight.followed() {
		return r.flow.PassAll()
	}
	in := next.request
	if in.at.IsZero() {
		if in, err = r.peek(); err != nil {
			return r.unreadable(err)
		}
	}
	if in.token {
		return r.relayToken()
	}
	r.begun = true
	if next.sent == 0 { // screen has let pass what was sent ahead
		if in.answer, err = r.policy.screen(in.Request); err != nil {
			return err
		}
	}
	if in.answer != nil {
		return r.answer(in)
	}
	r.count(in.Request)
	if in.NoResponse {
		r.noResponse = true
		return r.flow.PassThrough(in.Size)
	}
	return r.forward(in, next.sent)
}

// forward passes on a request that is answered, under a correlation id of ours,
// but for the bytes that were sent ahead.
func (r *requests) forward(in request, sent int) error {
	if in.sentID == 0 {
		in.sentID = r.newID(in.Request)
	}
	if r.inflight.full() { // what makes room may be the answers to requests that flow still holds
		if err := r.flow.Flush(); err != nil {
			return err
		}
	}
	place, err := r.inflight.push(in)
	if err != nil {
		return err
	}
	if place == awaited {
		protocol.SetRequestID(r.flow, in.sentID)
	}
	if sent > 0 {
		if err := r.flow.Replace(sent, nil); err != nil {
			return err
		}
	}
	return r.flow.PassThrough(in.Size - int64(sent))
}

// newID returns the correlation id with which the broker gets a request.
func (r *requests) newID(in protocol.Request) int32 {
	if r.without.correlationIDs {
		return in.CorrelationID
	}
	return r.ids.next()
}

func (r *requests) count(in protocol.Request) {
	m := r.report.metrics.API(in.Key)
	m.Requests.Inc()
	m.RequestBytes.Add(float64(in.Size))
}

// answer gives our own answer to a request that is not forwarded, in its turn.
func (r *requests) answer(in request) error {
	if err := r.flow.Flush(); err != nil {
		return err
	}
	if err := r.drop(in.Size); err != nil {
		return err
	}
	place, err := r.inflight.push(request{Request: in.Request, answer: in.answer})
	if err != nil || place != alone {
		return err
	}
	if _, err := r.near.Write(in.answer); err != nil {
		return fmt.Errorf("answer %s v%d: %w", in.Key, in.Version, err)
	}
	r.inflight.done()
	return nil
}

// drop takes a frame from the client and passes it to nobody.
func (r *requests) drop(size int64) error {
	r.flow.To(io.Discard)
	defer r.flow.To(r.far)
	if err := r.flow.PassThrough(size); err != nil {
		return err
	}
	return r.flow.Flush()
}

// peek reads the next request's header, or finds a raw SASL token.
func (r *requests) peek() (in request, err error) {
	defer r.near.unlimitReads()
	if in.token, err = r.isToken(); err == nil && !in.token {
		r.timeHead()
		in.Request, err = protocol.PeekRequest(r.flow)
	}
	in.at = time.Now()
	return in, err
}

// timeHead bounds the wait for the head of the next frame, where there is one.
func (r *requests) timeHead() {
	if protocol.FrameBuffered(r.flow) {
		r.near.unlimitReads()
		return
	}
	r.near.limitReads(time.Now().Add(r.headTimeout))
}

// isToken reports whether the next frame is a raw SASL token. In a login it
// waits for the broker's answer to what came before, as the broker does before
// it reads on: what the frame is may depend on that.
func (r *requests) isToken() (bool, error) {
	if r.without.reading != nil {
		return r.without.reading(r.flow), nil
	}
	if !r.begun {
		r.timeHead()
		return protocol.IsRawToken(r.flow)
	}
	login := r.inflight.inLogin()
	if !login.pending && !login.tokens.Expected() {
		return false, nil
	}
	if login.pending && login.tokens.InTurn() {
		if err := r.flow.Flush(); err != nil {
			return false, err
		}
		var err error
		if login, err = r.inflight.awaitLogin(r.headTimeout); err != nil {
			return false, err
		}
	}
	r.timeHead()
	isToken, err := login.tokens.Next(r.flow)
	if err == nil && !isToken {
		r.inflight.endLogin()
	}
	return isToken, err
}

// relayToken relays one raw SASL token.
func (r *requests) relayToken() error {
	size, err := protocol.PeekToken(r.flow)
	if err != nil {
		return r.unreadable(err)
	}
	if !r.begun { // without a handshake
		r.begun = true
		r.inflight.startLogin(protocol.GSSAPI)
	}
	if r.without.reading == nil {
		if _, err := r.inflight.push(request{token: true}); err != nil {
			return err
		}
	}
	return r.flow.PassThrough(size)
}

// unreadable decides about bytes that are no request.
func (r *requests) unreadable(err error) error {
	if isTimeout(err) {
		if r.drained() {
			return errDraining
		}
		err = refuse(metrics.RefusedHeaderTimeout, "read request from %s: its header did not arrive within %s", r.near.RemoteAddr(), r.headTimeout)
	}
	framing := errors.Is(err, protocol.ErrFrame) || errors.Is(err, protocol.ErrHeld)
	switch {
	case r.policy.lenient() && (framing || err == io.ErrUnexpectedEOF || !r.inflight.followed()):
		if r.inflight.stopFollowing() {
			r.report.notFollowed(err)
		}
		return r.flow.PassAll()
	case errors.Is(err, protocol.ErrForeign):
		return refuse(metrics.RefusedNotKafka, "read request from %s: %w", r.near.RemoteAddr(), err)
	case framing:
		return refuse(metrics.RefusedFrameSize, "read request from %s: %w", r.near.RemoteAddr(), err)
	}
	return err
}

// end ends the connection as far as that is due when err has ended relay.
func (r *requests) end(err error) {
	defer r.release()
	var write *protocol.WriteError
	switch {
	case err == nil:
		r.ending.clientFinished()
	case endedByUs(err):
		r.awaitResponses(err)
		r.ending.finishClient(err)
		if r.noResponse && errors.Is(err, errDraining) {
			r.relayLate()
		}
		r.ending.leaveBroker(err)
	case errors.As(err, &write):
		r.ending.brokerUnwritable(write.Err)
	default:
		r.ending.clientLost(err)
	}
}

// awaitResponses waits for the responses to what came before we ended the
// connection: they are still the client's. A drain has a time of its own.
func (r *requests) awaitResponses(end error) {
	if r.flow.Flush() != nil {
		return
	}
	atMost := r.headTimeout
	if errors.Is(end, errDraining) {
		atMost = 1<<63 - 1
	}
	r.inflight.drain(atMost)
}

// relayLate relays what a client sends that has not seen yet that its
// connection ends, as far as nobody waits for an answer: a client that produces
// with acks=0 believes that such a request has arrived. Any other request is
// sent anew by the client, and must not be relayed twice.
func (r *requests) relayLate() {
	r.near.limitReads(time.Now().Add(lingerTimeout))
	for {
		in, err := protocol.PeekRequest(r.flow)
		if err != nil || !in.NoResponse {
			break
		}
		if answer, err := r.policy.screen(in); err != nil || answer != nil {
			break
		}
		r.count(in)
		if r.flow.PassThrough(in.Size) != nil {
			return
		}
	}
	r.flow.Flush()
}

// release gives back the memory of a direction that is over.
func (r *requests) release() { r.flow.Release() }
