package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"github.com/culvert-proxy/culvert/protocol"
	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/metrics"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
	"github.com/culvert-proxy/culvert/rewrite"
)

const (
	// idleAfter is how long a direction keeps its buffer while nothing comes.
	idleAfter = time.Second
	// defaultHeadTimeout bounds how long a request's header may be on its way
	// once its first byte has come, for it is held back meanwhile.
	defaultHeadTimeout = 30 * time.Second
)

// refusal is why this process will not relay something. It ends the connection.
type refusal struct {
	reason metrics.Refusal
	err    error
}

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

func refuse(reason metrics.Refusal, format string, args ...any) error {
	return &refusal{reason, fmt.Errorf(format, args...)}
}

// errDraining ends a connection between two requests because the process ends.
var errDraining = errors.New("draining")

// conn is one Kafka connection: requests flow from near to far, responses back,
// each in a goroutine of its own. The one that relays requests ends far, the
// other ends near, so that what was received before an end is always written
// before the end is passed on.
type conn struct {
	near *source // towards the client
	far  *source // towards the broker

	// touches says which responses relayTouched relays; the others pass as they
	// come.
	touches      func(protocol.APIKey, int16) bool
	relayTouched func(*protocol.Flow, protocol.Request, int64) (rewrite.Result, error)
	// screen, if set, refuses requests or answers them itself. It runs before a
	// byte of the request is passed.
	screen func(protocol.Request) (answer []byte, err error)
	// lenient relays untouched what cannot be followed, instead of refusing it.
	lenient bool
	// headTimeout bounds the wait for a request's header.
	headTimeout time.Duration

	metrics *metrics.Metrics
	log     *slog.Logger
	wording hints.Names // names of settings, in errors
	limiter *logLimiter // shared by all connections of a process
	without without

	// first says that the first request is on its way: a drain lets it come.
	// Owned by requests.
	first bool

	screened   bool           // owned by requests: the request was screened when it was sent
	firstAt    time.Time      // owned by requests: when the first request's header had been read, where that was before run
	firstID    int32          // owned by requests: the correlation id with which the first request was sent, where that was before run
	ids        correlationIDs // owned by requests
	inflight   *inflight
	clientSent bool // owned by requests: a frame has been passed
	unanswered bool // owned by requests: one was passed that wants no answer
	draining   atomic.Bool
	deserted   atomic.Bool // the broker has ended its side
	cause      atomic.Pointer[ending]
}

// without names defences that a test takes away, to see that the others hold.
type without struct {
	correlationIDs bool                      // the broker is given the client's own
	reading        func(*protocol.Flow) bool // it says which frames are raw tokens, and they are not counted
}

// ending is what ended a connection first.
type ending struct {
	cause metrics.Close
	err   error
}

// source is a connection whose deadline stops a read only where the reader has
// asked for that. Elsewhere it is one left over from a wait, or from drain, and
// the read goes on without it: in the middle of a frame nobody is in a hurry.
type source struct {
	net.Conn
	timed   bool             // owned by the reader
	sent    int              // owned by the writer: bytes that it is about to write and that are there already
	limited io.LimitedReader // as timed; here, for Splice not to allocate it
}

func (s *source) Read(p []byte) (int, error) {
	for {
		n, err := s.Conn.Read(p)
		if n > 0 || s.timed || !isTimeout(err) {
			return n, err
		}
		s.SetReadDeadline(time.Time{})
	}
}

func (s *source) Write(p []byte) (int, error) {
	n := min(s.sent, len(p))
	s.sent -= n
	if n == len(p) {
		return n, nil
	}
	k, err := s.Conn.Write(p[n:])
	return n + k, err
}

// Splice implements what a [protocol.Flow] asks of its destination, where both
// are plain TCP and the kernel can do it: that is half of the work of a relay
// without a tunnel.
func (s *source) Splice(from io.Reader, n int64) int64 {
	dst, isTCP := s.Conn.(*net.TCPConn)
	src, ok := from.(*source)
	if !isTCP || !ok || runtime.GOOS != "linux" {
		return 0
	}
	tcp, isTCP := src.Conn.(*net.TCPConn)
	if !isTCP {
		return 0
	}
	src.limited = io.LimitedReader{R: tcp, N: n}
	n, _ = dst.ReadFrom(&src.limited)
	return n
}

