package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/culvert-proxy/culvert/proxy"
)

// checkPorts refuses ports that do not exist and ports that two listeners of
// this agent would need.
func (f *agentFlags) checkPorts(p *agentPlan) error {
	if f.BrokerPortBase < 1 || f.BrokerPortBase > maxPort {
		return wrong("leave it out for 19092", "--broker-port-base %d: ports are between 1 and %d", f.BrokerPortBase, maxPort)
	}
	if err := checkAdmin(f.AdminListen, f.AdminHost); err != nil {
		return err
	}
	nodes, err := f.nodeSockets(p)
	if err != nil {
		return err
	}
	sockets := f.ownSockets(p)
	for i, s := range sockets {
		if t, clash := s.clash(nodes); clash {
			return wrong("choose another port, or say with --expect-nodes which node ids there are", "%s: port %d is that of %s", s.why, s.port, t.why)
		}
		if t, clash := s.clash(sockets[:i]); clash {
			return wrong("choose another port for one of them", "%s: port %d is that of %s", s.why, s.port, t.why)
		}
	}
	return nil
}

// ownSockets are the listeners that belong to no port range.
func (f *agentFlags) ownSockets(p *agentPlan) []socket {
	var all []socket
	add := func(flag, address, written string) {
		if host, port, err := splitAddress(address, 0); err == nil {
			all = append(all, socket{host, port, flag + " " + written})
		}
	}
	for _, l := range p.listens {
		add("--listen", l.Bind, l.Bind)
	}
	for _, id := range sortedIDs(p.nodes) {
		add("--node-address", p.nodes[id].Bind, fmt.Sprintf("%d=%s", id, p.nodes[id].Bind))
	}
	add("--admin-listen", f.AdminListen, f.AdminListen)
	return all
}

// nodeSockets are the listeners of the nodes that are expected or, when none
// are, of those that small clusters have.
func (f *agentFlags) nodeSockets(p *agentPlan) ([]socket, error) {
	ids := p.expect
	for id := int32(0); len(p.expect) == 0 && id < assumedNodes; id++ {
		ids = append(ids, id)
	}
	var all []socket
	for _, id := range ids {
		if _, elsewhere := p.nodes[id]; elsewhere {
			continue
		}
		port := f.BrokerPortBase + int(id)
		if port > maxPort && len(p.expect) > 0 {
			return nil, wrong(fmt.Sprintf("lower --broker-port-base, or place the node with --node-address %d=127.0.0.1:PORT", id),
				"--expect-nodes %d: with --broker-port-base %d it would listen on port %d, and ports end at %d", id, f.BrokerPortBase, port, maxPort)
		}
		for _, l := range p.listens {
			all = append(all, socket{bindHost(l), port, fmt.Sprintf("node %d (--broker-port-base %d)", id, f.BrokerPortBase)})
		}
	}
	return all, nil
}

func sortedIDs(nodes map[int32]proxy.NodeAddress) []int32 {
	var ids []int32
	for id := range nodes {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// socket is a listener that is going to be opened, and what asked for it.
type socket struct {
	host string
	port int
	why  string
}

// overlaps reports whether not both can be opened.
func (s socket) overlaps(t socket) bool {
	return s.port == t.port && s.port != 0 && sameHost(s.host, t.host)
}

// clash returns the first of others that cannot be opened beside s.
func (s socket) clash(others []socket) (t socket, found bool) {
	i := slices.IndexFunc(others, s.overlaps)
	if i < 0 {
		return socket{}, false
	}
	return others[i], true
}

func sameHost(a, b string) bool {
	if isWildcard(a) || isWildcard(b) {
		return true
	}
	return canonicalHost(a) == canonicalHost(b)
}

func canonicalHost(host string) string {
	host = strings.ToLower(host)
	if host == "localhost" {
		return "127.0.0.1"
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.Unmap().String()
	}
	return host
}
