package terminal

import (
	"fmt"
	"slices"

	"github.com/culvert-proxy/culvert/proxy/status/document"
)

// Page is what culvert top shows below its header.
type Page int

// The pages, by the keys 1 to 3, and the one that explains the keys.
const (
	APIs Page = iota
	Nodes
	Events
	Help
)

// View is what the user of culvert top has chosen to see. The zero value shows the API keys by
// name; NewView shows what is busy first.
type View struct {
	Page   Page
	Paused bool
	// Trouble says why the document is not fresh; "" if it is.
	Trouble string

	covers Page // what the help is shown in place of
	order  order
	shown  []column // the columns that were drawn last, without the name
	scroll int      // lines of the page that are above the screen
}

// NewView returns the view that culvert top begins with.
func NewView() *View { return &View{order: order{column: "rate"}} }

// The keys that are no characters.
const (
	KeyUp       = "up"
	KeyDown     = "down"
	KeyLeft     = "left"
	KeyRight    = "right"
	KeyPageUp   = "page up"
	KeyPageDown = "page down"
	KeyHome     = "home"
	KeyCtrlC    = "ctrl-c"
	KeyEscape   = "escape"
)

// pageScroll is how many lines a page key moves.
const pageScroll = 10

// Key changes the view as a key says, and reports whether it ends culvert top.
func (v *View) Key(key string) (quit bool) {
	switch key {
	case "q", "Q", KeyCtrlC:
		return true
	case "1", "2", "3":
		v.turnTo(Page(key[0] - '1'))
	case "\t":
		v.turnTo((v.Page + 1) % Help)
	case "?":
		v.turnHelp()
	case KeyEscape:
		v.turnTo(APIs)
	case " ":
		v.Paused = !v.Paused
	case KeyUp:
		v.scroll--
	case KeyDown:
		v.scroll++
	case KeyPageUp:
		v.scroll -= pageScroll
	case KeyPageDown:
		v.scroll += pageScroll
	case KeyHome:
		v.scroll = 0
	case KeyLeft:
		v.sortBeside(-1)
	case KeyRight:
		v.sortBeside(1)
	default:
		v.sortBy(key)
	}
	v.scroll = max(v.scroll, 0)
	return false
}

// turnHelp shows the help, or what it was shown in place of.
func (v *View) turnHelp() {
	if v.Page == Help {
		v.turnTo(v.covers)
		return
	}
	v.covers = v.Page
	v.turnTo(Help)
}

func (v *View) turnTo(p Page) {
	if v.Page != p {
		v.Page, v.scroll = p, 0
	}
}

// sortBy sorts by the column of a key; if it is sorted by that column, the other way round.
func (v *View) sortBy(key string) {
	by := ""
	for _, c := range append([]column{apiName}, apiColumns...) {
		if key == string(c.key) {
			by = c.name
		}
	}
	switch {
	case v.Page != APIs || by == "":
	case by == v.order.column:
		v.order.reversed = !v.order.reversed
	default:
		v.order = order{column: by}
	}
}

// sortBeside sorts by the column on the left or on the right.
func (v *View) sortBeside(step int) {
	all := append([]column{apiName}, v.shown...)
	i := step + max(slices.IndexFunc(all, func(c column) bool { return c.name == v.order.column }), 0)
	if v.Page == APIs && i >= 0 && i < len(all) {
		v.order = order{column: all[i].name}
	}
}

// headerLines are the lines above the page: what runs, the path, the failure, its remedy.
const headerLines = 4

// Top returns the screen of culvert top: as many lines as the terminal has rows, none of them
// wider than it.
func (t Terminal) Top(d *document.Document, v *View) []string {
	rows := max(t.Height, headerLines+4) // a row of the page at least
	v.shown, _, _ = t.columnsFor(d)
	lines := t.header(d, v)
	lines = append(lines, nil)
	page := t.page(d, v)
	if v.Page == APIs { // the columns' headings stay
		lines, page = append(lines, page[0]), page[1:]
	}
	room := rows - len(lines) - 1 // the keys are below
	v.scroll = min(v.scroll, max(len(page)-room, 0))
	page = page[v.scroll:]
	if left := len(page) - room; left > 0 {
		page = append(page[:room-1:room-1], line{{fmt.Sprintf("↓ %d more lines", left+1), dim}})
	}
	lines = append(lines, page...)
	for len(lines) < rows-1 {
		lines = append(lines, nil)
	}
	screen := make([]string, 0, rows)
	for _, l := range append(lines, t.keys(v)) {
		screen = append(screen, t.draw(l))
	}
	return screen
}

