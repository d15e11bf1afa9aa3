package proxy

import (
	"errors"
	"io"
	"sync/atomic"
	"time"

	"github.com/culvert-proxy/culvert/protocol"
	"github.com/culvert-proxy/culvert/proxy/metrics"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// requests is the direction from the client to the broker. Its methods are called, and its fields
// used, by one goroutine: the one that calls [conn.run]. It reads near and writes far.
type requests struct {
	*connSettings
	near, far *source
	flow      *protocol.Flow // from near to far
	inflight  *inflight
	ending    *ending

	first      *firstRequest // the first request, until it is relayed; nil if nothing is known about it
	ids        correlationIDs
	frames     atomic.Uint32 // how many frames have begun; read by others
	begun      bool          // a frame has been relayed
	noResponse bool          // a request has been relayed that gets no response
}

// relay relays requests. It returns nil when the client has ended its side in good order.
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

// await waits for the first byte of a request. It returns errDraining if no more requests are to be
// read.
func (r *requests) await() error {
	if r.drained() && !protocol.FrameBuffered(r.flow) {
		return errDraining
	}
	err := r.near.await(r.flow, r.drained)
	if err == errWoken {
		return errDraining
	}
	return err
}

// drained reports whether to stop reading requests.
func (r *requests) drained() bool {
	onItsWay := r.first != nil && r.first.at.IsZero()
	return r.ending.drained(onItsWay)
}

// relayNext relays one request, or a raw SASL token.
func (r *requests) relayNext() (err error) {
	r.frames.Add(1)
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
	if next.sent == 0 { // repeatable has screened what was sent ahead
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

// forward relays a request that gets a response, with a correlation id of ours. The first sent
// bytes of it have been sent ahead and are dropped.
func (r *requests) forward(in request, sent int) error {
	if in.sentID == 0 {
		in.sentID = r.newID(in.Request)
	}
	if r.inflight.full() { // the flow may hold the requests whose responses make room
		if err := r.flow.Flush(); err != nil {
			return err
		}
	}
	awaited, err := r.inflight.push(in)
	if err != nil {
		return err
	}
	if awaited {
		protocol.SetRequestID(r.flow, in.sentID)
	}
	if sent > 0 {
		if err := r.flow.Replace(sent, nil); err != nil {
			return err
		}
	}
	return r.flow.PassThrough(in.Size - int64(sent))
}

// newID returns the correlation id to send to the broker.
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

// answer drops a request. The responses' side answers it in the broker's place, when its turn comes.
func (r *requests) answer(in request) error {
	if err := r.flow.Flush(); err != nil {
		return err
	}
	if err := r.drop(in.Size); err != nil {
		return err
	}
	if _, err := r.inflight.push(request{Request: in.Request, answer: in.answer}); err != nil {
		return err
	}
	r.ending.wakeResponses()
	return nil
}

// drop reads a frame from the client and discards it.
func (r *requests) drop(size int64) error {
	r.flow.To(io.Discard)
	defer r.flow.To(r.far)
	if err := r.flow.PassThrough(size); err != nil {
		return err
	}
	return r.flow.Flush()
}

// peek reads the header of the next request, or finds that the frame is a raw SASL token. Nothing
// is relayed yet.
func (r *requests) peek() (in request, err error) {
	defer r.near.unlimitReads()
	if in.token, err = r.isToken(); err == nil && !in.token {
		r.timeHead()
		in.Request, err = protocol.PeekRequest(r.flow)
	}
	in.at = time.Now()
	return in, err
}

// timeHead bounds the wait for the header of the next frame, unless it has arrived.
func (r *requests) timeHead() {
	if protocol.FrameBuffered(r.flow) {
		r.near.unlimitReads()
		return
	}
	r.near.limitReads(time.Now().Add(r.headTimeout))
}

// isToken reports whether the next frame is a raw SASL token. During a login that may depend on the
// broker's answer to the frame before, so isToken waits for it. The broker does not read the next
// frame earlier either.
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

// relayToken relays one raw SASL token to the broker.
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

// unreadable decides what happens after peek has failed with err. It returns the error that ends
// the connection, or relays all bytes from here on if the policy is lenient.
func (r *requests) unreadable(err error) error {
	if tunnel.IsTimeout(err) {
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

// end ends the connection, as far as this side can, after relay has returned err.
func (r *requests) end(err error) {
	defer r.release()
	var write *protocol.WriteError
	switch {
	case err == nil:
		r.ending.note(metrics.CloseClientFIN, nil)
		r.report.clientLeft(r.ending.why()) // now, because a broker that does not answer may keep the connection for long
		r.ending.clientFinished()
	case endedByUs(err):
		r.stop(err)
	case errors.As(err, &write):
		r.ending.brokerUnwritable(write.Err)
	case errors.Is(err, errUnanswered):
		r.ending.brokerSilent(err)
	default:
		r.ending.clientLost(err)
	}
}

// stop ends the connection after a drain or a refusal: the client is still there. The responses to
// earlier requests are awaited, after a refusal for headTimeout at most, and during a drain for
// answerTimeout: nobody would notice that the client has left.
func (r *requests) stop(why error) {
	draining := errors.Is(why, errDraining)
	atMost := r.headTimeout
	if draining {
		atMost = answerTimeout
	}
	r.flow.Flush() // an error ends the responses' side too
	r.ending.lastRequest(why, atMost)
	if r.noResponse && draining {
		r.relayLate()
	}
	r.ending.abandonBroker(why.Error())
	r.ending.near.deliver(r.ending.wasCut.Load)
}

// relayLate relays requests without a response that a client sends before it notices that its
// connection ends. A client that produces with acks=0 believes that they have arrived. All other
// requests are dropped: the client sends them again on another connection, and the broker must not
// get them twice.
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

// release frees the buffer of this direction. It may be called more than once.
func (r *requests) release() { r.flow.Release() }
