package terminal

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/culvert-proxy/culvert/proxy/status/document"
)

// direct is the transport of an agent without a tunnel.
const direct = "direct"

// maxText is how many lines an error or a remedy takes.
const maxText = 4

// hop is a station of the path from clients to brokers.
type hop struct {
	name  string
	state style
	about []line
}

// labelWidth is the width of a mark and the name of a hop.
const labelWidth = 14

// path draws the hops, one below the other.
func (t Terminal) path(d *document.Document) (lines []line) {
	for i, h := range t.hops(d) {
		rail, mark := "│", markOf(h.state)
		if strings.HasPrefix(h.name, "tunnel") {
			if rail = "║"; h.state == green {
				mark = rail
			}
		}
		if i > 0 {
			lines = append(lines, say("  │"))
		}
		for j, about := range h.about {
			label := line{{"  " + rail, 0}, {strings.Repeat(" ", labelWidth-3), 0}}
			if j == 0 {
				label = line{{"  " + mark, h.state}, {" ", 0}, {t.cell(h.name, labelWidth-4, false), bold}}
			}
			lines = append(lines, append(label, about...))
		}
	}
	return lines
}

// markOf says without colours what a style says with them.
func markOf(s style) string {
	switch s {
	case green:
		return "●" // it is well
	case yellow:
		return "!" // a part of it has failed
	case red:
		return "✗" // it has failed
	}
	return "○" // not known
}

// hops are those from the clients to the brokers, as this end sees them.
func (t Terminal) hops(d *document.Document) []hop {
	clients := hop{"clients", green, []line{say("%s", things(d.Clients.Connections, "connection"))}}
	listeners := hop{"listeners", green, t.listeners(d)}
	brokers := hop{"brokers", nodesStyle(d), t.block(clusterText(d), 0)}
	if d.End == document.Gateway {
		clients.name, clients.about = "agents", []line{say("%s", things(d.Clients.Connections, "stream"))}
		hops := []hop{clients}
		for _, u := range d.Tunnels {
			hops = append(hops, hop{"tunnel", green, t.carriers(u, "")})
		}
		return append(hops, listeners, brokers)
	}
	if len(d.Tunnels) == 1 && d.Tunnels[0].Transport == direct {
		return []hop{clients, listeners, {"tunnel", green, []line{say("none: the agent dials the brokers itself")}}, brokers}
	}
	hops := []hop{clients, listeners}
	if len(d.Tunnels) == 1 {
		u := d.Tunnels[0]
		hops = append(hops, hop{"tunnel", tunnelStyle(u), t.tunnel(d.Time, u)}, hop{"gateway", gatewayStyle(u), t.block(gatewayText(u), 0)})
	} else if len(d.Tunnels) > 1 {
		hops = append(hops, t.gateways(d))
	}
	return append(hops, brokers)
}

// gateways is the hop of an agent with several gateways: they are beside each other, not in a row.
func (t Terminal) gateways(d *document.Document) hop {
	h := hop{name: "tunnels", state: green}
	for _, u := range d.Tunnels[:min(len(d.Tunnels), maxListed)] {
		h.about = append(h.about, line{{"to " + gatewayText(u), bold}})
		for _, l := range t.tunnel(d.Time, u) {
			h.about = append(h.about, append(line{{text: "  "}}, l...))
		}
		if s := tunnelStyle(u); s != green {
			h.state = yellow
		}
	}
	return h
}