// run relays until both directions have ended, or ctx, and closes both sides.
// requests holds what has been read from near already. far must be set.
func (c *conn) run(ctx context.Context, requests *protocol.Flow) {
	defer context.AfterFunc(ctx, func() { c.cut(context.Cause(ctx)) })()
	requests.To(c.far)
	var err error
	if c.far.sent > 0 { // its response may be here already
		c.screened = true
		err = c.request(requests)
		c.screened = false
	}
	responses := make(chan struct{})
	go c.runResponses(responses)
	c.runRequests(requests, err, responses)
	<-responses
	c.inflight.close()
	c.near.Close()
	c.far.Close()
	c.report()
}

// report counts and logs how the connection ended: aloud where somebody could
// do something about it.
func (c *conn) report() {
	end := c.cause.Load()
	if end == nil { // the client vanished while it was written to
		end = &ending{cause: metrics.CloseClientReset}
	}
	c.metrics.Closed(end.cause)
	var r *refusal
	switch kind := end.cause.String(); {
	case errors.As(end.err, &r):
		c.metrics.Refused(r.reason)
		c.sayRefused(r)
	case end.cause == metrics.CloseDial || end.cause == metrics.CloseTunnelCut:
		c.limiter.warn(c.log, "connection reset", kind, "cause", kind, "err", end.err)
	default:
		c.log.Debug("connection closed", "cause", kind, "err", end.err)
	}
}

// sayRefused says why something was refused. A request to a broker that was
// lent is part of a client's recovery and no trouble.
func (c *conn) sayRefused(r *refusal, more ...any) {
	more = append(more, "err", r.err)
	if r.reason == metrics.RefusedIntroduction {
		c.log.Debug("connection refused", more...)
		return
	}
	about := r.reason.String()
	if foreign, ok := errors.AsType[protocol.ForeignError](r.err); ok {
		about = string(foreign)
	}
	c.limiter.warn(c.log, "connection refused", about, more...)
}

// ended notes what ended the connection; the first call counts.
func (c *conn) ended(cause metrics.Close, err error) {
	c.cause.CompareAndSwap(nil, &ending{cause, err})
}

// drain ends the connection after the request that is being read and the
// answers to those in flight.
func (c *conn) drain() {
	c.draining.Store(true)
	c.near.SetReadDeadline(time.Now())
}

// cut ends the connection without regard to what is in flight, whatever either
// side is waiting for.
func (c *conn) cut(why error) {
	c.ended(metrics.CloseDrain, why)
	c.inflight.close()
	reset(c.near.Conn, &tunnel.Error{Code: tunnel.CodeDraining, Message: why.Error()})
	reset(c.far.Conn, &tunnel.Error{Code: tunnel.CodeClient, Message: why.Error()})
}

// runRequests relays requests, unless the first one has failed, and then ends
// far.
func (c *conn) runRequests(f *protocol.Flow, err error, responses <-chan struct{}) {
	defer f.Release()
	if err == nil {
		err = c.requests(f)
	}
	var refused *refusal
	var write *protocol.WriteError
	switch {
	case err == nil:
		c.ended(metrics.CloseClientFIN, nil)
		closeWrite(c.far.Conn)
	case errors.Is(err, errDraining), errors.As(err, &refused):
		// Answers to what came before are still the client's.
		if f.Flush() == nil {
			c.inflight.drain(c.answerTimeout(err))
		}
		c.ended(closeOf(err), err)
		closeWrite(c.near.Conn)
		if c.unanswered && errors.Is(err, errDraining) {
			c.relayLate(f)
		}
		abandon(c.far.Conn, &tunnel.Error{Code: tunnel.CodeClient, Message: err.Error()}, responses)
		c.near.Close()
	case errors.As(err, &write):
		// The broker's side is broken. The responses' side learns why, and may
		// find answers there that came before.
		if !within(lingerTimeout, responses) {
			c.ended(farCause(write.Err), write.Err)
			reset(c.near.Conn, asTunnelError(write.Err))
			reset(c.far.Conn, asTunnelError(write.Err))
		}
	default:
		c.ended(nearCause(err), err)
		c.inflight.close()
		abandon(c.far.Conn, &tunnel.Error{Code: tunnel.CodeClient, Message: "client is gone: " + err.Error()}, responses)
	}
}

