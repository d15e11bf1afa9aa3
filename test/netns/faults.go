package netns

import (
	"errors"
	"fmt"
	"strings"
)

// A Fault is what the router does to packets, until it is lifted.
type Fault struct {
	name string
	rule string // of iptables, for the chain FORWARD
}

func (f Fault) String() string { return f.name }

// The faults.
var (
	// UDPDropped is the firewall that passes no UDP and says nothing.
	UDPDropped = Fault{"UDP dropped", "-p udp -j DROP"}

	// UDPRejected is the firewall that passes no UDP and says so, by ICMP.
	UDPRejected = Fault{"UDP rejected", "-p udp -j REJECT --reject-with icmp-admin-prohibited"}

	// UDPFirstLost loses one packet of UDP, the first.
	UDPFirstLost = Fault{"first UDP packet lost", "-p udp -m statistic --mode nth --every 1000000000 --packet 0 -j DROP"}

	// UDPStalls passes the first 20 packets of every UDP flow, and no more: a handshake succeeds,
	// and then nothing comes.
	UDPStalls = Fault{"UDP stalls", "-p udp -m connbytes --connbytes 21: --connbytes-dir both --connbytes-mode packets -j DROP"}

	// BlackHole passes nothing. No socket is told.
	BlackHole = Fault{"black hole", "-j DROP"}
)

// Inject makes the router have a fault.
func (n *Network) Inject(f Fault) error { return n.forward("-A", f) }

// Lift ends a fault.
func (n *Network) Lift(f Fault) error { return n.forward("-D", f) }

func (n *Network) forward(verb string, f Fault) error {
	if err := n.router.iptables(append([]string{verb, "FORWARD"}, strings.Fields(f.rule)...)...); err != nil {
		return fmt.Errorf("%s: %w", f.name, err)
	}
	return nil
}

// natWidth is how many ports of the router NAT uses at a time.
const natWidth = 1000

// Rebind puts NAT before the client, or, where it is already, makes it forget everything, as home
// routers do when they are switched off and on: the server sees the next packet of each flow come
// from another port.
func (n *Network) Rebind() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	before := n.natPorts
	n.natPorts = max(before+natWidth, 20000)
	if err := n.nat("-A", n.natPorts); err != nil || before == 0 {
		return err
	}
	return errors.Join(n.nat("-D", before), n.router.run("", "conntrack", "-F"))
}

func (n *Network) nat(verb string, ports int) error {
	for _, protocol := range []string{"udp", "tcp"} {
		if err := n.router.iptables("-t", "nat", verb, "POSTROUTING", "-o", toServer, "-p", protocol,
			"-j", "SNAT", "--to-source", fmt.Sprintf("%s:%d-%d", serverGateway, ports, ports+natWidth-1)); err != nil {
			return err
		}
	}
	return nil
}

// Move gives the client another address, as to a laptop that changes from one network to another.
// Between them it runs offline, if that is not nil, while there is no network at all.
func (n *Network) Move(offline func()) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	old := n.clientIP
	n.clientIP = "10.99.1.3"
	if old == n.clientIP {
		n.clientIP = ClientIP
	}
	leave := []string{"address delete " + old + "/24 dev " + uplink}
	arrive := []string{"address add " + n.clientIP + "/24 dev " + uplink, "route replace default via " + clientGateway}
	if offline == nil {
		return n.Client.ip(append(leave, arrive...)...)
	}
	if err := n.Client.ip(append(leave, "link set dev "+uplink+" down")...); err != nil {
		return err
	}
	offline()
	return n.Client.ip(append([]string{"link set dev " + uplink + " up"}, arrive...)...)
}

// KillSockets resets the connections to addr of TCP sockets in a namespace.
func (ns *Namespace) KillSockets(filter ...string) error {
	return ns.run("", "ss", append([]string{"-K"}, filter...)...)
}