// listeners are those for clients or agents. There may be one for each node: these are summed up,
// because the table of nodes has them.
func (t Terminal) listeners(d *document.Document) (lines []line) {
	var local []string
	for _, n := range d.Nodes {
		local = append(local, n.Local...)
	}
	slices.Sort(local)
	ports, left := 0, 0
	for _, l := range d.Listeners {
		if strings.Contains(l.Advertised, "{id}") { // nodes have names, on this port
			local = nil
		}
		if _, ofNode := slices.BinarySearch(local, l.Address); ofNode {
			ports++
			continue
		}
		if len(lines) == maxListed {
			left++
			continue
		}
		if l.Name == "admin" {
			lines = append(lines, line{{"admin at " + l.Address, dim}})
			continue
		}
		text := cmp.Or(l.Protocols, l.Name) + " at " + l.Address
		host := strings.Trim(l.Address[:max(strings.LastIndexByte(l.Address, ':'), 0)], "[]")
		if l.Advertised != "" && l.Advertised != host {
			text += " as " + l.Advertised
		}
		lines = append(lines, t.block(text+", "+things(l.Connections, "connection"), 0)...)
	}
	if left > 0 {
		lines = append(lines, say("and %d more", left))
	}
	switch ports = max(ports, len(local)); {
	case ports > 0:
		lines = append(lines, say("%s for nodes", things(ports, "port")))
	case lines == nil:
		lines = append(lines, line{{"none", dim}})
	}
	return lines
}

// tunnelStyle is green if a transport works.
func tunnelStyle(u document.Tunnel) style {
	if u.Transport == "" {
		return red
	}
	return green
}

// gatewayStyle is green if the gateway answers. If it does not, the way to it may have failed.
func gatewayStyle(u document.Tunnel) style {
	if u.Transport == "" {
		return dim
	}
	return green
}

// tunnel says which transport is in use and why, and what is known of the others.
func (t Terminal) tunnel(now time.Time, u document.Tunnel) (lines []line) {
	if u.Transport == "" {
		text := "no transport works"
		if u.Error != "" {
			text += ": " + u.Error
		}
		lines = append(lines, t.block(text, red)...)
		if !u.RetryAt.IsZero() {
			lines = append(lines, say("next try %s", in(now, u.RetryAt)))
		}
	} else {
		lines = t.carriers(u, u.Transport)
		why := u.Why
		if ago := since(now, u.Since); ago != "" {
			why = strings.TrimSuffix("chosen "+ago+" ago: "+u.Why, ": ")
		}
		if why != "" {
			lines = append(lines, t.block(why, 0)...)
		}
	}
	said := t.clean(u.Why) + t.clean(u.Error)
	for _, tried := range u.Tried {
		if tried.Transport != u.Transport {
			lines = append(lines, t.tried(now, tried, said)...)
		}
	}
	return lines
}

// block wraps text to what is right of a hop's name.
func (t Terminal) block(text string, s style) []line {
	t.Width = max(t.Width, minWidth) - labelWidth - 2
	return t.wrapped(line{}, text, s, maxText)
}

// carriers has a line for each transport that carries streams, first the one in use, then by the
// number of streams.
func (t Terminal) carriers(u document.Tunnel, use string) (lines []line) {
	carriers := slices.SortedStableFunc(slices.Values(u.Carriers), func(a, b document.Carrier) int {
		return cmp.Or(cmp.Compare(boolInt(b.Transport == use), boolInt(a.Transport == use)), cmp.Compare(b.Streams, a.Streams))
	})
	if use != "" && (len(carriers) == 0 || carriers[0].Transport != use) {
		carriers = append([]document.Carrier{{Transport: use, RTT: u.RTT}}, carriers...)
	}
	for _, c := range carriers {
		if c.Transport != use && c.Connections == 0 && c.Streams == 0 {
			continue
		}
		text := c.Transport
		if c.Transport == use {
			c.RTT = cmp.Or(u.RTT, c.RTT)
		}
		if c.RTT > 0 {
			text += ", round trip " + seconds(c.RTT)
		}
		if c.MaxRTT > c.RTT*1.01 {
			text += " (at most " + seconds(c.MaxRTT) + ")"
		}
		if c.Connections > 0 || c.Streams > 0 {
			text += ", " + streamsText(c)
		}
		if c.Sent > 0 {
			text += fmt.Sprintf(", %.2g%% lost", 100*float64(c.Lost)/float64(c.Sent))
		}
		lines = append(lines, t.block(text, 0)...)
	}
	if lines == nil {
		lines = []line{{{"no agent is connected", dim}}}
	}
	return lines
}