// relayLate relays what a client sends that has not seen yet that its
// connection ends, as far as nobody waits for an answer: a client that produces
// with acks=0 believes that such a request has arrived. Any other request is
// sent anew by the client, and must not be relayed twice.
func (c *conn) relayLate(f *protocol.Flow) {
	c.near.timed = true
	c.near.SetReadDeadline(time.Now().Add(lingerTimeout))
	for {
		r, err := protocol.PeekRequest(f)
		if err != nil || !r.NoResponse {
			break
		}
		if c.screen != nil {
			if answer, err := c.screen(r); err != nil || answer != nil {
				break
			}
		}
		c.count(request{Request: r})
		if f.PassThrough(r.Size) != nil {
			return
		}
	}
	f.Flush()
}

// answerTimeout is how long the answers to what came before an end may take. A drain has a time of its own.
func (c *conn) answerTimeout(end error) time.Duration {
	if errors.Is(end, errDraining) {
		return 1<<63 - 1
	}
	return c.headTimeout
}

// closeOf is the cause of a connection that we ended ourselves.
func closeOf(err error) metrics.Close {
	if errors.Is(err, errDraining) {
		return metrics.CloseDrain
	}
	return metrics.CloseRefused
}

// runResponses relays responses and then ends near.
func (c *conn) runResponses(done chan<- struct{}) {
	defer close(done)
	f := protocol.NewFlow(c.far, c.near)
	defer f.Release()
	err := c.responses(f)
	var write *protocol.WriteError
	switch {
	case err == nil:
		c.ended(metrics.CloseBrokerFIN, nil)
		c.inflight.close()
		closeWrite(c.near.Conn)
		c.deserted.Store(true)
		c.drain() // nobody answers any more, and a client with nothing to ask may not notice
	case errors.As(err, &write):
		// The client is gone. The broker must not wait for a reader, or it never
		// comes to the requests that were received before.
		c.inflight.stopAnswers()
		io.Copy(io.Discard, c.far)
	default:
		c.ended(farCause(err), err)
		c.inflight.close()
		reset(c.near.Conn, asTunnelError(err))
		c.far.SetDeadline(time.Now().Add(lingerTimeout)) // frees the requests' side
	}
}

// nearCause tells how the client's side ended a connection: at a gateway it is
// the tunnel that may have been cut.
func nearCause(err error) metrics.Close {
	if errors.Is(err, tunnel.ErrCut) {
		return metrics.CloseTunnelCut
	}
	return metrics.CloseClientReset
}

// farCause tells how the broker's side ended a connection.
func farCause(err error) metrics.Close {
	var refused *refusal
	var told *tunnel.Error
	var noTLS *tlsError
	switch {
	case errors.As(err, &refused):
		return metrics.CloseRefused
	case errors.As(err, &noTLS):
		return metrics.CloseDial
	case errors.Is(err, tunnel.ErrCut):
		return metrics.CloseTunnelCut
	case errors.As(err, &told) && slices.Contains([]tunnel.Code{tunnel.CodeDial, tunnel.CodeTarget, tunnel.CodeTicket, tunnel.CodeVersion, tunnel.CodeLimit}, told.Code):
		return metrics.CloseDial
	case errors.As(err, &told) && told.Code == tunnel.CodeDraining:
		return metrics.CloseDrain
	}
	return metrics.CloseBrokerReset
}

// asTunnelError is what the other end of a tunnel is told.
func asTunnelError(err error) *tunnel.Error {
	if e, ok := errors.AsType[*tunnel.Error](err); ok {
		return e
	}
	if t, ok := errors.AsType[*tlsError](err); ok {
		return &tunnel.Error{Code: tunnel.CodeDial, Message: t.Error()}
	}
	return &tunnel.Error{Code: tunnel.CodeBroker, Message: "connection to the broker: " + err.Error()}
}

// requests relays requests until the client ends (nil) or something breaks.
func (c *conn) requests(f *protocol.Flow) error {
	for {
		err := c.await(f, c.near)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := c.request(f); err != nil {
			return err
		}
	}
}

// await waits for the first byte of a frame. While none comes for a while, f
// holds no buffer.
func (c *conn) await(f *protocol.Flow, from *source) error {
	if c.mayDrain(from) && !protocol.FrameBuffered(f) {
		return errDraining
	}
	if f.Buffered() > 0 {
		return nil
	}
	from.timed = true
	defer func() { from.timed = false }()
	err := c.awaitUntil(time.Now().Add(idleAfter), f, from)
	if isTimeout(err) {
		f.Release()
		err = c.awaitUntil(time.Time{}, f, from)
	}
	return err
}

