package proxy

import (
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/culvert-proxy/culvert/proxy/metrics"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// ending decides how both sides of a connection end: with a FIN, a reset, or after the other side's
// bytes have been written. Each direction calls it when it has ended, and ends the side that it
// writes: the responses' side the client's, the requests' side the broker's. note, drain and cut
// may be called from any goroutine.
type ending struct {
	near, far *exit
	inflight  *inflight
	// Closed when the responses' side writes nothing more to the client.
	relayed chan struct{}
	// Closed when the responses' side has ended: nothing reads from far any more.
	responsesEnded chan struct{}

	draining     atomic.Bool
	brokerClosed atomic.Bool
	wasCut       atomic.Bool
	outcome      atomic.Pointer[outcome]
}

// outcome is why a connection ended.
type outcome struct {
	cause   metrics.Close
	err     error // nil if cause says everything
	at      time.Time
	waiting *unanswered // what the broker had not answered by then; nil: nothing
}

// patience is how long an answer must have been waited for, when the client leaves, to be worth a
// warning. The first clients to give up, such as kcat, do so after five seconds.
const patience = 4 * time.Second

// late reports whether a client that left had waited too long, and for how long. Members of a
// consumer group wait for one another, so their answers may take minutes.
func (o outcome) late() (waited time.Duration, late bool) {
	u := o.waiting
	waited = o.at.Sub(u.at).Round(time.Second)
	return waited, waited >= patience && !u.token && u.Key != joinGroup && u.Key != syncGroup
}

func newEnding(near, far *source, q *inflight) *ending {
	return &ending{
		near: &exit{conn: near}, far: &exit{conn: far}, inflight: q,
		relayed: make(chan struct{}), responsesEnded: make(chan struct{}),
	}
}

// note records why the connection ends. Only the first call counts: what follows is a consequence.
func (e *ending) note(cause metrics.Close, err error) {
	if e.outcome.Load() == nil {
		e.outcome.CompareAndSwap(nil, &outcome{cause, err, time.Now(), e.inflight.unanswered()})
	}
}

// why returns what was noted first. If nothing was, the client disconnected while a response was
// written to it.
func (e *ending) why() outcome {
	if first := e.outcome.Load(); first != nil {
		return *first
	}
	return outcome{cause: metrics.CloseClientReset}
}

// drain is as [conn.drain].
func (e *ending) drain() {
	e.draining.Store(true)
	e.near.conn.wake()
}

// drained reports whether to stop reading requests. A request that is known to be on its way is
// still read, unless the broker has closed the connection.
func (e *ending) drained(onItsWay bool) bool {
	return e.draining.Load() && (!onItsWay || e.brokerClosed.Load())
}

// cut is as [conn.cut].
func (e *ending) cut(why error) {
	e.note(metrics.CloseDrain, why)
	e.wasCut.Store(true)
	e.inflight.close()
	e.near.reset(&tunnel.Error{Code: tunnel.CodeDraining, Message: why.Error()})
	e.far.reset(&tunnel.Error{Code: tunnel.CodeClient, Message: why.Error()})
	if e.far.has(finished) { // the client has sent its last byte, and responses are still read
		e.far.close()
	}
}

// What follows is called by the requests' side.

// clientFinished passes the client's FIN on to the broker, and waits until the responses that still
// follow have been relayed, for answerTimeout at most. The broker then has lingerTimeout to end its
// side.
func (e *ending) clientFinished() {
	e.far.finish()
	e.inflight.finish()
	e.wakeResponses()
	if !within(answerTimeout, e.relayed) {
		e.near.reset(nil)
		e.far.close()
	}
	within(lingerTimeout, e.responsesEnded)
	e.far.close()
}

// clientLost ends the broker's side after the client disconnected without a FIN.
func (e *ending) clientLost(err error) {
	e.note(nearCause(err), err)
	e.inflight.close()
	e.abandonBroker("client disconnected: " + err.Error())
}

// lastRequest says that no more requests are relayed, because of a drain or a refusal. It waits
// until the responses' side has ended the client's side behind the last response. After d the
// client's side is reset. It does not wait for the answers to tokens that may have none: unlike
// behind the client's FIN, the broker does not close its side then.
func (e *ending) lastRequest(why error, d time.Duration) {
	e.inflight.leaveTokens()
	e.inflight.finish()
	e.wakeResponses()
	if !within(d, e.relayed) {
		e.near.reset(nil)
	}
	cause := metrics.CloseRefused
	if errors.Is(why, errDraining) {
		cause = metrics.CloseDrain
	}
	e.note(cause, why)
}

// wakeResponses makes the responses' side look at the requests in flight.
func (e *ending) wakeResponses() { e.far.conn.wake() }

// brokerUnwritable resets both sides when requests can no longer be written. First it gives the
// responses' side lingerTimeout: that side may still read responses, and the reason why the broker
// closed the connection.
func (e *ending) brokerUnwritable(err error) {
	if within(lingerTimeout, e.responsesEnded) {
		return
	}
	e.note(farCause(err), err)
	e.near.reset(asTunnelError(err))
	e.far.reset(asTunnelError(err))
}

// brokerSilent resets the client's side when the broker has not answered for too long.
func (e *ending) brokerSilent(err error) {
	e.note(metrics.CloseBrokerReset, err)
	e.inflight.close()
	e.near.reset(asTunnelError(err))
	e.abandonBroker(err.Error())
}

// abandonBroker ends the broker's side after the client's has ended. What has been written must
// still reach the broker: a client that produces with acks=0 believes that those records have
// arrived. So the broker gets a FIN, and the responses' side goes on reading, and dropping,
// responses for lingerTimeout. A broker that cannot write its responses stops reading requests.
func (e *ending) abandonBroker(why string) {
	if _, ok := e.far.conn.Conn.(*tunnel.Conn); ok {
		e.far.reset(&tunnel.Error{Code: tunnel.CodeClient, Message: why}) // arrives after the bytes; the gateway then does the same as below
		return
	}
	if e.far.finish() == nil {
		within(lingerTimeout, e.responsesEnded)
	}
	e.far.close()
}

// close waits for the responses' side and closes both connections. The requests' side has ended.
func (e *ending) close() {
	<-e.responsesEnded
	e.inflight.close()
	e.near.close()
	e.far.close()
}

// What follows is called by the responses' side.

// allAnswered ends the client's side with a FIN behind the last response, after lastRequest.
func (e *ending) allAnswered() { e.near.finish() }

// brokerFinished passes the broker's FIN on to the client. It also stops reading requests: the
// broker answers no more, and a client that waits for nothing might keep its connection open for
// minutes.
func (e *ending) brokerFinished() {
	e.note(metrics.CloseBrokerFIN, e.whyFinished())
	if agent, ok := e.near.conn.Conn.(*tunnel.Conn); ok && e.why().cause == metrics.CloseBrokerFIN {
		agent.SendNotice(&tunnel.Error{Code: tunnel.CodeBroker, Message: "the broker closed the connection"})
	}
	e.inflight.close()
	e.near.finish()
	e.brokerClosed.Store(true)
	e.drain()
}

// errGatewayFinished says that a stream ended in good order, and the gateway did not say why: it may
// be draining.
var errGatewayFinished = errors.New("the gateway ended the stream")

// whyFinished returns nil if the FIN is the broker's own.
func (e *ending) whyFinished() error {
	if t, ok := e.far.conn.Conn.(*tunnel.Conn); ok && t.Notice() == nil {
		return errGatewayFinished
	}
	return nil
}

// brokerLost resets the client's side when no more responses can be read.
func (e *ending) brokerLost(err error) {
	e.note(farCause(err), err)
	e.inflight.close()
	e.near.reset(asTunnelError(err))
	e.far.conn.SetDeadline(time.Now().Add(lingerTimeout)) // the requests' side may be blocked in a write
}

// nearCause returns how the client's side ended a connection. At a gateway, that side is the
// tunnel.
func nearCause(err error) metrics.Close {
	if errors.Is(err, tunnel.ErrCut) {
		return metrics.CloseTunnelCut
	}
	return metrics.CloseClientReset
}

// farCause returns how the broker's side ended a connection.
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

// asTunnelError returns the error to send to the other end of a tunnel.
func asTunnelError(err error) *tunnel.Error {
	if e, ok := errors.AsType[*tunnel.Error](err); ok {
		return e
	}
	if t, ok := errors.AsType[*tlsError](err); ok {
		return &tunnel.Error{Code: tunnel.CodeDial, Message: t.Error()}
	}
	return &tunnel.Error{Code: tunnel.CodeBroker, Message: "connection to the broker: " + err.Error()}
}

// within waits for done, for at most d, and reports whether done was closed in time.
func within(d time.Duration, done <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-done:
		return true
	case <-t.C:
		return false
	}
}
