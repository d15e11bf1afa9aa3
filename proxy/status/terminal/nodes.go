package terminal

import (
	"fmt"
	"strings"

	"github.com/culvert-proxy/culvert/proxy/status/document"
)

// maxListed is how many nodes, listeners or gateways are listed. The others are summed up.
const maxListed = 15

// troubled reports whether a node is not as it should be.
func troubled(n document.Node) bool {
	return n.State == document.NodeUnreachable || n.NoPort || n.SparePort
}

// nodesText counts the nodes by state.
func nodesText(d *document.Document) string {
	counts := map[string]int{}
	for _, n := range d.Nodes {
		counts[n.State]++
	}
	if counts[document.NodeReached] == len(d.Nodes) {
		return things(len(d.Nodes), "node") + ", all reached"
	}
	parts := []string{things(len(d.Nodes), "node")}
	for _, state := range []string{document.NodeUnreachable, document.NodeReached, document.NodeUnknown} {
		if counts[state] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", counts[state], stateWord(state)))
		}
	}
	return strings.Join(parts, ", ")
}

// stateWord is the word for a node's state.
func stateWord(state string) string {
	if state == document.NodeUnknown {
		return "not known"
	}
	return state
}

// nodesStyle is red if a node is not reached, yellow if one has trouble with its port, and dim if
// nothing is known of any.
func nodesStyle(d *document.Document) style {
	worst := dim
	for _, n := range d.Nodes {
		switch {
		case n.State == document.NodeReached && worst == dim && !troubled(n):
			worst = green
		case n.State == document.NodeUnreachable:
			return red
		case troubled(n):
			worst = yellow
		}
	}
	return worst
}

// nodeLines is the table of nodes. If all is false and there are many, it lists only those with
// trouble.
func (t Terminal) nodeLines(d *document.Document, all bool) (lines []line) {
	nodes := d.Nodes
	if !all && len(nodes) > maxListed {
		lines = append(lines, say("%s; those with trouble:", nodesText(d)))
		nodes = nil
		for _, n := range d.Nodes {
			if troubled(n) {
				nodes = append(nodes, n)
			}
		}
		if nodes == nil {
			return []line{say("%s, none with trouble", nodesText(d))}
		}
	}
	if len(nodes) == 0 {
		return []line{{{"no node is known yet", dim}}}
	}
	left := 0
	if !all {
		left = max(len(nodes)-maxListed, 0)
		nodes = nodes[:len(nodes)-left]
	}
	w := t.nodeWidths(nodes)
	heading := fmt.Sprintf("%*s  %-12s%5s  %s", w.id, "id", "state", "conns", t.cell("advertised", w.advertised, false))
	if w.local > 0 {
		heading += "  clients at"
	}
	lines = append(lines, line{{heading, bold}})
	indent := strings.Repeat(" ", w.id+2)
	for _, n := range nodes {
		lines = append(lines, t.nodeLine(n, w))
		if note := nodeNote(n); note != "" {
			lines = append(lines, line{{indent + note, nodeStyle(n)}})
		}
	}
	if left > 0 {
		lines = append(lines, say("%sand %d more", indent, left))
	}
	return lines
}

// nodeWidths are the widths of columns of the table of nodes.
type nodeWidths struct{ id, advertised, local int }

// besideAddresses is the width of the columns and spaces between the id and the addresses.
const besideAddresses = 2 + 12 + 5 + 2

// nodeWidths divides the room behind the first columns between the two addresses.
func (t Terminal) nodeWidths(nodes []document.Node) nodeWidths {
	id, advertised, local := len("id"), 0, 0
	for _, n := range nodes {
		id = max(id, len(fmt.Sprint(n.ID)))
		advertised = max(advertised, columns(t.clean(n.Advertised)), len("advertised"))
		local = max(local, columns(t.clean(localText(n))))
	}
	room := max(t.Width, minWidth) - besideAddresses - id
	if local == 0 {
		return nodeWidths{id, min(advertised, room), 0}
	}
	room -= 2
	half := room / 2
	switch {
	case advertised+local <= room:
	case local <= half:
		advertised = room - local
	case advertised <= half:
		local = room - advertised
	default:
		advertised, local = half, room-half
	}
	return nodeWidths{id, advertised, local}
}

// localText is where clients of the first listener reach a node, and how many other addresses it
// has for clients.
func localText(n document.Node) string {
	switch len(n.Local) {
	case 0:
		return ""
	case 1:
		return n.Local[0]
	}
	return fmt.Sprintf("%s +%d", n.Local[0], len(n.Local)-1)
}

func (t Terminal) nodeLine(n document.Node, w nodeWidths) line {
	address := n.Advertised
	if address == "" {
		address = "not named yet"
	}
	l := line{
		{fmt.Sprintf("%*d  ", w.id, n.ID), 0},
		{t.cell(stateWord(n.State), 12, false), nodeStyle(n)},
		{t.cell(count(uint64(max(n.Connections, 0))), 5, true) + "  ", 0},
		{t.cell(address, w.advertised, false), 0},
	}
	if w.local > 0 {
		l = append(l, span{"  " + t.cell(localText(n), w.local, false), 0})
	}
	return l
}

func nodeStyle(n document.Node) style {
	switch {
	case n.State == document.NodeUnreachable:
		return red
	case troubled(n):
		return yellow
	case n.State == document.NodeReached:
		return green
	}
	return dim
}

// nodeNote says what is wrong with a node.
func nodeNote(n document.Node) string {
	var notes []string
	switch {
	case n.NoPort:
		notes = append(notes, "its own port is taken: clients cannot reach it")
	case n.SparePort:
		notes = append(notes, "its own port is taken: clients are told another")
	}
	if n.State == document.NodeUnreachable && n.Error != "" {
		notes = append(notes, n.Error)
	}
	return strings.Join(notes, "; ")
}
