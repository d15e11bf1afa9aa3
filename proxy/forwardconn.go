package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-proxy/culvert/protocol"
	"github.com/culvert-proxy/culvert/proxy/metrics"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

const (
	// forwardQuiet is how long nothing has moved on a connection of a forward that a drain ends.
	// Requests are not known there: it ends the connection if the target has spoken last, as a server
	// of HTTP has when a connection is idle.
	forwardQuiet = time.Second
	// forwardLook is how often a drain looks.
	forwardLook = 100 * time.Millisecond
	// halfOpenTimeout is how long nothing may move on a connection that one side has closed. The other
	// side may have vanished, or never close its own.
	halfOpenTimeout = answerTimeout
)

var errHalfOpen = fmt.Errorf("one side closed the connection, and the other was silent for %s", halfOpenTimeout)

// forwardConn is one connection of a forward, at an agent or a gateway: bytes both ways, as they
// are. A FIN is passed on behind the last byte, and the other direction goes on. Any other end
// resets both sides: what a side has received may be incomplete.
type forwardConn struct {
	near, far *exit // the client's side, and the target's
	counts    *metrics.Forward
	answered  func()        // if set, is called when the first bytes of the target arrive
	downOver  chan struct{} // closed when nothing is relayed to the client any more

	began     time.Time
	connected atomic.Bool  // far has its connection
	moved     atomic.Int64 // when bytes moved last, since began
	upLast    atomic.Bool  // it was the client that sent them
	writing   atomic.Int32 // directions that write what they have read
	draining  atomic.Bool
	outcome   atomic.Pointer[forwardEnd]

	mu    sync.Mutex
	over  bool
	timer *time.Timer // runs look
}

// forwardEnd is why a connection of a forward ended.
type forwardEnd struct {
	cause metrics.Close
	err   error // nil if cause says everything
}

// newForwardConn returns a connection with its client's side only. connect adds the target's.
func newForwardConn(near net.Conn, counts *metrics.Forward) *forwardConn {
	return &forwardConn{near: &exit{conn: &source{Conn: near}}, far: &exit{conn: &source{}}, counts: counts, downOver: make(chan struct{}), began: time.Now()}
}

// connect sets the connection to the target. It must be called before run.
func (c *forwardConn) connect(far net.Conn) {
	c.far.conn.Conn = far
	c.connected.Store(true)
}

// run relays until both directions have ended or ctx is done. Then it closes both sides. It returns
// why they ended.
func (c *forwardConn) run(ctx context.Context) forwardEnd {
	defer c.counts.Enter()()
	defer context.AfterFunc(ctx, func() { c.cut(context.Cause(ctx)) })()
	go c.relayDown()
	c.relayUp()
	<-c.downOver
	c.stopLooking()
	c.near.close()
	c.far.close()
	end := c.why()
	c.counts.Closed(end.cause)
	return end
}

// relayUp relays what the client sends, and ends the target's side.
func (c *forwardConn) relayUp() {
	err := c.relay(c.near.conn, c.far.conn, c.counts.Up, true)
	var write *protocol.WriteError
	switch {
	case err == nil:
		c.note(metrics.CloseClientFIN, nil)
		c.touch()
		c.far.finish()
		c.lookAgain()
	case errors.As(err, &write):
		within(lingerTimeout, c.downOver) // it may have answered before it closed
		c.near.deliver(func() bool { return false })
		c.fail(farCause(write.Err), write.Err)
	default:
		c.fail(nearCause(err), err)
	}
}

// relayDown relays what the target sends, and ends the client's side.
func (c *forwardConn) relayDown() {
	defer close(c.downOver)
	err := c.relay(c.far.conn, c.near.conn, c.counts.Down, false)
	var write *protocol.WriteError
	switch {
	case err == nil:
		c.note(metrics.CloseBrokerFIN, nil)
		c.touch()
		c.near.finish()
		c.lookAgain()
	case errors.As(err, &write):
		c.fail(nearCause(write.Err), write.Err)
	default:
		if e, ok := errors.AsType[*tunnel.Error](err); ok && e.Code == tunnel.CodeDraining {
			c.letThrough()
		}
		c.fail(farCause(err), err)
	}
}

// letThrough waits until the client has taken what was written to it, for deliverTimeout at most. The
// gateway does not see that far when it drains, and the reset that follows drops the rest.
func (c *forwardConn) letThrough() {
	until := time.Now().Add(deliverTimeout)
	for pause := deliverFirst; c.near.has(open) && time.Now().Before(until); pause = min(2*pause, deliverMost) {
		if n, known := undelivered(c.near.conn.Conn); !known || n == 0 {
			return
		}
		time.Sleep(pause)
	}
}

