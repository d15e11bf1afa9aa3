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

// brokerDialer decides which addresses a gateway dials for an agent, and dials them: bootstrap
// brokers, what a ticket names, and what a setting allows. An agent alone cannot make a gateway
// dial anything else.
type brokerDialer struct {
	brokers *Brokers
	signer  *signer
	metrics *metrics.Metrics
	names   hints.Names
}

// dial connects to the target that an agent asks for, if the gateway may dial it. It also returns
// the node id, or [metrics.Bootstrap] or [metrics.UnknownNode].
func (d brokerDialer) dial(ctx context.Context, open tunnel.Open) (net.Conn, int32, *tunnel.Error) {
	if open.Target == tunnel.TargetBootstrap {
		c, err := d.brokers.dialBootstrap(ctx)
		return c, metrics.Bootstrap, dialError(err, d.names)
	}
	node, err := d.mayDial(open)
	if err != nil {
		return nil, node, err
	}
	c, failed := d.brokers.dial(ctx, open.Target)
	return c, node, dialError(failed, d.names)
}

// mayDial returns why a target may not be dialled, or nil, and the node id that its ticket names. A
// bad ticket is not fatal: a setting may allow the address as well.
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
			return metrics.UnknownNode, &tunnel.Error{Code: tunnel.CodeTicket, Message: fmt.Sprintf("%s may not be dialled: %v", open.Target, err), Remedy: d.remedy(err)}
		}
	}
	if !d.brokers.allowed(to) {
		return metrics.UnknownNode, &tunnel.Error{Code: tunnel.CodeTarget, Message: d.names.Sprintf("%s may not be dialled: the agent has no ticket for it, and no %s allows it", open.Target, hints.AllowBroker),
			Remedy: d.names.Sprintf("a ticket comes with the metadata that names the address: does a broker advertise it? If not, %s of the gateway can allow it", hints.AllowBroker)}
	}
	return metrics.UnknownNode, nil
}

// remedy is what the gateway's operator can do about the error of a ticket.
func (d brokerDialer) remedy(err error) string {
	if errors.Is(err, errTicketInvalid) {
		return d.names.Sprintf("all replicas must share one %s; without it, each start makes a new key", hints.TicketKeyFile)
	}
	return ""
}