func (c *conn) awaitUntil(deadline time.Time, f *protocol.Flow, from *source) error {
	from.SetReadDeadline(deadline)
	if c.mayDrain(from) { // checked behind SetReadDeadline, for drain sets the flag before the deadline
		return errDraining
	}
	_, err := f.Peek(1, 1)
	if isTimeout(err) && c.mayDrain(from) {
		return errDraining
	}
	return err
}

// mayDrain reports whether no more frames are to be read from this side.
func (c *conn) mayDrain(from *source) bool {
	return from == c.near && c.draining.Load() && (!c.first || c.deserted.Load())
}

// request relays one request, or a raw SASL token.
func (c *conn) request(f *protocol.Flow) error {
	c.first = false
	if !c.inflight.followed() {
		return f.PassAll()
	}
	r, isToken, err := c.peekRequest(f)
	if err != nil {
		return c.unreadable(f, err)
	}
	if isToken {
		return c.token(f)
	}
	c.clientSent = true
	in := request{Request: r, at: cmp.Or(c.firstAt, time.Now())}
	c.firstAt = time.Time{}
	if c.screen != nil && !c.screened {
		if in.answer, err = c.screen(r); err != nil {
			return err
		}
	}
	if in.answer != nil {
		return c.answer(f, in)
	}
	c.count(in)
	if r.NoResponse {
		c.unanswered = true
		return f.PassThrough(r.Size)
	}
	return c.forward(f, in)
}

// forward passes on a request that is answered, under a correlation id of ours.
func (c *conn) forward(f *protocol.Flow, in request) error {
	if in.sentID = c.firstID; in.sentID == 0 {
		in.sentID = c.newID(in.Request)
	}
	c.firstID = 0
	if c.inflight.full() { // what makes room may be the answers to requests that f still holds
		if err := f.Flush(); err != nil {
			return err
		}
	}
	place, err := c.inflight.push(in)
	if err != nil {
		return err
	}
	if place == awaited {
		protocol.SetRequestID(f, in.sentID)
	}
	return f.PassThrough(in.Size)
}

// newID returns the correlation id with which the broker gets a request.
func (c *conn) newID(r protocol.Request) int32 {
	if c.without.correlationIDs {
		return r.CorrelationID
	}
	return c.ids.next()
}

// count counts a request.
func (c *conn) count(r request) {
	m := c.metrics.API(r.Key)
	m.Requests.Inc()
	m.RequestBytes.Add(float64(r.Size))
}

// peekRequest reads the next request's header, or finds a raw SASL token.
func (c *conn) peekRequest(f *protocol.Flow) (r protocol.Request, isToken bool, err error) {
	if isToken, err = c.isToken(f); err != nil || isToken {
		return r, isToken, err
	}
	defer c.timeHead(f)()
	r, err = protocol.PeekRequest(f)
	return r, false, err
}

// timeHead bounds the wait for the head of the next frame, until stop.
func (c *conn) timeHead(f *protocol.Flow) (stop func()) {
	if protocol.FrameBuffered(f) {
		return func() {}
	}
	c.near.SetReadDeadline(time.Now().Add(c.headTimeout))
	c.near.timed = true
	return func() { c.near.timed = false }
}

// isToken reports whether the next frame is a raw SASL token. In a login it
// waits for the broker's answer to what came before, as the broker does before
// it reads on: what the frame is may hang on that.
func (c *conn) isToken(f *protocol.Flow) (bool, error) {
	if c.without.reading != nil {
		return c.without.reading(f), nil
	}
	if !c.clientSent {
		defer c.timeHead(f)()
		return protocol.IsRawToken(f)
	}
	login := c.inflight.inLogin()
	if !login.pending && !login.tokens.Expected() {
		return false, nil
	}
	if login.pending && login.tokens.InTurn() {
		if err := f.Flush(); err != nil {
			return false, err
		}
		var err error
		if login, err = c.inflight.awaitLogin(c.headTimeout); err != nil {
			return false, err
		}
	}
	defer c.timeHead(f)()
	isToken, err := login.tokens.Next(f)
	if err == nil && !isToken {
		c.inflight.endLogin()
	}
	return isToken, err
}