// header is what every page begins with.
func (t Terminal) header(d *document.Document, v *View) []line {
	state, s := stateText(d)
	if d.State.Name != document.Ready && d.State.Why != "" {
		state += ": " + d.State.Why
	} else if d.State.Name == document.Ready && d.State.Missing != "" {
		state += ": " + d.State.Missing
	}
	if v.Trouble != "" {
		state, s = v.Trouble, red
	}
	first := line{{"● ", s}, {"culvert " + d.End + " ", bold}, {state, s}, {"  " + build(d), dim}}
	if v.Paused {
		first = append(line{{" paused ", reversed}, {" ", 0}}, first...)
	}
	lines := []line{first, t.route(d)}
	lines = append(lines, t.failure(d)...)
	for len(lines) < headerLines {
		lines = append(lines, nil)
	}
	return lines
}

// failure is the newest open failure and its remedy, or else what is known of the last one, in at
// most two lines.
func (t Terminal) failure(d *document.Document) []line {
	if newer := t.newer(d); newer != nil {
		return newer[:1]
	}
	e := lastFailure(d)
	open := openFailures(d)
	switch {
	case e == nil && d.State.Name == document.Ready:
		return []line{{{"no failures", dim}}}
	case e == nil:
		return nil
	case open == nil:
		return []line{{{lastTitle(*e) + ": " + eventTimes(d, *e) + ": " + eventText(*e), dim}}}
	}
	mark, s := eventStyle(open[0])
	first := line{{mark + " ", s}, {eventTimes(d, open[0]) + ": ", dim}, {eventText(open[0]), s}}
	if len(open) > 1 {
		first = append(line{{fmt.Sprintf("1 of %d: ", len(open)), dim}}, first...)
	}
	lines := []line{first}
	if open[0].Remedy != "" {
		lines = append(lines, line{{"  hint: " + open[0].Remedy, 0}})
	}
	return lines
}

// page is what is below the header.
func (t Terminal) page(d *document.Document, v *View) (lines []line) {
	switch v.Page {
	case Nodes:
		return t.nodeLines(d, true)
	case Events:
		for _, e := range d.Events {
			lines = append(lines, t.event(d, e)...)
		}
		if lines == nil {
			lines = []line{{{"no events", dim}}}
		}
		return lines
	case Help:
		return t.help()
	}
	lines = t.apiLines(d, v.order, true)
	lines = append(lines, nil)
	return append(lines, t.nodeLines(d, false)...)
}

// keys is the last line of the screen.
func (t Terminal) keys(v *View) (l line) {
	for _, k := range []struct {
		key, does string
		now       bool
	}{
		{"1", "APIs", v.Page == APIs}, {"2", "nodes", v.Page == Nodes}, {"3", "events", v.Page == Events},
		{"← →", "sort", false}, {"↑ ↓", "scroll", false}, {"space", "pause", v.Paused}, {"?", "help", v.Page == Help}, {"q", "quit", false},
	} {
		s := dim
		if k.now {
			s = reversed
		}
		l = append(l, span{k.key, bold}, span{" ", 0}, span{k.does, s}, span{"  ", 0})
	}
	return l
}

// help explains the keys and the columns.
func (t Terminal) help() (lines []line) {
	for _, k := range [][2]string{
		{"1 2 3, Tab", "the API keys and nodes, all nodes, the last events with their remedies"},
		{"← →", "sort by the column on the left or right"},
		{"a letter", "sort by the column whose heading has it underlined; the same letter again: the other way round"},
		{"↑ ↓, page up, page down", "scroll; Home: back to the top"},
		{"space", "pause and go on"},
		{"?", "show this, and what was shown before"},
		{"q, Ctrl-C", "quit"},
		{"rate, in/s, out/s", "requests, bytes to the brokers and bytes from the brokers, per second"},
		{"mean, p50, p90, p99", "from a request to its response, as measured by this process"},
		{"brokers, tunnel", "the brokers' answer, as timed at the gateway, in the mean; and the rest of the mean, which is the tunnel's. Of long polls, the rest would be noise"},
		{"flight", "requests that wait for their response now"},
		{"errors, throttle, requests", "responses with an error, how long brokers asked clients to wait, and requests, since the start"},
	} {
		lines = append(lines, t.wrapped(line{{fmt.Sprintf("%-28s", k[0]), bold}}, k[1], 0, maxText)...)
	}
	return lines
}
