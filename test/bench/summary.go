package main

import (
	"fmt"
	"strings"
)

// line is one line of the summary in docs/performance.md: a quantity on all ways through culvert.
type line struct {
	what       string
	plan, load string
	quantity   quantity
	of         string // the row that it is a ratio to: direct, or bare over the same transport; "": none
}

// ways are the columns of the summary.
var ways = []string{culvertRow + " ws", culvertRow + " h3", culvertRow + " h2", culvertRow + " direct"}

var summary = []line{
	{"produce with franz-go, of direct", "throughput", "kgo produce", rate, "direct"},
	{"consume with franz-go, of direct", "throughput", "kgo consume", rate, "direct"},
	{"produce with prepared frames, of direct", "throughput", "produce", rate, "direct"},
	{"fetch, of direct", "throughput", "fetch v17", rate, "direct"},
	{"produce, of bare", "throughput", "produce", rate, "bare"},
	{"fetch, of bare", "throughput", "fetch v17", rate, "bare"},
	{"CPU of agent and gateway, produce, s/GB", "throughput", "produce", bothCPU, ""},
	{"the same, fetch", "throughput", "fetch v17", bothCPU, ""},
	{"CPU of produce, of bare", "throughput", "produce", bothCPU, "bare"},
	{"p50 of one record, of direct", "small", "one record", p50, "direct"},
	{"requests of 100 B, of direct", "small", "produce 100 B", requests, "direct"},
	{"first byte of a Fetch response of 40 MiB, of bare", "small", "first byte", firstByte, "bare"},
	{"memory that the response takes, MiB, agent", "small", "first byte", agentGrowth, ""},
	{"the same, gateway", "small", "first byte", gatewayGrowth, ""},
	{"1,000 busy connections, of direct", "busy", busyLoad + "1000", rate, "direct"},
	{"CPU of that, s/GB", "busy", busyLoad + "1000", bothCPU, ""},
	{"connections per second, of direct", "connections", "opening", opened, "direct"},
	{"idle connection, KiB, agent", "idle", "idle 1000", agentIdle, ""},
	{"the same, gateway", "idle", "idle 1000", gatewayIdle, ""},
	{"50 ms, 100 Mbit/s: produce, of direct", "50ms-100mbit", "produce", rate, "direct"},
	{"the same, fetch", "50ms-100mbit", "fetch v17", rate, "direct"},
	{"50 ms, 400 Mbit/s: produce, of direct", "50ms-400mbit", "produce", rate, "direct"},
	{"the same, fetch", "50ms-400mbit", "fetch v17", rate, "direct"},
	{"20 ms, 0.5 % loss: produce, of direct", "20ms-loss", "produce", rate, "direct"},
	{"the same: p99.5 of one record ×16, of direct", "20ms-loss", "one record ×16", p995, "direct"},
	{"50 ms: first answer of a new connection, round trips", "50ms-100mbit", "first answer", trips, ""},
	{"20 connections at once, first burst, round trips", "50ms-100mbit", "20 at once", trips, ""},
	{"the same, later bursts", "50ms-100mbit", "20 at once", laterTrips, ""},
	{"veth: one connection beside 63 stalled, of alone", "veth", "63 stalled", share, ""},
}

// summarize returns the summary as a table.
func summarize(reports map[string]*report) string {
	var b strings.Builder
	b.WriteString("\n| | ws | h3 | h2 | no tunnel |\n|---|---|---|---|---|\n")
	for _, l := range summary {
		fmt.Fprintf(&b, "| %s", l.what)
		for _, way := range ways {
			fmt.Fprintf(&b, " | %s", l.on(reports[l.plan], way))
		}
		b.WriteString(" |\n")
	}
	rep := reports[summary[0].plan]
	fmt.Fprintf(&b, "\n%s; %s\n", rep.Date, rep.Machine)
	return b.String() + "\n"
}

// on returns the figure of one way.
func (l line) on(rep *report, way string) string {
	rows := rep.Results[l.load]
	own := l.quantity.in(rows[way])
	base := l.of
	if base == "bare" {
		base, _ = compared(way, "")
	}
	if l.of == "" {
		return l.quantity.show(own.median())
	}
	return showRatio(own.over(l.quantity.in(rows[base])).median())
}
