package proxy

import (
	"errors"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"github.com/culvert-proxy/culvert/proxy/metrics"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// lingerTimeout bounds how long we wait for a broker to read what a client sent before it
// disconnected. The client does not wait for it, but the two connections and their buffers stay
// meanwhile.
const lingerTimeout = 5 * time.Second

// ending decides how both sides of a connection end: with a FIN, a reset, or after the other side's
// bytes have been written. Nothing else closes them while the connection runs. Each direction calls
// it when it has ended. note, drain and cut may be called from any goroutine.
type ending struct {
	near, far *source
	inflight  *inflight
	// Closed when the responses' side has ended: nothing reads from far any more.
	responsesEnded chan struct{}

	draining     atomic.Bool
	brokerClosed atomic.Bool
	outcome      atomic.Pointer[outcome]
}

// outcome is why a connection ended.
type outcome struct {
	cause metrics.Close
	err   error // nil if cause says everything
}

func newEnding(near, far *source, q *inflight) *ending {
	return &ending{near: near, far: far, inflight: q, responsesEnded: make(chan struct{})}
}

// note records why the connection ends. Only the first call counts: what follows is a consequence.
func (e *ending) note(cause metrics.Close, err error) {
	e.outcome.CompareAndSwap(nil, &outcome{cause, err})
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
	e.near.SetReadDeadline(time.Now())
}

// drained reports whether to stop reading requests. A request that is known to be on its way is
// still read, unless the broker has closed the connection.
func (e *ending) drained(onItsWay bool) bool {
	return e.draining.Load() && (!onItsWay || e.brokerClosed.Load())
}

// cut is as [conn.cut].
func (e *ending) cut(why error) {
	e.note(metrics.CloseDrain, why)
	e.inflight.close()
	reset(e.near.Conn, &tunnel.Error{Code: tunnel.CodeDraining, Message: why.Error()})
	reset(e.far.Conn, &tunnel.Error{Code: tunnel.CodeClient, Message: why.Error()})
}

// clientFinished passes the client's FIN on to the broker. Responses still follow.
func (e *ending) clientFinished() {
	e.note(metrics.CloseClientFIN, nil)
	closeWrite(e.far.Conn)
}

// clientLost ends the broker's side after the client disconnected without a FIN.
func (e *ending) clientLost(err error) {
	e.note(nearCause(err), err)
	e.inflight.close()
	e.abandonFar("client disconnected: " + err.Error())
}

// finishClient ends the client's side with a FIN after the last response. why is a drain or a
// refusal.
func (e *ending) finishClient(why error) {
	cause := metrics.CloseRefused
	if errors.Is(why, errDraining) {
		cause = metrics.CloseDrain
	}
	e.note(cause, why)
	closeWrite(e.near.Conn)
}

// endBroker ends the broker's side after finishClient, and closes the client's.
func (e *ending) endBroker(why error) {
	e.abandonFar(why.Error())
	e.near.Close()
}

// brokerUnwritable resets both sides when requests can no longer be written. First it gives the
// responses' side lingerTimeout: that side may still read responses, and the reason why the broker
// closed the connection.
func (e *ending) brokerUnwritable(err error) {
	if within(lingerTimeout, e.responsesEnded) {
		return
	}
	e.note(farCause(err), err)
	reset(e.near.Conn, asTunnelError(err))
	reset(e.far.Conn, asTunnelError(err))
}

// brokerFinished passes the broker's FIN on to the client. It also stops reading requests: the
// broker answers no more, and a client that waits for nothing might keep its connection open for
// minutes.
func (e *ending) brokerFinished() {
	e.note(metrics.CloseBrokerFIN, nil)
	e.inflight.close()
	closeWrite(e.near.Conn)
	e.brokerClosed.Store(true)
	e.drain()
}

// brokerLost resets the client's side when no more responses can be read.
func (e *ending) brokerLost(err error) {
	e.note(farCause(err), err)
	e.inflight.close()
	reset(e.near.Conn, asTunnelError(err))
	e.far.SetDeadline(time.Now().Add(lingerTimeout)) // the requests' side may be blocked in a write
}

// responsesOver says that the responses' side has ended. It is called once.
func (e *ending) responsesOver() { close(e.responsesEnded) }

// resetClient resets the client's side. Clients try again at once after a reset.
func (e *ending) resetClient() { reset(e.near.Conn, nil) }

// close waits for the responses' side and closes both connections. The requests' side has ended.
func (e *ending) close() {
	<-e.responsesEnded
	e.inflight.close()
	e.near.Close()
	e.far.Close()
}

// abandonFar ends the broker's side after the client's has ended. What has been written must still
// reach the broker: a client that produces with acks=0 believes that those records have arrived. So
// the broker gets a FIN, and the responses' side goes on reading, and dropping, responses for
// lingerTimeout. A broker that cannot write its responses stops reading requests.
func (e *ending) abandonFar(why string) {
	if t, ok := e.far.Conn.(*tunnel.Conn); ok {
		t.Reset(&tunnel.Error{Code: tunnel.CodeClient, Message: why}) // arrives after the bytes; the gateway then does the same as below
		return
	}
	if closeWrite(e.far.Conn) == nil {
		within(lingerTimeout, e.responsesEnded)
	}
	e.far.Close()
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

// closeWriter is a connection that can be closed for writing only: TCP, TLS and tunnel streams.
type closeWriter interface{ CloseWrite() error }

// closeWrite sends a FIN. Bytes can still arrive. A connection without a half-close is closed.
func closeWrite(c net.Conn) error {
	if cw, ok := c.(closeWriter); ok {
		return cw.CloseWrite()
	}
	return c.Close()
}

// reset ends a connection so that its peer sees a reset, not the end of the stream: what the peer
// has received may be incomplete. A tunnel stream carries why to the other end; it may be nil.
func reset(c net.Conn, why *tunnel.Error) {
	switch c := c.(type) {
	case *tunnel.Conn:
		c.Reset(why)
	case interface{ NetConn() net.Conn }: // TLS
		reset(c.NetConn(), why) // closing TLS would send a close_notify alert, which is a clean end
	case *net.TCPConn:
		c.SetLinger(0)
		c.Close()
	default:
		c.Close()
	}
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
