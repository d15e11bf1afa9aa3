package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/culvert-proxy/culvert/proxy"
	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/printable"
)

// ports are those of an agent that were examined.
type ports struct {
	nodes map[int32]bool
	agent holder // the agent that runs with the same settings and has the bootstrap port, if one does
	// taken are the bootstrap addresses that this agent has, or a program that is not known. A
	// Metadata request shows what it is.
	taken []proxy.Listen
	later []int32         // nodes whose ports are examined when that is known
	given map[int32]int32 // the ports that the agent names to clients, by node
}

// holder is the process that listens on a port.
type holder struct {
	pid           int    // 0: not known
	untold        string // why it is not known
	name          string
	args, environ []string // nil if they cannot be read
	dir           string   // its working directory; "" if that cannot be read
	connected     bool     // it does not listen: its end of a connection has the port
}

func (h holder) String() string {
	return fmt.Sprintf("%s, process %d", printable.Text(h.name, printable.Name), h.pid)
}

// portOfNode begins the hop of a node's port.
const portOfNode = "port node "

// Local examines what the agent needs of this machine: its ports, and those of the nodes that are
// known before a broker has answered; and TLS with its clients.
func (d *Doctor) Local(ctx context.Context) {
	for _, l := range d.Agent.Listens {
		d.examining("listen")
		d.report(timed(ctx, "listen", func(context.Context) Finding { return d.bootstrapPort(l) }))
	}
	for _, f := range d.Agent.Forwards {
		hop := "port of " + f.Name
		d.examining(hop)
		d.report(timed(ctx, hop, func(context.Context) Finding { return d.forwardPort(f) }))
	}
	ids := slices.Clone(d.Agent.ExpectNodes)
	remembered, err := d.Agent.Remembered()
	if err != nil {
		d.report(Finding{Hop: "state file", Result: Warn, Text: err.Error(), Remedy: "the agent starts without it, and writes a new one"})
	}
	for _, t := range remembered {
		ids = append(ids, t.NodeID)
	}
	if len(d.ports.taken) > 0 && d.ports.agent.pid == 0 {
		d.ports.later = ids
	} else {
		d.nodePorts(ctx, ids)
	}
	d.clientTLS(ctx)
}

// bootstrapPort examines an address that clients are configured with.
func (d *Doctor) bootstrapPort(l proxy.Listen) Finding {
	h, err := d.tryPort(l.Bind)
	switch {
	case err == nil:
		return ok("%s is free for an agent", l.Bind)
	case !errors.Is(err, syscall.EADDRINUSE):
	case h.pid != 0 && d.same(h):
		d.ports.agent, d.ports.taken = h, append(d.ports.taken, l)
		return ok("the agent that runs with these settings (process %d) listens on %s", h.pid, l.Bind)
	case h.pid == 0:
		d.ports.taken = append(d.ports.taken, l)
		return Finding{Result: Warn, Text: fmt.Sprintf("%s is taken; %s", l.Bind, h.untold), Remedy: "is it an agent with these settings? See " + showListener(l.Bind)}
	}
	return d.taken(l.Bind, h, err).or(d.Names.Sprintf("end that program, or choose another address with %s", hints.Listen))
}

// same reports whether a process is an agent with our settings.
func (d *Doctor) same(h holder) bool {
	return d.SameAgent != nil && d.SameAgent(h.args, h.environ, h.dir)
}

// tryPort binds an address and closes it at once. If that fails, h is the process that has it.
func (d *Doctor) tryPort(bind string) (h holder, err error) {
	listen := d.listens
	if listen == nil {
		listen = net.Listen
	}
	ln, err := listen("tcp", bind)
	if err == nil {
		return h, ln.Close()
	}
	if errors.Is(err, syscall.EADDRINUSE) {
		if h = holderOf(bind); d.blind {
			h = holder{untold: "for this test, nobody knows who has it"}
		}
	}
	return h, err
}

// taken is the finding of an address that cannot be bound.
func (d *Doctor) taken(bind string, h holder, err error) Finding {
	switch {
	case !errors.Is(err, syscall.EADDRINUSE):
		return Finding{Result: Fail, Text: fmt.Sprintf("listen on %s: %v", bind, withoutAddress(err)), brief: "cannot be bound"}
	case h.connected:
		return Finding{
			Result: Fail, Text: fmt.Sprintf("%s is used by %s for an outgoing connection", bind, h), brief: "is taken by another program",
			Remedy: "the port is free when that connection ends; on Linux, ports below 32768 are not used for outgoing connections by default",
		}
	case h.pid != 0:
		return Finding{Result: Fail, Text: fmt.Sprintf("%s is taken by %s", bind, h), brief: "is taken by another program"}
	}
	return Finding{Result: Fail, Text: fmt.Sprintf("%s is taken; %s", bind, h.untold), Remedy: "see " + showListener(bind), brief: "is taken by another program"}
}

