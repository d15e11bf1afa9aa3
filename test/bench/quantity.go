package main

import (
	"fmt"
	"math"
	"slices"
	"strconv"
)

// quantity is something that is measured.
type quantity struct {
	name   string  // in JSON, with the unit
	head   string  // of its column, with the unit there
	scale  float64 // from the one unit to the other
	format string
	better direction
}

// direction says which figures are better.
type direction bool

const (
	less direction = false
	more direction = true
)

const (
	mebibyte = 1 << 20
	perMiB   = 1.0 / mebibyte
	perKiB   = 1.0 / 1024
)

// What loads measure. Agent and gateway are all processes of a row on the one side and the other.
var (
	rate       = quantity{"bytes_per_second", "MB/s", 1e-6, whole, more}
	agentCPU   = quantity{"agent_cpu_seconds_per_byte", "agent s/GB", 1e9, "%.2f", less}
	gatewayCPU = quantity{"gateway_cpu_seconds_per_byte", "gateway s/GB", 1e9, "%.2f", less}
	bothCPU    = quantity{"both_cpu_seconds_per_byte", "CPU s/GB", 1e9, "%.2f", less}
	restCPU    = quantity{"rest_cpu_seconds_per_byte", "rest s/GB", 1e9, "%.2f", less} // of brokers and load

	agentPeak   = quantity{"agent_peak_bytes", "agent peak MiB", perMiB, whole, less}
	gatewayPeak = quantity{"gateway_peak_bytes", "gateway peak MiB", perMiB, whole, less}

	requests    = quantity{"requests_per_second", "requests/s", 1, whole, more}
	opened      = quantity{"connections_per_second", "connections/s", 1, whole, more}
	agentEach   = quantity{"agent_cpu_seconds_each", "agent µs each", 1e6, "%.1f", less}
	gatewayEach = quantity{"gateway_cpu_seconds_each", "gateway µs each", 1e6, "%.1f", less}
	bothEach    = quantity{"both_cpu_seconds_each", "CPU µs each", 1e6, "%.1f", less}

	p50     = quantity{"p50_seconds", "p50 µs", 1e6, whole, less}
	p99     = quantity{"p99_seconds", "p99 µs", 1e6, whole, less}
	p50Long = quantity{"p50_seconds", "p50 ms", 1e3, "%.1f", less}
	p99Long = quantity{"p99_seconds", "p99 ms", 1e3, whole, less}
	p995    = quantity{"p995_seconds", "p99.5 ms", 1e3, whole, less}

	firstByte     = quantity{"first_byte_seconds", "ms", 1e3, "%.2f", less}
	agentGrowth   = quantity{"agent_growth_bytes", "agent +MiB", perMiB, "%.1f", less}
	gatewayGrowth = quantity{"gateway_growth_bytes", "gateway +MiB", perMiB, "%.1f", less}

	answer       = quantity{"answer_seconds", "ms", 1e3, "%.1f", less}
	slowest      = quantity{"slowest_answer_seconds", "slowest ms", 1e3, "%.1f", less}
	trips        = quantity{"answer_round_trips", "round trips", 1, "%.2f", less}
	firstBurst   = quantity{"answer_seconds", "first burst ms", 1e3, "%.1f", less}
	laterBurst   = quantity{"later_answer_seconds", "later bursts ms", 1e3, "%.1f", less}
	laterSlowest = quantity{"later_slowest_answer_seconds", "slowest ms", 1e3, "%.1f", less}
	laterTrips   = quantity{"later_answer_round_trips", "round trips", 1, "%.2f", less}

	agentIdle   = quantity{"agent_bytes_per_connection", "agent KiB each", perKiB, "%.1f", less}
	gatewayIdle = quantity{"gateway_bytes_per_connection", "gateway KiB each", perKiB, "%.1f", less}

	alone  = quantity{"alone_bytes_per_second", "alone MB/s", 1e-6, "%.1f", more}
	beside = quantity{"beside_bytes_per_second", "beside 63 MB/s", 1e-6, "%.1f", more}
	share  = quantity{"beside_of_alone", "of alone", 1, "%.2f", more}
)

// figures are the results of one row under one load in one round, by the quantities' names.
type figures map[string]float64

// set keeps five digits of a value, which are more than can be measured twice.
func (f figures) set(q quantity, value float64) {
	if !math.IsNaN(value) && !math.IsInf(value, 0) {
		f[q.name], _ = strconv.ParseFloat(strconv.FormatFloat(value, 'g', 5, 64), 64)
	}
}

// values are one quantity in several rounds. NaN stands for a round without it.
type values []float64

func (q quantity) in(rounds []figures) (v values) {
	for _, f := range rounds {
		x, ok := f[q.name]
		if !ok {
			x = math.NaN()
		}
		v = append(v, x)
	}
	return v
}

// known returns the values of the rounds that have one, in ascending order.
func (v values) known() values {
	known := slices.DeleteFunc(slices.Clone(v), math.IsNaN)
	slices.Sort(known)
	return known
}

// median is NaN if there are no values.
func (v values) median() float64 {
	known := v.known()
	n := len(known)
	if n == 0 {
		return math.NaN()
	}
	return (known[(n-1)/2] + known[n/2]) / 2
}

// over returns the ratio in each round. Within a round both were measured soon after each other;
// between rounds the machine may have changed.
func (v values) over(base values) (ratios values) {
	for i := range min(len(v), len(base)) {
		ratios = append(ratios, v[i]/base[i])
	}
	return ratios
}

// whole is the format of numbers that have no digits after the point, unless they are small.
const whole = "%.0f"

// none is what a table shows where there is no figure.
const none = "–"

func (q quantity) show(value float64) string {
	if math.IsNaN(value) || math.IsInf(value, 0) {
		return none
	}
	format := q.format
	if few := 20.0; format == whole && value*q.scale < few {
		format = "%.1f"
	}
	return fmt.Sprintf(format, value*q.scale)
}

// spread returns the smallest and the largest of several values.
func (q quantity) spread(v values) string {
	known := v.known()
	if len(known) < 2 {
		return none
	}
	return q.show(known[0]) + none + q.show(known[len(known)-1])
}

// showRatio shows a figure that has no unit.
func showRatio(value float64) string { return quantity{scale: 1, format: "%.2f"}.show(value) }
