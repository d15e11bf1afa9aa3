package main

import (
	"fmt"
	"slices"
	"strings"
)

// load is measured in each row once a round.
type load struct {
	name     string
	run      func(*row, *options) (figures, error)
	columns  []column
	together bool // all rows at once: nothing that one does shows in another
}

// column is one quantity in the table of a load, and what is said about it.
type column struct {
	quantity
	with comparison
}

// comparison is a set.
type comparison uint

const (
	withRange  comparison = 1 << iota // of the rounds
	withDirect                        // ratio to the row direct
	withBare                          // ratio to the row with the same tunnel that knows no Kafka
	overBare                          // difference to that
	withBefore                        // ratio to the first binary of -compare, if there is one
	plotted                           // docs/performance.md has a plot of it
	forExperts                        // docs/performance.md leaves it out
)

var throughputColumns = []column{
	{rate, withRange | withDirect | withBare | withBefore | plotted},
	{agentCPU, 0}, {gatewayCPU, 0},
	{bothCPU, withRange | withBare | withBefore | plotted},
	{restCPU, forExperts}, {agentPeak, 0}, {gatewayPeak, 0},
}

var smallColumns = []column{
	{requests, withRange | withDirect | withBare | withBefore | plotted},
	{agentEach, 0}, {gatewayEach, 0},
	{bothEach, withRange | withBare | withBefore | plotted},
}

var openingColumns = []column{
	{opened, withRange | withDirect | withBare | withBefore | plotted},
	{agentEach, 0}, {gatewayEach, 0},
	{bothEach, withRange | withBare | withBefore | plotted},
}

var latencyColumns = []column{
	{p50, withRange | withDirect | overBare | withBefore | plotted},
	{p99, withRange | withBefore | plotted},
}

var tailColumns = []column{
	{p50Long, withDirect | plotted},
	{p99Long, withDirect},
	{p995, withRange | withDirect | withBare | withBefore | plotted},
}

var beginningColumns = []column{
	{firstByte, withRange | withDirect | withBare | withBefore | plotted},
	{agentGrowth, withRange | plotted}, {gatewayGrowth, withRange},
}

var answerColumns = []column{
	{answer, withRange | withDirect | withBefore | plotted},
	{slowest, 0}, {trips, 0},
}

var burstColumns = []column{
	{firstBurst, withRange | withDirect | withBefore | plotted},
	{slowest, 0}, {trips, 0},
	{laterBurst, withRange | withDirect | withBefore | plotted},
	{laterSlowest, 0}, {laterTrips, 0},
}

var idleColumns = []column{
	{agentIdle, withRange | withBefore | plotted},
	{gatewayIdle, withRange | withBefore | plotted},
}

var stalledColumns = []column{{alone, 0}, {beside, withRange | plotted}, {share, withRange | plotted}}

// busyLoad begins the names of loads that differ only in their number of connections.
const busyLoad = "busy "

var loads = []load{
	{name: "first byte", run: beginning(fetchRequest(fetchVersion, mebibyte), fetchRequest(fetchVersion, 40*mebibyte)), columns: beginningColumns},
	{name: "produce", run: throughput(connections, produceRequest(1000<<10)), columns: throughputColumns},      // Java's max.request.size, less headers
	{name: "produce 16 KiB", run: throughput(connections, produceRequest(16<<10)), columns: throughputColumns}, // Java's batch.size
	{name: "kgo produce", run: kgoLoad(kgoProduce, kgoProducer...), columns: throughputColumns},
	{name: "fetch v17", run: throughput(connections, fetchRequest(fetchVersion, mebibyte)), columns: throughputColumns},
	{name: "fetch v11", run: throughput(connections, fetchRequest(11, mebibyte)), columns: throughputColumns},
	{name: "kgo consume", run: kgoLoad(kgoConsume, kgoConsumer...), columns: throughputColumns},
	{name: "produce 100 B", run: small(connections, produceOf(batch(smallRecord, smallRecord))), columns: smallColumns},
	{name: "one record", run: latency(produceRequest(recordSize)), columns: latencyColumns},
	{name: "one record ×16", run: tail(16, produceRequest(recordSize)), columns: tailColumns},
	{name: busyLoad + "1", run: throughput(1, produceRequest(16<<10)), columns: throughputColumns},
	{name: busyLoad + "10", run: throughput(10, produceRequest(16<<10)), columns: throughputColumns},
	{name: busyLoad + "100", run: throughput(100, produceRequest(16<<10)), columns: throughputColumns},
	{name: busyLoad + "1000", run: throughput(1000, produceRequest(16<<10)), columns: throughputColumns},
	{name: "opening", run: opening(dialAtOnce), columns: openingColumns},
	{name: "first answer", run: firstAnswer, columns: answerColumns},
	{name: "20 at once", run: bursts(20), columns: burstColumns},
	{name: "idle 1000", run: idle(1000), columns: idleColumns, together: true},
	{name: "idle 10000", run: idle(10_000), columns: idleColumns},
	{name: "63 stalled", run: stalled(64, fetchRequest(fetchVersion, mebibyte), fetchRequest(fetchVersion, 16*mebibyte)), columns: stalledColumns},
}

// Loads that run unless others are named. Over loopback those are left out that show little there
// or take long.
var (
	loopbackLoads = []string{"first byte", "produce", "produce 16 KiB", "kgo produce", "fetch v17", "fetch v11", "kgo consume", "produce 100 B", "one record", "opening", "20 at once"}
	wanLoads      = []string{"produce", "produce 16 KiB", "fetch v17", "one record ×16", "first answer", "20 at once", "63 stalled"}
)

func loadNames() (names []string) {
	for _, l := range loads {
		names = append(names, l.name)
	}
	return names
}

// findLoads returns loads by their names.
func findLoads(names []string) (found []load, err error) {
	for _, name := range names {
		i := slices.IndexFunc(loads, func(l load) bool { return l.name == name })
		if i < 0 {
			return nil, fmt.Errorf("-loads: no load is called %q; there are %s", name, strings.Join(loadNames(), ", "))
		}
		found = append(found, loads[i])
	}
	return found, nil
}
