package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// plot draws the report: for each load its most important quantities, as bars, and those of the
// loads that differ in their number of connections as lines.
func (rep *report) plot() string {
	var panels []panel
	busy := rep.busy()
	for _, name := range rep.Loads {
		i := slices.IndexFunc(loads, func(l load) bool { return l.name == name })
		if i < 0 || slices.Contains(busy, name) {
			continue
		}
		for _, c := range loads[i].columns {
			if c.with&plotted != 0 {
				panels = append(panels, rep.bars(loads[i], c))
			}
		}
	}
	if len(busy) > 1 {
		for _, c := range throughputColumns {
			if c.with&plotted != 0 {
				panels = append(panels, rep.lines(busy, c))
			}
		}
	}
	return svg(panels)
}

// note says how to read a plot.
func (rep *report) note(q quantity) string {
	better := "less is better"
	if q.better == more {
		better = "more is better"
	}
	return better + "; " + describe(rep.Link)
}

// bars shows one quantity of a load in all rows that have it.
func (rep *report) bars(l load, c column) panel {
	var bars []bar
	for _, r := range rep.Rows {
		known := c.in(rep.Results[l.name][r.Name]).known()
		if len(known) > 0 {
			bars = append(bars, bar{r.Name, known[0], known.median(), known[len(known)-1], c.show(known.median())})
		}
	}
	return barPanel(l.name+", "+c.head, rep.note(c.quantity), bars)
}

// busy returns the loads that differ only in their number of connections.
func (rep *report) busy() []string {
	return slices.DeleteFunc(slices.Clone(rep.Loads), func(name string) bool { return !strings.HasPrefix(name, busyLoad) })
}

// lines shows one quantity of the busy loads in all rows that have it.
func (rep *report) lines(busy []string, c column) panel {
	var places []int
	for _, name := range busy {
		var n int
		fmt.Sscan(strings.TrimPrefix(name, busyLoad), &n)
		places = append(places, n)
	}
	var lines []series
	for _, r := range rep.Rows {
		var v values
		for _, name := range busy {
			v = append(v, c.in(rep.Results[name][r.Name]).median()*c.scale)
		}
		if !slices.ContainsFunc(v, math.IsNaN) {
			lines = append(lines, series{r.Name, v})
		}
	}
	return linePanel("busy connections, "+c.head, rep.note(c.quantity), places, lines)
}
