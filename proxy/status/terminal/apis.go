package terminal

import (
	"cmp"
	"slices"
	"strings"

	"github.com/culvert-proxy/culvert/proxy/status/document"
)

// column is a column of the table of API keys.
type column struct {
	name  string
	key   rune // sorts by it
	width int  // with the space before it
	value func(document.API) string
	order func(document.API) float64 // what it is sorted by, the largest first
	told  bool                       // only where gateways tell their share
}

// apiColumns are the columns behind the name. The first ones are there in 80 columns; where there
// is less room, the last ones go.
var apiColumns = []column{
	{name: "rate", key: 'r', width: 7, value: func(a document.API) string { return rate(a.Rate) }, order: func(a document.API) float64 { return a.Rate }},
	{name: "mean", key: 'm', width: 7, value: measured(mean), order: mean},
	{name: "brokers", key: 'b', width: 9, value: share(brokers), order: brokers, told: true},
	{name: "tunnel", key: 't', width: 8, value: tunnelShare, order: tunnel, told: true},
	{name: "p99", key: '9', width: 7, value: measured(p99), order: p99},
	{name: "in/s", key: 'i', width: 7, value: func(a document.API) string { return byteCount(a.RequestByteRate) }, order: func(a document.API) float64 { return a.RequestByteRate }},
	{name: "out/s", key: 'o', width: 7, value: func(a document.API) string { return byteCount(a.ResponseByteRate) }, order: func(a document.API) float64 { return a.ResponseByteRate }},
	{name: "flight", key: 'f', width: 8, value: func(a document.API) string { return count(uint64(max(a.InFlight, 0))) }, order: func(a document.API) float64 { return float64(a.InFlight) }},
	{name: "errors", key: 'e', width: 8, value: func(a document.API) string { return count(errorCount(a)) }, order: func(a document.API) float64 { return float64(errorCount(a)) }},
	{name: "p50", key: '5', width: 7, value: measured(p50), order: p50},
	{name: "p90", key: '0', width: 7, value: measured(p90), order: p90},
	{name: "throttle", key: 'h', width: 10, value: func(a document.API) string { return seconds(a.Throttle) }, order: func(a document.API) float64 { return a.Throttle }},
	{name: "requests", key: 'u', width: 10, value: func(a document.API) string { return count(a.Requests) }, order: func(a document.API) float64 { return float64(a.Requests) }},
}

// apiName is the first column.
var apiName = column{name: "API", key: 'a'}

// The widths of the table's ends: the name of the API key, and its requests in the last minute.
const (
	minName      = 20
	maxName      = 28 // DescribeUserScramCredentials
	minSparkline = 20
)

func latency(l *document.Latency) document.Latency {
	if l == nil {
		return document.Latency{}
	}
	return *l
}

func mean(a document.API) float64    { return latency(a.Latency).Mean }
func p50(a document.API) float64     { return latency(a.Latency).P50 }
func p90(a document.API) float64     { return latency(a.Latency).P90 }
func p99(a document.API) float64     { return latency(a.Latency).P99 }
func brokers(a document.API) float64 { return latency(a.Gateway).Mean } // how long they took, as the gateway timed them
func tunnel(a document.API) float64  { return a.Tunnel }

// measured shows a value of a latency that was measured here.
func measured(value func(document.API) float64) func(document.API) string {
	return func(a document.API) string {
		if a.Latency == nil {
			return "-"
		}
		return seconds(value(a))
	}
}

// share shows a value that is known if the gateway tells its share.
func share(value func(document.API) float64) func(document.API) string {
	return func(a document.API) string {
		if a.Gateway == nil {
			return "-"
		}
		return seconds(value(a))
	}
}

// tunnelShare shows the tunnel's share, which long polls do not have.
func tunnelShare(a document.API) string {
	if a.LongPoll {
		return "-"
	}
	return share(tunnel)(a)
}

// errorCount is the sum over the classes.
func errorCount(a document.API) (n uint64) {
	for _, c := range a.Errors {
		n += c.Count
	}
	return n
}

// order is by which column a table is sorted. The zero value is by name.
type order struct {
	column   string // apiName's or "": by name
	reversed bool
}