// unreadable decides about bytes that are no request.
func (c *conn) unreadable(f *protocol.Flow, err error) error {
	if isTimeout(err) {
		if c.draining.Load() {
			return errDraining
		}
		err = refuse(metrics.RefusedHeaderTimeout, "read request from %s: its header did not arrive within %s", c.near.RemoteAddr(), c.headTimeout)
	}
	framing := errors.Is(err, protocol.ErrFrame) || errors.Is(err, protocol.ErrHeld)
	switch {
	case c.lenient && (framing || err == io.ErrUnexpectedEOF || !c.inflight.followed()):
		c.giveUp(err)
		return f.PassAll()
	case errors.Is(err, protocol.ErrForeign):
		return refuse(metrics.RefusedNotKafka, "read request from %s: %w", c.near.RemoteAddr(), err)
	case framing:
		return refuse(metrics.RefusedFrameSize, "read request from %s: %w", c.near.RemoteAddr(), err)
	}
	return err
}

// giveUp ends the following of frames, both ways: bytes pass from now on, without
// tickets, memory and metrics.
func (c *conn) giveUp(why error) {
	if !c.inflight.stopFollowing() {
		return
	}
	const message = "connection not followed any more, its bytes pass without tickets and metrics"
	if why == io.ErrUnexpectedEOF { // the client has ended, no more
		c.log.Debug(message, "err", why)
	} else {
		c.limiter.warn(c.log, message, "", "err", why)
	}
}

// token relays one raw SASL token of the client.
func (c *conn) token(f *protocol.Flow) error {
	size, err := protocol.PeekToken(f)
	if err != nil {
		return c.unreadable(f, err)
	}
	if !c.clientSent { // without a handshake
		c.clientSent = true
		c.inflight.startLogin(protocol.GSSAPI)
	}
	if c.without.reading == nil {
		if _, err := c.inflight.push(request{token: true}); err != nil {
			return err
		}
	}
	return f.PassThrough(size)
}

// answer gives our own answer to a request that is not forwarded, in its turn.
func (c *conn) answer(f *protocol.Flow, r request) error {
	if err := f.Flush(); err != nil {
		return err
	}
	if err := c.passTo(io.Discard, f, r.Size); err != nil {
		return err
	}
	place, err := c.inflight.push(r)
	if err != nil || place != alone {
		return err
	}
	if _, err := c.near.Write(r.answer); err != nil {
		return fmt.Errorf("answer %s v%d: %w", r.Key, r.Version, err)
	}
	c.inflight.done()
	return nil
}

// passTo passes a frame to another destination than f's own.
func (c *conn) passTo(dst io.Writer, f *protocol.Flow, size int64) error {
	f.To(dst)
	defer f.To(c.far)
	if err := f.PassThrough(size); err != nil {
		return err
	}
	return f.Flush()
}

// responses relays responses until the broker ends (nil) or something breaks.
func (c *conn) responses(f *protocol.Flow) error {
	for {
		if err := c.answers(f); err != nil {
			return err
		}
		err := c.await(f, c.far)
		if err == io.EOF {
			return nil
		}
		if err == nil {
			err = c.response(f)
		}
		if err != nil {
			return err
		}
	}
}

// answers writes our own answers whose turn has come.
func (c *conn) answers(f *protocol.Flow) error {
	for {
		r, ok := c.inflight.oldest()
		if !ok || r.answer == nil || r.own {
			return nil
		}
		if err := f.Replace(0, r.answer); err != nil {
			return err
		}
		c.inflight.done()
	}
}

// response relays one response.
func (c *conn) response(f *protocol.Flow) error {
	if !c.inflight.followed() {
		return c.restore(f)
	}
	r, ok := c.inflight.oldest()
	if r.token || !ok && c.without.reading != nil {
		return c.tokenAnswer(f)
	}
	size, id, err := protocol.PeekResponse(f)
	switch {
	case err != nil:
		return c.strange(f, err)
	case !ok || r.answer != nil:
		return c.strange(f, fmt.Errorf("%w: a response with correlation id %d to no request", errMismatch, id))
	case id != r.sentID:
		return c.strange(f, fmt.Errorf("%w: a response that is not the one to %s v%d with correlation id %d, the oldest in flight", errMismatch, r.Key, r.Version, r.CorrelationID))
	}
	if err := c.followLogin(f, r.Request, size); err != nil {
		return c.strange(f, err)
	}
	protocol.SetResponseID(f, r.CorrelationID)
	return c.relay(f, r, size)
}

