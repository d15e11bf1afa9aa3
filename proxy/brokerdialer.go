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

// dial connects to a target that mayDial allows.
func (d brokerDialer) dial(ctx context.Context, target string) (net.Conn, *tunnel.Error) {
	if target == tunnel.TargetBootstrap {
		c, err := d.brokers.dialBootstrap(ctx)
		return c, dialError(err, d.names)
	}
	c, err := d.brokers.dial(ctx, target)
	return c, dialError(err, d.names)
}

// mayDial returns why the target that an agent asks for may not be dialled, or nil, and the node id
// that its ticket names, or [metrics.Bootstrap] or [metrics.UnknownNode]. A bad ticket is not fatal:
// a setting may allow the address as well.
func (d brokerDialer) mayDial(open tunnel.Open) (node int32, refused *tunnel.Error) {
	if open.Target == tunnel.TargetBootstrap {
		return metrics.Bootstrap, nil
	}
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
