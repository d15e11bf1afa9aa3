package proxy

import (
	"context"
	"io"
	"net"
	"time"

	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// Open opens one stream as an agent does, for diagnosis. It leads to an address that a broker has
// named, with the ticket for it, or to a bootstrap broker if address is empty. onTicket is called,
// during reads of the stream, with each ticket that arrives; it may be nil. The caller closes the
// stream, which then ends as when a client disconnects, so that the gateway does not warn of a cut.
func Open(ctx context.Context, up Upstream, address string, ticket *tunnel.Ticket, onTicket func(tunnel.Ticket)) (net.Conn, error) {
	if onTicket == nil {
		onTicket = func(tunnel.Ticket) {}
	}
	c, _, err := up.dial(ctx, destination{address: address, ticket: ticket, onTicket: onTicket, probe: true})
	if err != nil {
		return nil, err
	}
	return finishingConn{c}, nil
}

// finishingConn sends a FIN before it is closed: a tunnel stream that is closed without one is cut.
type finishingConn struct{ net.Conn }

// finishTimeout bounds how long Close waits for the FIN to be sent.
const finishTimeout = time.Second

func (c finishingConn) Close() error {
	c.SetWriteDeadline(time.Now().Add(finishTimeout)) // the caller's may be over
	closeWrite(c.Conn)
	return c.Conn.Close()
}

// Places returns the addresses on which an agent with these settings listens for a node, for
// diagnosis. It opens nothing. It returns an error if the settings have no place for the node.
func (a *Agent) Places(id int32) ([]string, error) {
	ports := a.nodePorts()
	var binds []string
	for i := range a.Listens {
		bind, _, err := ports.Of(i, id)
		if err != nil {
			return nil, err
		}
		if len(binds) == 0 || bind != binds[0] { // a NodeAddress is the same for all bootstrap addresses
			binds = append(binds, bind)
		}
	}
	return binds, nil
}

// HasSparePort reports whether an agent with these settings serves a node on another port while one
// of its places is taken, for diagnosis.
func (a *Agent) HasSparePort(id int32, place string) bool {
	ports := a.nodePorts()
	for i := range a.Listens {
		if bind, told, err := ports.place(i, id); err == nil && bind == place {
			_, ok := spareHost(bind, told)
			return ok
		}
	}
	return false
}

// PortConflicts returns those of these nodes that have the same port as another one of them, for
// diagnosis: see [NodePorts.Conflicts].
func (a *Agent) PortConflicts(ids []int32) []*PortConflictError { return a.nodePorts().Conflicts(ids) }

// Remembered returns the nodes of the last run, from the state file, for diagnosis: an agent with
// these settings opens their ports when it starts.
func (a *Agent) Remembered() ([]tunnel.Ticket, error) {
	if a.StateFile == "" {
		return nil, nil
	}
	s, err := readState(a.StateFile)
	if err != nil {
		return nil, err
	}
	c, _ := s.of(a.Upstream.name())
	return c.Nodes, nil
}

// OfferedForwards returns the names of the forwards that a gateway with this answer to a hello
// offers, for diagnosis. A gateway that knows no forwards is an error.
func OfferedForwards(answer tunnel.Opened) ([]string, error) {
	if answer.Forwards == nil {
		return nil, &notOffered{gateway: answer.Gateway}
	}
	return answer.Forwards, nil
}

// TryForward has a gateway connect to what a forward leads to, for diagnosis, and returns why it
// could not. No bytes are sent there.
func TryForward(ctx context.Context, up Upstream, name string) error {
	c, _, err := up.dial(ctx, destination{forward: name, probe: true})
	if err != nil {
		return err
	}
	defer finishingConn{c}.Close()
	defer context.AfterFunc(ctx, func() { c.SetReadDeadline(time.Unix(1, 0)) })()
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		return err
	}
	return nil
}