// restore relays a frame when frames are not followed any more, and puts the
// client's correlation id back if it answers a request that was. When none is
// left it relays everything.
func (c *conn) restore(f *protocol.Flow) error {
	if _, _, left := c.inflight.restore(0); left == 0 {
		return f.PassAll()
	}
	size, err := protocol.PeekFrame(f)
	switch {
	case errors.Is(err, protocol.ErrFrame), errors.Is(err, io.ErrUnexpectedEOF):
		return f.PassAll()
	case err != nil:
		return err
	}
	if _, id, err := protocol.PeekResponse(f); err == nil {
		if original, found, _ := c.inflight.restore(id); found {
			protocol.SetResponseID(f, original)
		}
	}
	return f.PassThrough(size)
}

// tokenAnswer relays one raw SASL token of the broker.
func (c *conn) tokenAnswer(f *protocol.Flow) error {
	size, err := protocol.PeekToken(f)
	if err != nil {
		return c.strange(f, err)
	}
	if err := f.PassThrough(size); err != nil {
		return err
	}
	if err := flushLast(f); err != nil {
		return err
	}
	c.inflight.tokenDone(size)
	return nil
}

var (
	errMismatch = errors.New("responses do not match requests")
	errLogin    = errors.New("a login whose raw SASL tokens cannot be followed")
)

// strange decides about bytes that are not the response that is due.
func (c *conn) strange(f *protocol.Flow, err error) error {
	framing := errors.Is(err, protocol.ErrFrame) || errors.Is(err, protocol.ErrHeld)
	switch {
	case c.lenient && (framing || errors.Is(err, errMismatch) || errors.Is(err, errLogin)):
		if errors.Is(err, protocol.ErrForeign) {
			err = sayForeign(err, c.wording)
		}
		c.giveUp(err)
		return c.restore(f)
	case errors.Is(err, errLogin):
		return &refusal{metrics.RefusedSASL, err}
	case errors.Is(err, errMismatch):
		return refuse(metrics.RefusedCorrelation, "read response: %w", err)
	case errors.Is(err, protocol.ErrForeign):
		return &refusal{metrics.RefusedNotKafka, sayForeign(err, c.wording)}
	case framing:
		return refuse(metrics.RefusedFrameSize, "read response: %w", err)
	}
	return err
}

// relay relays the response of size bytes to r.
func (c *conn) relay(f *protocol.Flow, r request, size int64) error {
	start := time.Now()
	m := c.metrics.API(r.Key)
	m.Duration.Observe(start.Sub(r.at).Seconds())
	m.ResponseBytes.Add(float64(size))
	if r.queued {
		m.Queued.Inc()
	}
	if err := c.relayBody(f, r, size); err != nil {
		return err
	}
	if err := flushLast(f); err != nil {
		return err
	}
	m.Transfer.Observe(time.Since(start).Seconds())
	c.inflight.done()
	return nil
}

// flushLast sends a response behind which nothing is: it leaves now, before it
// counts as done.
func flushLast(f *protocol.Flow) error {
	if f.Buffered() > 0 {
		return nil
	}
	return f.Flush()
}

func (c *conn) relayBody(f *protocol.Flow, r request, size int64) error {
	if !c.touches(r.Key, r.Version) {
		return f.PassThrough(size)
	}
	result, err := c.relayTouched(f, r.Request, size)
	if result.Rewritten > 0 {
		c.metrics.API(r.Key).Rewritten.Add(float64(result.Rewritten))
	}
	if result.Blanked > 0 {
		c.metrics.API(r.Key).Blanked.Add(float64(result.Blanked))
	}
	if errors.Is(err, rewrite.ErrUndecodable) {
		return &refusal{metrics.RefusedUndecodable, err}
	}
	return err
}

// followLogin notes what the broker says to a SaslHandshake v0, before the
// client can read it: where it accepts, raw tokens follow.
func (c *conn) followLogin(f *protocol.Flow, r protocol.Request, size int64) error {
	if !handshakesV0(r) {
		return nil
	}
	const errorCode = 8 // behind length and correlation id
	if size < errorCode+2 {
		return fmt.Errorf("%w: a response to SaslHandshake of %d bytes", errLogin, size)
	}
	b, err := f.Peek(errorCode+2, errorCode+2)
	if err != nil {
		return err
	}
	accepted := b[errorCode] == 0 && b[errorCode+1] == 0
	if c.inflight.handshakeAnswered(r.Mechanism, accepted) != nil {
		return fmt.Errorf("%w: the mechanism is none of PLAIN, SCRAM, OAUTHBEARER and GSSAPI, and the client sends SaslHandshake v0, not v1", errLogin)
	}
	return nil
}
