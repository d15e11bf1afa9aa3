package proxy

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/culvert-proxy/culvert/protocol"
	"github.com/culvert-proxy/culvert/proxy/metrics"
	"github.com/culvert-proxy/culvert/rewrite"
)

var (
	errMismatch = errors.New("responses do not match requests")
	errLogin    = errors.New("cannot follow the raw SASL tokens of this login")
	errAnswered = errors.New("the last request has been answered")
)

// responses is the direction from the broker to the client. Its methods are called, and its fields
// used, by one goroutine, which [conn.run] starts with run and waits for. It reads far, and it alone
// writes near.
type responses struct {
	*connSettings
	far, near *source
	flow      *protocol.Flow // from far to near; run makes it
	inflight  *inflight
	ending    *ending
}

// run relays responses until the broker's side ends, or until the last request has been answered.
// Then it ends the client's side.
func (r *responses) run() {
	defer close(r.ending.responsesEnded)
	r.flow = protocol.NewFlow(r.far, r.near)
	err := r.relay()
	r.flow.Release()
	r.end(err)
}

// end ends the client's side after relay has returned err. What the broker still sends is dropped:
// a broker that cannot write its responses does not read the requests that were received before.
func (r *responses) end(err error) {
	more := r.endClient(err)
	close(r.ending.relayed)
	if more {
		io.Copy(io.Discard, r.far)
	}
}

// endClient ends the client's side, and reports whether the broker may send more.
func (r *responses) endClient(err error) (more bool) {
	var write *protocol.WriteError
	switch {
	case err == nil:
		r.ending.brokerFinished()
		return false
	case err == errAnswered:
		r.ending.allAnswered()
		return true
	case errors.As(err, &write): // the client has disconnected
		r.inflight.stopAnswers()
		return true
	}
	r.ending.brokerLost(err)
	return false
}

// relay relays responses. It returns nil when the broker has ended its side in good order, and
// errAnswered when no request is in flight and none will follow.
func (r *responses) relay() error {
	for {
		if err := r.answer(); err != nil {
			return err
		}
		if r.inflight.answered() {
			return cmp.Or(r.flow.Flush(), errAnswered)
		}
		err := r.far.await(r.flow, r.inflight.needsUs)
		if err == io.EOF {
			return nil
		}
		if err == nil {
			err = r.relayNext()
		}
		if err != nil && err != errWoken {
			return err
		}
	}
}

// answer writes our own answers to the oldest requests in flight.
func (r *responses) answer() error {
	for {
		to, ok := r.inflight.oldest()
		if !ok || to.answer == nil {
			return nil
		}
		if err := r.flow.Replace(0, to.answer); err != nil {
			return err
		}
		r.inflight.done()
	}
}

// relayNext relays one response, or a raw SASL token.
func (r *responses) relayNext() error {
	if !r.inflight.followed() {
		return r.restore()
	}
	to, ok := r.inflight.oldest()
	if to.token || !ok && r.without.reading != nil {
		return r.relayToken()
	}
	size, id, err := protocol.PeekResponse(r.flow)
	switch {
	case err != nil:
		return r.unexpected(err)
	case !ok || to.answer != nil:
		return r.unexpected(fmt.Errorf("%w: a response with correlation id %d, which matches no request", errMismatch, id))
	case id != to.sentID:
		return r.unexpected(fmt.Errorf("%w: want the response to %s v%d with correlation id %d, the oldest in flight", errMismatch, to.Key, to.Version, to.CorrelationID))
	}
	if err := r.followLogin(to.Request, size); err != nil {
		return r.unexpected(err)
	}
	protocol.SetResponseID(r.flow, to.CorrelationID)
	return r.relayTo(to, size)
}

// relayTo relays the response to a request, of size bytes, and counts it.
func (r *responses) relayTo(to request, size int64) error {
	start := time.Now()
	took := start.Sub(to.at)
	m := r.report.metrics.API(to.Key)
	m.Duration.Observe(took.Seconds())
	r.policy.timed(to.Key, took)
	m.ResponseBytes.Add(float64(size))
	if to.queued {
		m.Queued.Inc()
	}
	outcome, err := protocol.PeekOutcome(r.flow, to.Key, to.Version, size)
	if err != nil {
		return err
	}
	behind, err := r.relayBody(to.Request, size)
	m.Outcome(outcome.And(behind))
	if err != nil {
		return err
	}
	if err := r.flushLast(); err != nil {
		return err
	}
	m.Transfer.Observe(time.Since(start).Seconds())
	r.inflight.done()
	return nil
}

