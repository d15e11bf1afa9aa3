package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// table is some loads of a report that have the same columns.
type table struct {
	head []string
	rows [][]string
}

// tables returns the tables of some loads. Neighbours with the same columns share one.
func (rep *report) tables(names []string) (all []table) {
	for _, name := range names {
		i := slices.IndexFunc(loads, func(l load) bool { return l.name == name })
		if i < 0 {
			continue // from another version
		}
		head := append([]string{"load", "row"}, rep.heads(loads[i].columns)...)
		if len(all) == 0 || !slices.Equal(all[len(all)-1].head, head) {
			all = append(all, table{head: head})
		}
		last := &all[len(all)-1]
		for _, r := range rep.Rows {
			last.rows = append(last.rows, append([]string{name, r.Name}, rep.cells(name, r, loads[i].columns)...))
		}
	}
	return all
}

// heads returns the names of columns.
func (rep *report) heads(columns []column) (heads []string) {
	for _, c := range columns {
		heads = append(heads, c.head)
		for _, more := range []struct {
			comparison
			head string
		}{{withRange, "range"}, {withDirect, "of direct"}, {withBare, "of bare"}, {overBare, "over bare"}, {withBefore, rep.before()}} {
			if c.with&more.comparison != 0 && more.head != "" {
				heads = append(heads, more.head)
			}
		}
	}
	return heads
}

// before is the head of the columns that compare two versions; "" if none are compared.
func (rep *report) before() string {
	for _, r := range rep.Rows {
		if r.Before != "" {
			name, _, _ := strings.Cut(r.Before, " ")
			return "of " + name
		}
	}
	return ""
}

// cells returns the figures of one row.
func (rep *report) cells(load string, r reportRow, columns []column) (cells []string) {
	for _, c := range columns {
		in := func(row string) values { return c.in(rep.Results[load][row]) }
		own := in(r.Name)
		cells = append(cells, c.show(own.median()))
		if c.with&withRange != 0 {
			cells = append(cells, c.spread(own))
		}
		if c.with&withDirect != 0 {
			cells = append(cells, showRatio(own.over(in("direct")).median()))
		}
		if c.with&withBare != 0 {
			cells = append(cells, showRatio(own.over(in(r.Bare)).median()))
		}
		if c.with&overBare != 0 {
			signed := c.quantity
			signed.format = "%+.0f"
			cells = append(cells, signed.show(own.median()-in(r.Bare).median()))
		}
		if c.with&withBefore != 0 && rep.before() != "" {
			cells = append(cells, showRatio(own.over(in(r.Before)).median()))
		}
	}
	return cells
}

// print writes the report for people.
func (rep *report) print(w io.Writer) error {
	fmt.Fprintf(w, "%s\n%d rounds of %vs each; %d connections to %d brokers, %d requests in flight on each, records of %d bytes\n",
		rep.Machine, rep.rounds(), rep.Seconds, connections, brokerCount, inFlight, recordSize)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, one := range rep.tables(rep.Loads) {
		fmt.Fprintf(t, "\n%s\n", strings.Join(one.head, "\t"))
		for _, cells := range one.rows {
			fmt.Fprintln(t, strings.Join(cells, "\t"))
		}
	}
	return t.Flush()
}
