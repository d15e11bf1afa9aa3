package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/metrics"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// brokerDialer decides which brokers a gateway dials for an agent, and dials them.
type brokerDialer struct {
	brokers *Brokers
	signer  *signer
	metrics *metrics.Metrics
	names   hints.Names
}

// dial connects to what the agent asks for, if it may be.
func (d brokerDialer) dial(ctx context.Context, open tunnel.Open) (net.Conn, int32, *tunnel.Error) {
	if open.Target == tunnel.TargetBootstrap {
		c, err := d.brokers.dialBootstrap(ctx)
		return c, metrics.Bootstrap, dialError(err)
	}
	node, err := d.mayDial(open)
	if err != nil {
		return nil, node, err
	}
	c, failed := d.brokers.dial(ctx, open.Target)
	return c, node, dialError(failed)
}

// mayDial reports why a target may not be dialled, and which node it is where a
// ticket says so.
func (d brokerDialer) mayDial(open tunnel.Open) (node int32, refused *tunnel.Error) {
	to, bad := parseTarget(open.Target)
	if bad != nil {
		return metrics.UnknownNode, &tunnel.Error{Code: tunnel.CodeTarget, Message: fmt.Sprintf("%q may not be dialled: %v", open.Target, bad)}
	}
	if t := open.Ticket; t != nil {
		err := d.signer.verify(t, open.Target, time.Now())
		switch {
		case err == nil:
			d.metrics.Ticket(metrics.TicketAccepted)
			return t.NodeID, nil
		case errors.Is(err, errTicketExpired):
			d.metrics.Ticket(metrics.TicketExpired)
		default:
			d.metrics.Ticket(metrics.TicketInvalid)
		}
		if !d.brokers.allowed(to) {
			return metrics.UnknownNode, &tunnel.Error{Code: tunnel.CodeTicket, Message: fmt.Sprintf("%s may not be dialled: %v", open.Target, d.explain(err))}
		}
	}
	if !d.brokers.allowed(to) {
		return metrics.UnknownNode, &tunnel.Error{Code: tunnel.CodeTarget, Message: d.names.Sprintf("%s may not be dialled: no broker has named it to the agent, and no %s does", open.Target, hints.AllowBroker)}
	}
	return metrics.UnknownNode, nil
}

// explain says why a ticket is no good, with what a gateway's operator can do.
func (d brokerDialer) explain(err error) error {
	if errors.Is(err, errTicketInvalid) {
		return fmt.Errorf("%w; %s", err, d.names.Sprintf("replicas must share %s, and a restart without one makes a new key", hints.TicketKeyFile))
	}
	return err
}

func dialError(err error) *tunnel.Error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errNotAllowed):
		return &tunnel.Error{Code: tunnel.CodeTarget, Message: err.Error()}
	}
	return &tunnel.Error{Code: tunnel.CodeDial, Message: err.Error()}
}