// withoutAddress drops the address from an error of package net.
func withoutAddress(err error) error {
	if e, ok := errors.AsType[*net.OpError](err); ok {
		return e.Err
	}
	return err
}

// showListener is this system's command that shows which process listens on the port of an address.
func showListener(bind string) string {
	_, port, _ := net.SplitHostPort(bind)
	switch runtime.GOOS {
	case "windows":
		return "netstat -ano | findstr :" + port
	case "linux":
		return "sudo ss -ltnp 'sport = :" + port + "'"
	}
	return "lsof -nP -iTCP:" + port + " -sTCP:LISTEN"
}

// nodePorts examines the ports of nodes, each of them once, or their names if they have those. What
// is well is one finding, and each node that is not gets its own.
func (d *Doctor) nodePorts(ctx context.Context, ids []int32) {
	switch {
	case d.Agent == nil:
		return
	case !d.Agent.BrokerNames.IsZero():
		d.nodeNames(ctx, ids)
		return
	}
	if d.ports.nodes == nil {
		d.ports.nodes = map[int32]bool{}
	}
	conflicts := map[int32]error{}
	for _, c := range d.Agent.PortConflicts(slices.Concat(ids, slices.Collect(maps.Keys(d.ports.nodes)))) {
		conflicts[c.NodeID] = c
	}
	var free, agents []string
	for _, id := range slices.Sorted(maps.Keys(set(ids))) {
		if d.ports.nodes[id] || len(d.ports.nodes) >= maxNodes {
			continue
		}
		d.ports.nodes[id] = true
		binds, err := d.Agent.Places(id)
		if err = cmp.Or(err, conflicts[id]); err != nil {
			d.report(Finding{
				Hop: portOfNode + strconv.Itoa(int(id)), Result: Fail, Text: err.Error(), brief: "is missing",
				Remedy: d.Names.Sprintf("give the node an address of its own: %s %d=127.0.0.1:PORT", hints.NodeAddress, id),
			})
			continue
		}
		for _, bind := range binds {
			switch f, agent := d.nodePort(id, bind); {
			case f.Result != OK:
				d.report(f)
			case agent:
				agents = append(agents, f.Text)
			default:
				free = append(free, f.Text)
			}
		}
	}
	d.reportPorts("free", free)
	d.reportPorts("the running agent listens for", agents)
}

// nodePort examines one address of a node, and reports whether the running agent has it.
func (d *Doctor) nodePort(id int32, bind string) (f Finding, agent bool) {
	h, err := d.tryPort(bind)
	agent = err != nil && (h.pid != 0 && h.pid == d.ports.agent.pid || h.pid == 0 && d.ports.gives(id, bind))
	switch {
	case err == nil, agent:
		return ok("node %d at %s", id, bind), agent
	case h.pid == 0 && errors.Is(err, syscall.EADDRINUSE) && d.ports.mayBeAgent():
		f = Finding{Result: Warn, Text: fmt.Sprintf("%s is taken; %s", bind, h.untold), Remedy: "is it the agent? See " + showListener(bind)}
	default:
		f = d.taken(bind, h, err).or(d.Names.Sprintf("end that program, move all nodes with %s, or give this one an address: %s %d=127.0.0.1:PORT",
			hints.BrokerPortBase, hints.NodeAddress, id))
	}
	if f.Result == Fail && d.Agent.HasSparePort(id, bind) {
		f.Result = Warn
		f.Text += "; until it is free, the agent gives clients another port for this node"
	}
	f.Hop = portOfNode + strconv.Itoa(int(id))
	return f, false
}

// gives reports whether the running agent names the port of an address to clients, for that node.
func (p *ports) gives(id int32, bind string) bool {
	port, known := p.given[id]
	return known && strings.HasSuffix(bind, ":"+strconv.Itoa(int(port)))
}

// mayBeAgent reports whether an agent may be running of which nothing is known.
func (p *ports) mayBeAgent() bool { return len(p.taken) > 0 && p.agent.pid == 0 && p.given == nil }

func (d *Doctor) reportPorts(what string, places []string) {
	if len(places) == 0 {
		return
	}
	f := ok("%s: %s", what, listed(places))
	f.Hop = "node ports"
	d.report(f)
}

// listed names the first maxNamed of a list.
func listed(names []string) string {
	if n := len(names) - maxNamed; n > 0 {
		return strings.Join(names[:maxNamed], ", ") + fmt.Sprintf(" and %d more", n)
	}
	return strings.Join(names, ", ")
}

func set(ids []int32) map[int32]bool {
	s := map[int32]bool{}
	for _, id := range ids {
		s[id] = true
	}
	return s
}
