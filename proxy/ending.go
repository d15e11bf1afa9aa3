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

// lingerTimeout bounds how long a broker may take to read what a client that is
// gone has sent.
const lingerTimeout = 5 * time.Second

// ending decides how both sides of a connection end, and nothing else closes them
// while the connection runs. Each direction calls it when it is over: what was
// received before an end is written before the end is passed on. drain, cut and
// note may be called by anybody at any time.
type ending struct {
	near, far *source
	inflight  *inflight
	answered  chan struct{} // closed when nobody reads from far any more

	draining   atomic.Bool
	brokerLeft atomic.Bool
	outcome    atomic.Pointer[outcome]
}

// outcome is why a connection has ended.
type outcome struct {
	cause metrics.Close
	err   error // nil where cause says it all
}

func newEnding(near, far *source, q *inflight) *ending {
	return &ending{near: near, far: far, inflight: q, answered: make(chan struct{})}
}

// note keeps why the connection ends; the first call counts.
func (e *ending) note(cause metrics.Close, err error) {
	e.outcome.CompareAndSwap(nil, &outcome{cause, err})
}

// why is what was noted first, and a client that vanished while it was written to
// where nothing was.
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

// drained reports whether no more requests are to be read. One that is on its way
// is, as long as there is a broker for it.
func (e *ending) drained(onItsWay bool) bool {
	return e.draining.Load() && (!onItsWay || e.brokerLeft.Load())
}

// cut is as [conn.cut].
func (e *ending) cut(why error) {
	e.note(metrics.CloseDrain, why)
	e.inflight.close()
	reset(e.near.Conn, &tunnel.Error{Code: tunnel.CodeDraining, Message: why.Error()})
	reset(e.far.Conn, &tunnel.Error{Code: tunnel.CodeClient, Message: why.Error()})
}

// clientFinished passes the client's FIN on. Responses still come.
func (e *ending) clientFinished() {
	e.note(metrics.CloseClientFIN, nil)
	closeWrite(e.far.Conn)
}

// clientLost ends the broker's side when the client is gone without a FIN.
func (e *ending) clientLost(err error) {
	e.note(nearCause(err), err)
	e.inflight.close()
	e.abandonFar("client is gone: " + err.Error())
}

// finishClient ends the client's side because of a drain or a refusal, behind the
// last response.
func (e *ending) finishClient(why error) {
	cause := metrics.CloseRefused
	if errors.Is(why, errDraining) {
		cause = metrics.CloseDrain
	}
	e.note(cause, why)
	closeWrite(e.near.Conn)
}

// leaveBroker ends the broker's side behind finishClient, and what is left of the
// client's.
func (e *ending) leaveBroker(why error) {
	e.abandonFar(why.Error())
	e.near.Close()
}

// brokerUnwritable resets both sides when requests cannot be written any more. The
// responses' side learns why, and may find responses there that came before: it
// goes first, if that does not take long.
func (e *ending) brokerUnwritable(err error) {
	if within(lingerTimeout, e.answered) {
		return
	}
	e.note(farCause(err), err)
	reset(e.near.Conn, asTunnelError(err))
	reset(e.far.Conn, asTunnelError(err))
}

// brokerFinished passes the broker's FIN on. Nobody answers any more, and a client
// with nothing to ask may not notice: no more requests are read.
func (e *ending) brokerFinished() {
	e.note(metrics.CloseBrokerFIN, nil)
	e.inflight.close()
	closeWrite(e.near.Conn)
	e.brokerLeft.Store(true)
	e.drain()
}

// brokerLost resets the client's side when no responses can be had any more.
func (e *ending) brokerLost(err error) {
	e.note(farCause(err), err)
	e.inflight.close()
	reset(e.near.Conn, asTunnelError(err))
	e.far.SetDeadline(time.Now().Add(lingerTimeout)) // frees the requests' side
}

// responsesOver says that nobody reads from the broker any more.
func (e *ending) responsesOver() { close(e.answered) }

// resetClient ends the client's side so that it may try again at once.
func (e *ending) resetClient() { reset(e.near.Conn, nil) }

// close closes both sides when both directions are over.
func (e *ending) close() {
	<-e.answered
	e.inflight.close()
	e.near.Close()
	e.far.Close()
}

// abandonFar ends the broker's side when the client is gone or nothing of it is to
// be relayed any more. What has been written still reaches the broker: records
// sent with acks=0 have nobody else to tell of them. The broker's responses are
// taken from it until it has come to the last request.
func (e *ending) abandonFar(why string) {
	if t, ok := e.far.Conn.(*tunnel.Conn); ok {
		t.Reset(&tunnel.Error{Code: tunnel.CodeClient, Message: why}) // arrives behind the bytes; the gateway goes on as below
		return
	}
	if closeWrite(e.far.Conn) == nil {
		within(lingerTimeout, e.answered)
	}
	e.far.Close()
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

// closeWriter is a connection with a half-close: TCP, TLS and tunnel streams.
type closeWriter interface{ CloseWrite() error }

// closeWrite passes a FIN on. Bytes still come the other way.
func closeWrite(c net.Conn) error {
	if cw, ok := c.(closeWriter); ok {
		return cw.CloseWrite()
	}
	return c.Close()
}

// reset ends a connection so that its peer sees a reset and never an end of
// stream: what it has received may be incomplete. why travels with it where c
// is a tunnel stream.
func reset(c net.Conn, why *tunnel.Error) {
	switch c := c.(type) {
	case *tunnel.Conn:
		c.Reset(why)
	case interface{ NetConn() net.Conn }: // TLS
		reset(c.NetConn(), why) // a TLS close would send an alert first: a clean end
	case *net.TCPConn:
		c.SetLinger(0)
		c.Close()
	default:
		c.Close()
	}
}

// within waits for done, for d at most.
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
