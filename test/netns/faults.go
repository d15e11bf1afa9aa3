package netns

import (
	"errors"
	"fmt"
	"strings"
)

// A Fault is what the router does to packets until it is lifted.
type Fault struct {
	name string
	rule string // of iptables, for the chain FORWARD
}

func (f Fault) String() string { return f.name }

// The faults.
var (
	// UDPDropped is a firewall that drops UDP silently.
	UDPDropped = Fault{"UDP dropped", "-p udp -j DROP"}

	// UDPRejected is a firewall that rejects UDP with ICMP.
	UDPRejected = Fault{"UDP rejected", "-p udp -j REJECT --reject-with icmp-admin-prohibited"}

	// UDPFirstLost drops only the first UDP packet.
	UDPFirstLost = Fault{"first UDP packet lost", "-p udp -m statistic --mode nth --every 1000000000 --packet 0 -j DROP"}

	// UDPStalls passes only the first 20 packets of every UDP flow: a handshake succeeds, and then
	// nothing comes.
	UDPStalls = Fault{"UDP stalls", "-p udp -m connbytes --connbytes 21: --connbytes-dir both --connbytes-mode packets -j DROP"}

	// UDPPoliced drops UDP beyond 300 packets a second, as networks do that take it for an attack.
	// A burst of 300 passes, so that handshakes get through.
	UDPPoliced = Fault{"UDP policed", "-p udp -m hashlimit --hashlimit-name udp --hashlimit-above 300/sec --hashlimit-burst 300 --hashlimit-mode dstip -j DROP"}

	// BlackHole drops every packet silently.
	BlackHole = Fault{"black hole", "-j DROP"}
)

// Inject gives the router a fault.
func (n *Network) Inject(f Fault) error { return n.forward("-A", f) }

// Lift ends a fault.
func (n *Network) Lift(f Fault) error { return n.forward("-D", f) }

func (n *Network) forward(verb string, f Fault) error {
	if err := n.router.iptables(append([]string{verb, "FORWARD"}, strings.Fields(f.rule)...)...); err != nil {
		return fmt.Errorf("%s: %w", f.name, err)
	}
	return nil
}

// natWidth is how many ports the router's NAT uses at a time.
const natWidth = 1000

// Rebind adds a NAT in front of the client. If there is one, it loses its mappings, as a home
// router does when it is restarted: the next packet of each flow comes from another port.
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

// Move gives the client another address, like a laptop that changes networks. In between it calls
// offline, if not nil, while there is no network.
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

// KillSockets resets the namespace's TCP connections to addr.
func (ns *Namespace) KillSockets(filter ...string) error {
	return ns.run("", "ss", append([]string{"-K"}, filter...)...)
}