// streamsText counts the streams of a transport. Over ws, each has a connection of its own, and the
// other connections are ready for the next ones.
func streamsText(c document.Carrier) string {
	text := things(c.Streams, "stream")
	switch spares := c.Connections - c.Streams; {
	case c.Transport != "ws":
		text += " on " + things(c.Connections, "connection")
	case spares > 0:
		text += fmt.Sprintf(", %d ready", spares)
	}
	return text
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// tried says what came of a transport that is not in use. An error that has been said is left out.
func (t Terminal) tried(now time.Time, tried document.Tried, said string) []line {
	ago, text, s := since(now, tried.At), tried.Transport, dim
	switch {
	case tried.Error != "":
		text += " failed"
		if ago != "" {
			text += " " + ago + " ago"
		}
		if s = yellow; !strings.Contains(said, t.clean(tried.Error)) {
			text += ": " + tried.Error
		}
	case ago == "":
		text += " was not tried"
	default:
		text += " worked " + ago + " ago, after " + seconds(tried.Took)
	}
	if tried.Fixed != "" {
		text += "; " + tried.Fixed
	}
	if tried.NextProbe.After(now) {
		text += "; next probe " + in(now, tried.NextProbe)
	}
	return t.block(text, s)
}

// in is how long after now a time is.
func in(now, t time.Time) string {
	if left := t.Sub(now).Seconds(); left >= 1 {
		return "in " + long(left)
	}
	return "now"
}

// gatewayText is the gateway's address, and what answers there.
func gatewayText(u document.Tunnel) string {
	text := cmp.Or(u.Gateway, "the gateway")
	if u.Version != "" {
		text += ", culvert " + u.Version
	}
	if strings.ContainsFunc(u.Ingress, unicode.IsLetter) { // some hide behind _
		text += ", behind " + u.Ingress
	}
	return text
}

// clusterText is the cluster and how many of its nodes are reached.
func clusterText(d *document.Document) string {
	text := "no cluster seen yet"
	if d.Cluster.ID != "" {
		text = "cluster " + d.Cluster.ID
	} else if b := d.Cluster.Bootstrap; len(b) > 0 {
		text = "bootstrap " + strings.Join(b[:min(len(b), 3)], ", ")
	}
	if len(d.Nodes) > 0 {
		text += ", " + nodesText(d)
	}
	return text
}

// route is the path in one line, as far as there is room.
func (t Terminal) route(d *document.Document) line {
	if d.End == document.Gateway {
		l := line{{things(d.Clients.Connections, "stream") + " of agents", 0}}
		for _, u := range d.Tunnels {
			for _, c := range u.Carriers {
				if c.Streams > 0 {
					l = append(l, span{fmt.Sprintf(", %d over %s", c.Streams, c.Transport), 0})
				}
			}
		}
		return append(l, span{" ══▶ ", green}, span{"gateway", bold}, span{" ──▶ ", nodesStyle(d)}, span{clusterText(d), 0})
	}
	l := line{{things(d.Clients.Connections, "connection"), 0}, {" ──▶ ", green}, {"agent", bold}}
	if len(d.Tunnels) > 0 && d.Tunnels[0].Transport != direct {
		u := d.Tunnels[0]
		text := "no transport works"
		if u.Transport != "" {
			text = u.Transport
			if u.RTT > 0 {
				text += " " + seconds(u.RTT)
			}
		}
		_, host, found := strings.Cut(u.Gateway, "://")
		if !found {
			host = cmp.Or(u.Gateway, "gateway")
		}
		if len(d.Tunnels) > 1 {
			host = fmt.Sprintf("%s and %d more", host, len(d.Tunnels)-1)
		}
		l = append(l, span{" ══ " + text + " ══▶ ", tunnelStyle(u)}, span{host, 0})
	}
	return append(l, span{" ──▶ ", nodesStyle(d)}, span{clusterText(d), 0})
}
