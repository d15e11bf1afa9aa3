package proxy

import (
	"context"
	"errors"
	"net"

	"github.com/culvert-proxy/culvert/proxy/metrics"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// agentForwardConn is a client's connection to a forward, at the agent. serveForward owns it.
type agentForwardConn struct {
	*forwardConn
	stop context.CancelCauseFunc // ends what serveForward is waiting for
}

// kill resets the connection, and stops what serveForward is waiting for. Any goroutine may call it.
func (c *agentForwardConn) kill(cause metrics.Close, why error) {
	c.note(cause, why)
	c.stop(why)
	c.near.reset(nil)
}

// serveForward returns what serves the clients of a forward.
func (a *Agent) serveForward(f *forward) serveFunc {
	return func(ctx context.Context, nc net.Conn) {
		defer nc.Close()
		ctx, stop := context.WithCancelCause(ctx)
		defer stop(nil)
		log := a.Logger.With("client_addr", nc.RemoteAddr(), "listener", nc.LocalAddr(), "forward", f.Name)
		c := &agentForwardConn{newForwardConn(nc, f.counts), stop}
		c.answered = func() { f.reached(log) }
		a.clients.add(c)
		defer a.clients.remove(c)
		var err error
		onOwnStack(func() { err = a.openForward(ctx, c, f) })
		if err != nil {
			c.note(metrics.CloseDial, err)
			f.counts.Closed(c.why().cause)
			if c.why().cause == metrics.CloseDial {
				f.failed(log, err)
			}
			c.near.reset(nil)
			return
		}
		defer a.Metrics.Stream(c.far.conn.Conn.(*tunnel.Conn).Transport())()
		end := c.run(ctx)
		log.Debug("forward closed", "cause", end.cause.OfForward(), "err", end.err)
		if told, ok := errors.AsType[*tunnel.Error](end.err); ok && (told.Code == tunnel.CodeDial || told.Code == tunnel.CodeTarget) {
			f.failed(log, told)
		}
	}
}

// openForward opens a stream to a forward. That the gateway answers says nothing about the target,
// which it dials afterwards.
func (a *Agent) openForward(ctx context.Context, c *agentForwardConn, f *forward) error {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	far, _, err := a.Upstream.dial(ctx, destination{forward: f.Name})
	if err != nil {
		return errNoStream("forward "+f.Name, err)
	}
	c.connect(far)
	return nil
}

// checkForwards reports forwards that the gateway does not offer, before a client finds out. If
// there are several gateways, another one may offer them.
func (a *Agent) checkForwards(answer tunnel.Opened) {
	if len(a.Upstream.states()) != 1 {
		return
	}
	for _, f := range a.forwards {
		if err := checkOffered(f.Name, answer); err != nil {
			f.failed(a.Logger.With("forward", f.Name), err)
		}
	}
}
