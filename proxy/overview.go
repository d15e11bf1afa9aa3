package proxy

import (
	"cmp"
	"maps"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/metrics"
	"github.com/culvert-proxy/culvert/proxy/printable"
	"github.com/culvert-proxy/culvert/proxy/status/document"
)

// Status returns what /status shows of this agent: all but what only its caller knows, which is the
// build, the credentials, the events and the other listeners. It may be called at any time, from any
// goroutine.
func (a *Agent) Status() document.Document {
	d := newDocument(document.Agent, a.Metrics, a.Names)
	d.State = processState(&a.watch, a.clients.drainingSince(), a.Ready())
	bound := a.bound.Load()
	if bound == nil {
		return d
	}
	d.Clients.Connections = int(a.clients.count.Load())
	d.Listeners = a.kafkaListeners(*bound)
	d.Tunnels = append(d.Tunnels, a.Upstream.tunnels()...)
	if at := a.Upstream.certificateExpires(); !at.IsZero() {
		d.Credentials = append(d.Credentials, document.Credential{
			Setting: a.Names.Of(hints.GatewayURL), Kind: "certificate", Expires: document.At(at), Left: time.Until(at).Seconds(),
		})
	}
	d.Forwards = shownForwards(a.forwards)
	cluster, nodes := a.nodes.show()
	d.Cluster.ID, d.Cluster.Bootstrap = printable.Text(cluster, printable.Name), append(d.Cluster.Bootstrap, a.Upstream.bootstrap()...)
	open := a.Metrics.Connections()
	d.Nodes = sortedNodes(nodes, func(n *document.Node) {
		a.watch.showNode(strconv.Itoa(int(n.ID)), n)
		n.Connections = open[n.ID]
	})
	return d
}

// Status is as [Agent.Status], of this gateway.
func (g *Gateway) Status() document.Document {
	d := newDocument(document.Gateway, g.Metrics, g.Names)
	server := g.server.Load()
	if server == nil {
		d.State = document.State{Name: document.Starting, Why: errNotAsked.Error()}
		return d
	}
	d.State = processState(&g.watch, g.relays.drainingSince(), g.Ready())
	if missing := g.Missing(); missing != nil && d.State.Name == document.Ready {
		d.State.Missing = printable.Text(missing.Error(), printable.Record)
	}
	d.Clients.Connections = g.relays.count()
	carriers := carriersOf(server.CarrierStats())
	connections := 0
	for _, c := range carriers {
		connections += c.Connections
	}
	d.Listeners = []document.Listener{{Name: "tunnel", Address: g.listening, Protocols: g.transports, Connections: connections}}
	d.Tunnels = []document.Tunnel{{Tried: []document.Tried{}, Carriers: carriers}}
	d.Forwards = shownForwards(g.forwards.all)
	cluster, nodes := g.tickets.relayed.show()
	d.Cluster = document.Cluster{ID: printable.Text(cluster, printable.Name), Bootstrap: g.Brokers.Bootstrap}
	open := g.Metrics.Connections()
	d.Nodes = sortedNodes(nodes, func(n *document.Node) {
		g.watch.showNode(n.Advertised, n)
		n.Connections = open[n.ID]
	})
	return d
}

// limitSettings are the settings that raise limits.
var limitSettings = map[metrics.Limit]hints.Setting{
	metrics.LimitConnections:        hints.MaxConnections,
	metrics.LimitStreams:            hints.MaxStreams,
	metrics.LimitStreamsPerIdentity: hints.MaxStreamsPerIdentity,
	metrics.LimitSparesPerIdentity:  hints.MaxSparesPerIdentity,
	metrics.LimitMemory:             hints.MaxMemory,
}

// newDocument returns a document with what the metrics tell.
func newDocument(end string, m *metrics.Metrics, names hints.Names) document.Document {
	over, total, apis := m.APIs()
	limits := m.Limits()
	for i, l := range limits {
		if raises, has := limitSettings[metrics.LimitOf(l.Name)]; has {
			limits[i].Setting = names.Of(raises)
		}
	}
	return document.Document{
		Version: document.Version, Time: time.Now().UTC(), End: end,
		Window: over.Seconds(), Total: total, APIs: apis, Closes: m.Closes(), Refusals: m.Refusals(),
		// Lists are written as lists also where they are empty.
		Listeners: []document.Listener{}, Tunnels: []document.Tunnel{}, Cluster: document.Cluster{Bootstrap: []string{}}, Nodes: []document.Node{},
		Forwards: []document.Forward{}, Credentials: []document.Credential{}, Limits: limits, Events: []document.Event{},
	}
}

// processState says whether clients get answers; ready is what /readyz says.
func processState(w *brokerWatch, draining time.Time, ready error) document.State {
	ever, _ := w.state()
	s := document.State{Name: document.NotReady, Since: w.changed().UTC()}
	switch {
	case !draining.IsZero():
		s.Name, s.Since = document.Draining, draining.UTC()
	case ready == nil:
		s.Name = document.Ready
	case !ever:
		s.Name = document.Starting
	}
	if ready != nil {
		s.Why = printable.Text(ready.Error(), printable.Record)
	}
	return s
}

// kafkaListeners are the bootstrap addresses, as bound.
func (a *Agent) kafkaListeners(bound []string) (all []document.Listener) {
	protocols := "kafka"
	if a.ListenTLS != nil {
		protocols = "kafka over TLS"
	}
	connections := a.clients.byListen()
	for i, l := range a.Listens {
		host, _, _ := net.SplitHostPort(l.Bind)
		all = append(all, document.Listener{
			Name: "kafka", Address: bound[i], Advertised: cmp.Or(a.BrokerNames.String(), l.Host, host), Protocols: protocols, Connections: connections[i],
		})
	}
	return all
}

// sortedNodes returns nodes by id, as many as a document holds, after fill has completed each.
func sortedNodes(nodes map[int32]*document.Node, fill func(*document.Node)) []document.Node {
	ids := slices.Sorted(maps.Keys(nodes))
	all := make([]document.Node, 0, len(ids))
	for _, id := range ids[:min(len(ids), document.MaxNodes)] {
		fill(nodes[id])
		all = append(all, *nodes[id])
	}
	return all
}
