package proxy

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Listen is one bootstrap address of an agent. Each has its own listeners for the brokers, on the
// same host.
type Listen struct {
	Bind string // host:port to listen on
	Host string // to write into responses; "" means the host of Bind
	Port int32  // to write into responses, with BrokerNames; 0 means the port of Bind
}

// NodeAddress is the address of one node that is not to have the port of its id.
type NodeAddress struct {
	Bind      string // host:port to listen on
	Advertise string // host:port to write into responses; "" means Bind
}

// endpoint is an address in a response to a client.
type endpoint struct {
	host string
	port int32
}

func (e endpoint) String() string { return net.JoinHostPort(e.host, strconv.Itoa(int(e.port))) }

const (
	maxPort = 65535
	// largeIDs is how many ports the ids share that are too large for Base plus id. It is a prime
	// number, so that ids which count in round steps, such as 1000000, 2000000, get different ports.
	// With the default base, these ports are below those that systems use for outgoing connections.
	largeIDs = 9973
)

// NodePorts are the settings that say where an agent listens for nodes. They alone decide: a node
// has the same port on every agent with these settings, and after every restart.
type NodePorts struct {
	Listens []Listen
	// Base plus a node id is the port of that node, on the host of each of Listens. If that is above
	// 65535, its port is Base plus the remainder of id divided by 9973, or by the number of ports
	// from Base on if there are fewer.
	Base int
	// Exceptions are nodes with another address, by node id.
	Exceptions map[int32]NodeAddress
	// Names, if set, replaces ports of nodes: clients reach all nodes on the port of Listens, under
	// these names.
	Names BrokerNames
}

// Of returns where the agent listens for a node on behalf of the clients of a bootstrap address, an
// index of Listens, and the address that these clients are told.
func (p NodePorts) Of(listen int, id int32) (bind, advertised string, err error) {
	bind, e, err := p.place(listen, id)
	return bind, e.String(), err
}

// Conflicts returns an error for each of these nodes that has the same port as another one. An
// exception comes before all others, then a smaller id before a larger one.
//
// An agent learns of nodes one after another and cannot take a port away from one that has it. So
// there the first counts, and which one that is may differ from agent to agent. Only Exceptions
// help.
func (p NodePorts) Conflicts(ids []int32) (conflicts []*PortConflictError) {
	holders := map[string]int32{}
	if !p.Names.IsZero() {
		return nil
	}
	for _, id := range slices.Compact(slices.Sorted(slices.Values(ids))) {
		for listen := range p.Listens {
			bind, _, err := p.place(listen, id)
			if conflict, ok := errors.AsType[*PortConflictError](err); ok {
				conflicts = append(conflicts, conflict)
				break
			}
			if holder, taken := holders[bind]; taken && holder != id && !anyPort(bind) {
				conflicts = append(conflicts, &PortConflictError{bind, id, holder})
				break
			}
			holders[bind] = id
		}
	}
	return conflicts
}

// PortConflictError says that two nodes have the same port.
type PortConflictError struct {
	Bind   string
	NodeID int32
	Holder int32 // the node that has the port
}

func (e *PortConflictError) Error() string {
	return fmt.Sprintf("listen on %s for broker %d: broker %d has that port", e.Bind, e.NodeID, e.Holder)
}

// place is as Of. If the port is that of an exception, it returns it with a [PortConflictError].
func (p NodePorts) place(listen int, id int32) (bind string, advertised endpoint, err error) {
	if o, ok := p.Exceptions[id]; ok {
		if o.Advertise == "" {
			o.Advertise = o.Bind
		}
		e, err := splitEndpoint(o.Advertise)
		return o.Bind, e, err
	}
	if id < 0 {
		return "", endpoint{}, fmt.Errorf("node id %d is negative", id)
	}
	on := p.Listens[listen]
	if !p.Names.IsZero() {
		advertised, err = splitEndpoint(on.Bind)
		return on.Bind, endpoint{p.Names.Of(id), cmp.Or(on.Port, advertised.port)}, err
	}
	host, _, err := net.SplitHostPort(on.Bind)
	if err != nil {
		return "", endpoint{}, err
	}
	advertised = endpoint{host: on.Host, port: p.port(id)}
	if on.Host == "" {
		advertised.host = host
	}
	bind = endpoint{host, advertised.port}.String()
	for _, holder := range slices.Sorted(maps.Keys(p.Exceptions)) {
		if overlap(p.Exceptions[holder].Bind, bind) {
			return bind, advertised, &PortConflictError{bind, id, holder}
		}
	}
	return bind, advertised, nil
}

// port is the port of a node that is no exception.
func (p NodePorts) port(id int32) int32 {
	if port := int64(p.Base) + int64(id); port <= maxPort {
		return int32(port)
	}
	return int32(p.Base) + id%int32(min(largeIDs, maxPort+1-p.Base))
}

// overlap reports whether two addresses to listen on have the same port of the same host.
func overlap(a, b string) bool {
	hostA, portA, _ := net.SplitHostPort(a)
	hostB, portB, _ := net.SplitHostPort(b)
	return portA == portB && (hostA == hostB || anyHost(hostA) || anyHost(hostB))
}

// anyPort reports whether the system chooses the port.
func anyPort(address string) bool { return strings.HasSuffix(address, ":0") }

// anyHost reports whether listening on host means listening on every address.
func anyHost(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "" || err == nil && ip.Unmap().IsUnspecified()
}

// spareHost returns the host on which another port can stand in for a node's own, if there is one:
// only if clients are on this machine, and nothing between them and the agent maps ports.
func spareHost(bind string, advertised endpoint) (host string, ok bool) {
	host, port, err := net.SplitHostPort(bind)
	if err != nil || port != strconv.Itoa(int(advertised.port)) {
		return "", false
	}
	if strings.EqualFold(advertised.host, "localhost") {
		return host, isLocalhost(host)
	}
	return host, isLoopback(host) && strings.EqualFold(advertised.host, host)
}

// isLocalhost reports whether clients reach host when they connect to localhost.
func isLocalhost(host string) bool {
	return host == "127.0.0.1" || host == "::1" || strings.EqualFold(host, "localhost")
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return isLocalhost(host) || err == nil && ip.Unmap().IsLoopback()
}

func splitEndpoint(address string) (endpoint, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return endpoint{}, err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return endpoint{host, int32(n)}, err
}
