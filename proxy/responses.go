package proxy

import (
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
	errLogin    = errors.New("a login whose raw SASL tokens cannot be followed")
)

// responses is the direction from the broker to the client. One goroutine calls
// its methods and uses its fields.
type responses struct {
	*connSettings
	far, near *source
	flow      *protocol.Flow // from far to near; made by run
	inflight  *inflight
	ending    *ending
}

// run relays responses until no more come, and ends the connection as far as
// that is due.
func (r *responses) run() {
	defer r.ending.responsesOver()
	r.flow = protocol.NewFlow(r.far, r.near)
	defer r.flow.Release()
	r.end(r.relay())
}

// end ends the connection as far as that is due when err has ended relay.
func (r *responses) end(err error) {
	var write *protocol.WriteError
	switch {
	case err == nil:
		r.ending.brokerFinished()
	case errors.As(err, &write):
		// The client is gone. The broker must not wait for a reader, or it never
		// comes to the requests that were received before.
		r.inflight.stopAnswers()
		io.Copy(io.Discard, r.far)
	default:
		r.ending.brokerLost(err)
	}
}

// relay relays responses until the broker ends (nil) or something breaks.
func (r *responses) relay() error {
	never := func() bool { return false }
	for {
		if err := r.answer(); err != nil {
			return err
		}
		err := r.far.await(r.flow, never)
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

// answer writes our own answers whose turn has come.
func (r *responses) answer() error {
	for {
		to, ok := r.inflight.oldest()
		if !ok || to.answer == nil || to.own {
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
		return r.unexpected(fmt.Errorf("%w: a response with correlation id %d to no request", errMismatch, id))
	case id != to.sentID:
		return r.unexpected(fmt.Errorf("%w: a response that is not the one to %s v%d with correlation id %d, the oldest in flight", errMismatch, to.Key, to.Version, to.CorrelationID))
	}
	if err := r.followLogin(to.Request, size); err != nil {
		return r.unexpected(err)
	}
	protocol.SetResponseID(r.flow, to.CorrelationID)
	return r.relayTo(to, size)
}

// relayTo relays the response of size bytes to a request.
func (r *responses) relayTo(to request, size int64) error {
	start := time.Now()
	m := r.report.metrics.API(to.Key)
	m.Duration.Observe(start.Sub(to.at).Seconds())
	m.ResponseBytes.Add(float64(size))
	if to.queued {
		m.Queued.Inc()
	}
	if err := r.relayBody(to.Request, size); err != nil {
		return err
	}
	if err := r.flushLast(); err != nil {
		return err
	}
	m.Transfer.Observe(time.Since(start).Seconds())
	r.inflight.done()
	return nil
}

func (r *responses) relayBody(to protocol.Request, size int64) error {
	if !r.policy.touches(to.Key, to.Version) {
		return r.flow.PassThrough(size)
	}
	result, err := r.policy.relay(r.flow, to, size)
	if result.Rewritten > 0 {
		r.report.metrics.API(to.Key).Rewritten.Add(float64(result.Rewritten))
	}
	if result.Blanked > 0 {
		r.report.metrics.API(to.Key).Blanked.Add(float64(result.Blanked))
	}
	if errors.Is(err, rewrite.ErrUndecodable) {
		return &refusal{metrics.RefusedUndecodable, err}
	}
	return err
}

// flushLast sends a response behind which nothing is: it leaves now, before it
// counts as done.
func (r *responses) flushLast() error {
	if r.flow.Buffered() > 0 {
		return nil
	}
	return r.flow.Flush()
}

// followLogin notes what the broker says to a SaslHandshake v0, before the
// client can read it: where it accepts, raw tokens follow.
func (r *responses) followLogin(to protocol.Request, size int64) error {
	if !handshakesV0(to) {
		return nil
	}
	const errorCode = 8 // behind length and correlation id
	if size < errorCode+2 {
		return fmt.Errorf("%w: a response to SaslHandshake of %d bytes", errLogin, size)
	}
	b, err := r.flow.Peek(errorCode+2, errorCode+2)
	if err != nil {
		return err
	}
	accepted := b[errorCode] == 0 && b[errorCode+1] == 0
	if r.inflight.handshakeAnswered(to.Mechanism, accepted) != nil {
		return fmt.Errorf("%w: the mechanism is none of PLAIN, SCRAM, OAUTHBEARER and GSSAPI, and the client sends SaslHandshake v0, not v1", errLogin)
	}
	return nil
}

// relayToken relays one raw SASL token.
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

// unexpected decides about bytes that are not the response that is due.
func (r *responses) unexpected(err error) error {
	framing := errors.Is(err, protocol.ErrFrame) || errors.Is(err, protocol.ErrHeld)
	switch {
	case r.policy.lenient() && (framing || errors.Is(err, errMismatch) || errors.Is(err, errLogin)):
		if errors.Is(err, protocol.ErrForeign) {
			err = sayForeign(err, r.wording)
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
		return &refusal{metrics.RefusedNotKafka, sayForeign(err, r.wording)}
	case framing:
		return refuse(metrics.RefusedFrameSize, "read response: %w", err)
	}
	return err
}

// restore relays a frame when frames are not followed any more, and puts the
// client's correlation id back if it answers a request that was. When none is
// left it relays everything.
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