// relay relays one direction until its source ends. It returns nil if that was by a FIN.
func (c *forwardConn) relay(from, to *source, count interface{ Add(float64) }, up bool) error {
	f := protocol.NewFlow(from, to)
	defer f.Release()
	for {
		err := from.await(f, func() bool { return false })
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		n := f.Buffered()
		f.Pass(n)
		if !up && c.answered != nil {
			c.answered()
			c.answered = nil
		}
		count.Add(float64(n))
		c.upLast.Store(up)
		c.writing.Add(1)
		err = f.Flush()
		c.touch()
		c.writing.Add(-1)
		if err != nil {
			return err
		}
	}
}

// touch notes that something has just moved.
func (c *forwardConn) touch() { c.moved.Store(int64(time.Since(c.began))) }

// note records why the connection ends. Only the first call counts: what follows is a consequence.
func (c *forwardConn) note(cause metrics.Close, err error) {
	c.outcome.CompareAndSwap(nil, &forwardEnd{cause, err})
}

// why returns what was noted first.
func (c *forwardConn) why() forwardEnd { return *c.outcome.Load() }

// fail resets both sides, after one of them has failed.
func (c *forwardConn) fail(cause metrics.Close, err error) {
	c.note(cause, err)
	c.abort(forwardError(err), &tunnel.Error{Code: tunnel.CodeClient, Message: "client disconnected: " + err.Error()})
}

// cut resets both sides at once. It may be called from any goroutine.
func (c *forwardConn) cut(why error) { c.kill(metrics.CloseDrain, why) }

// kill is cut for a cause.
func (c *forwardConn) kill(cause metrics.Close, why error) {
	c.note(cause, why)
	c.abort(&tunnel.Error{Code: tunnel.CodeDraining, Message: why.Error()}, &tunnel.Error{Code: tunnel.CodeClient, Message: why.Error()})
}

// abort ends both sides at once, and both directions with them. The other end of a tunnel is told
// why.
func (c *forwardConn) abort(toNear, toFar *tunnel.Error) {
	abortSide(c.near, toNear)
	if c.connected.Load() {
		abortSide(c.far, toFar)
	}
}

// abortSide resets a side. One that has its last byte is still read, so it is closed.
func abortSide(x *exit, why *tunnel.Error) {
	x.reset(why)
	if x.has(finished) {
		x.close()
	}
}

// drain ends the connection as soon as it is idle: see [forwardQuiet]. It does not block.
func (c *forwardConn) drain() {
	c.draining.Store(true)
	c.lookAgain()
}

// lookAgain has look run soon.
func (c *forwardConn) lookAgain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.over:
	case c.timer == nil:
		c.timer = time.AfterFunc(forwardLook, c.look)
	default:
		c.timer.Reset(forwardLook)
	}
}

// look ends a connection that is idle while it drains, or for too long after one side has closed it.
func (c *forwardConn) look() {
	quiet := time.Since(c.began) - time.Duration(c.moved.Load())
	half := c.near.has(finished) || c.far.has(finished)
	switch draining := c.draining.Load(); {
	case draining && !c.upLast.Load() && quiet >= forwardQuiet && c.delivered():
		c.cut(errDraining)
	case half && quiet >= halfOpenTimeout:
		c.kill(metrics.CloseBrokerReset, errHalfOpen)
	case draining:
		c.lookAfter(forwardLook)
	case half:
		c.lookAfter(halfOpenTimeout - quiet)
	}
}

// delivered reports whether nothing is on its way, as far as the system says so: a reset would drop
// what a client that reads slowly has not taken.
func (c *forwardConn) delivered() bool {
	if c.writing.Load() > 0 {
		return false
	}
	n, known := undelivered(c.near.conn.Conn)
	return !known || n == 0
}

func (c *forwardConn) lookAfter(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.over {
		c.timer.Reset(d)
	}
}

// stopLooking says that the connection is over.
func (c *forwardConn) stopLooking() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	if c.timer != nil {
		c.timer.Stop()
	}
}

// forwardError returns the error to send to the agent.
func forwardError(err error) *tunnel.Error {
	if e, ok := errors.AsType[*tunnel.Error](err); ok {
		return e
	}
	return &tunnel.Error{Code: tunnel.CodeBroker, Message: "connection to the target: " + err.Error()}
}
