package terminal

import "github.com/culvert-proxy/culvert/proxy/status/document"

// forwardLines is the table of forwards, up to maxListed of them; nil if there are none. What is
// unreachable says why.
func (t Terminal) forwardLines(d *document.Document) (lines []line) {
	shown := d.Forwards[:min(len(d.Forwards), maxListed)]
	if len(shown) == 0 {
		return nil
	}
	address := "clients at"
	if d.End == document.Gateway {
		address = "leads to"
	}
	name := len("name")
	for _, f := range shown {
		name = max(name, columns(t.clean(f.Name)))
	}
	name = min(name, max(t.Width, minWidth)/3)
	lines = []line{{{t.cell("name", name, false) + "  " + t.cell("state", 12, false) + "conns  " + address, bold}}}
	for _, f := range shown {
		n := document.Node{State: f.State, Error: f.Error}
		lines = append(lines, line{
			{t.cell(f.Name, name, false) + "  ", 0},
			{t.cell(stateWord(f.State), 12, false), nodeStyle(n)},
			{t.cell(count(uint64(max(f.Connections, 0))), 5, true) + "  ", 0},
			{t.clean(f.Address), 0},
		})
		if note := nodeNote(n); note != "" {
			lines = append(lines, line{{"  " + note, red}})
		}
	}
	if more := len(d.Forwards) - len(shown); more > 0 {
		lines = append(lines, say("and %d more", more))
	}
	return lines
}