// relayBody relays a response through the policy, or unchanged, and returns what it has read in it.
func (r *responses) relayBody(to protocol.Request, size int64) (protocol.Outcome, error) {
	if !r.policy.touches(to.Key, to.Version) {
		return rewrite.Pass(r.flow, to.Key, to.Version, size)
	}
	result, err := r.policy.relay(r.flow, to, size)
	if result.Rewritten > 0 {
		r.report.metrics.API(to.Key).Rewritten.Add(float64(result.Rewritten))
	}
	if result.Blanked > 0 {
		r.report.metrics.API(to.Key).Blanked.Add(float64(result.Blanked))
	}
	if errors.Is(err, rewrite.ErrUndecodable) {
		err = &refusal{metrics.RefusedUndecodable, err}
	}
	return result.Outcome, err
}

// flushLast writes out a response if no other follows it in the buffer. Otherwise both are written
// together, with one system call.
func (r *responses) flushLast() error {
	if r.flow.Buffered() > 0 {
		return nil
	}
	return r.flow.Flush()
}

// followLogin records the broker's answer to a SaslHandshake v0: if the broker accepts the
// mechanism, raw tokens follow. It does so before the client can read the answer, so that the
// requests' side knows what the next frame is.
func (r *responses) followLogin(to protocol.Request, size int64) error {
	if !handshakesV0(to) {
		return nil
	}
	const errorCode = 8 // offset: after length and correlation id, 4 bytes each
	if size < errorCode+2 {
		return fmt.Errorf("%w: a SaslHandshake response of %d bytes is too short", errLogin, size)
	}
	b, err := r.flow.Peek(errorCode+2, errorCode+2)
	if err != nil {
		return err
	}
	accepted := b[errorCode] == 0 && b[errorCode+1] == 0
	if r.inflight.handshakeAnswered(to.Mechanism, accepted) != nil {
		return fmt.Errorf("%w: the mechanism is not PLAIN, SCRAM, OAUTHBEARER or GSSAPI, and the client sends SaslHandshake v0 instead of v1", errLogin)
	}
	return nil
}

// relayToken relays one raw SASL token to the client.
func (r *responses) relayToken() error {
	size, err := protocol.PeekToken(r.flow)
	if err != nil {
		return r.unexpected(err)
	}
	if err := r.flow.PassThrough(size); err != nil {
		return err
	}
	if err := r.flushLast(); err != nil {
		return err
	}
	r.inflight.tokenDone(size)
	return nil
}

// unexpected decides what happens with bytes that are not the expected response. It returns the
// error that ends the connection, or stops decoding if the policy is lenient.
func (r *responses) unexpected(err error) error {
	framing := errors.Is(err, protocol.ErrFrame) || errors.Is(err, protocol.ErrHeld)
	switch {
	case r.policy.lenient() && (framing || errors.Is(err, errMismatch) || errors.Is(err, errLogin)):
		if errors.Is(err, protocol.ErrForeign) {
			err = explainForeign(err, r.settingNames)
		}
		if r.inflight.stopFollowing() {
			r.report.notFollowed(err)
		}
		return r.restore()
	case errors.Is(err, errLogin):
		return &refusal{metrics.RefusedSASL, err}
	case errors.Is(err, errMismatch):
		return refuse(metrics.RefusedCorrelation, "read response: %w", err)
	case errors.Is(err, protocol.ErrForeign):
		return &refusal{metrics.RefusedNotKafka, explainForeign(err, r.settingNames)}
	case framing:
		return refuse(metrics.RefusedFrameSize, "read response: %w", err)
	}
	return err
}

// restore relays a frame after decoding has stopped. If the frame answers a request that we sent
// with an id of ours, it puts back the client's correlation id. When no such request is left, it
// relays all bytes until the end.
func (r *responses) restore() error {
	if _, _, left := r.inflight.restore(0); left == 0 {
		return r.flow.PassAll()
	}
	size, err := protocol.PeekFrame(r.flow)
	switch {
	case errors.Is(err, protocol.ErrFrame), errors.Is(err, io.ErrUnexpectedEOF):
		return r.flow.PassAll()
	case err != nil:
		return err
	}
	if _, id, err := protocol.PeekResponse(r.flow); err == nil {
		if original, found, _ := r.inflight.restore(id); found {
			protocol.SetResponseID(r.flow, original)
		}
	}
	return r.flow.PassThrough(size)
}