// sorted returns the API keys in this order.
func (o order) sorted(apis []document.API) []document.API {
	byName := func(a, b document.API) int { return cmp.Compare(a.Name, b.Name) }
	compare := byName
	if i := slices.IndexFunc(apiColumns, func(c column) bool { return c.name == o.column }); i >= 0 {
		value := apiColumns[i].order
		compare = func(a, b document.API) int { return cmp.Or(cmp.Compare(value(b), value(a)), byName(a, b)) }
	}
	apis = slices.SortedStableFunc(slices.Values(apis), compare)
	if o.reversed {
		slices.Reverse(apis)
	}
	return apis
}

// columnsFor returns the columns that fit the terminal, the width of the name, and how many columns
// are left for the sparkline.
func (t Terminal) columnsFor(d *document.Document) (fit []column, name, sparkline int) {
	tells := d.End == document.Agent && !slices.ContainsFunc(d.Tunnels, func(u document.Tunnel) bool { return u.Transport == direct })
	room := max(t.Width, minWidth)
	name = min(minName, room)
	room -= name
	for _, c := range apiColumns {
		switch {
		case c.told && !tells:
		case c.width > room:
			room = 0 // no later column takes its place
		default:
			fit, room = append(fit, c), room-c.width
		}
	}
	more := min(room, maxName-minName)
	if room -= more + 2; room < minSparkline {
		room = 0
	}
	return fit, name + more, min(room, document.MaxHistory)
}

// apiLines is the table of API keys. Keys is true if its columns are chosen by keys, which are
// then underlined.
func (t Terminal) apiLines(d *document.Document, o order, keys bool) (lines []line) {
	fit, name, sparkline := t.columnsFor(d)
	heading := t.heading(apiName, name, false, o, keys)
	for _, c := range fit {
		heading = append(heading, t.heading(c, c.width, true, o, keys)...)
	}
	if sparkline > 0 {
		heading = append(heading, span{"  requests per second", dim})
	}
	row := func(a document.API, s style) line {
		l := line{{t.cell(a.Name, name, false), s}}
		for _, c := range fit {
			value := c.value(a)
			st := s
			if value == "0" || value == "-" || value == "0B" || value == "0s" {
				st |= dim
			} else if c.name == "errors" {
				st |= yellow
			}
			l = append(l, span{t.cell(value, c.width, true), st})
		}
		if sparkline > 0 {
			l = append(l, span{"  " + bars(a.History, sparkline), s})
		}
		return l
	}
	lines = append(lines, heading)
	var polls []document.API
	for _, a := range o.sorted(d.APIs) {
		if a.LongPoll {
			polls = append(polls, a)
			continue
		}
		lines = append(lines, row(a, 0))
	}
	if len(d.APIs) == len(polls) {
		lines = append(lines, line{{"no requests yet", dim}})
	} else {
		total := d.Total
		total.Name = "total"
		lines = append(lines, row(total, bold))
	}
	if polls != nil {
		lines = append(lines, line{{"long polls: brokers hold these on purpose", dim}})
		for _, a := range polls {
			lines = append(lines, row(a, 0))
		}
	}
	return lines
}

// heading is the title of a column. An arrow marks the column that the table is sorted by.
func (t Terminal) heading(c column, width int, right bool, o order, keys bool) line {
	by := cmp.Or(o.column, apiName.name) == c.name && keys
	title, s := c.name, bold
	if by {
		s |= reversed
		down := c.name != apiName.name
		if down != o.reversed {
			title += "▼"
		} else {
			title += "▲"
		}
	}
	space := span{text: strings.Repeat(" ", max(width-columns(t.clean(title)), 0))}
	l := t.markKey(title, c.key, s, keys)
	if right {
		return append(line{space}, l...)
	}
	return append(l, space)
}

// markKey underlines the first occurrence of a key in a title.
func (t Terminal) markKey(title string, key rune, s style, keys bool) line {
	i := strings.IndexRune(strings.ToLower(title), key)
	if !keys || i < 0 {
		return line{{title, s}}
	}
	return line{{title[:i], s}, {title[i : i+1], s | underlined}, {title[i+1:], s}}
}

// bars draws the last n values, the newest last, relative to the largest of them.
func bars(values []float64, n int) string {
	const levels = "▁▂▃▄▅▆▇█"
	if len(values) > n {
		values = values[len(values)-n:]
	}
	most := 0.0
	for _, v := range values {
		most = max(most, v)
	}
	var b strings.Builder
	b.WriteString(strings.Repeat(" ", n-len(values)))
	for _, v := range values {
		if !(v > 0) || !(most > 0) {
			b.WriteByte(' ')
			continue
		}
		level := min(int(v/most*8), 7)
		b.WriteString(string([]rune(levels)[level]))
	}
	return b.String()
}
