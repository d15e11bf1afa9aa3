package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// table defines the columns of a load.
type table struct {
	head []string
	// cells returns a line. direct and bare are the figures of those rows in the same rounds, or
	// nil.
	cells func(own, direct, bare []figures) []string
}

var throughputTable = table{
	[]string{"MB/s", "range", "of direct", "of bare", "agent s/GB", "gateway s/GB", "both s/GB", "of bare", "rest s/GB"},
	func(own, direct, bare []figures) []string {
		rate := func(f figures) float64 { return f.rate }
		return append(spread(own, func(f figures) float64 { return f.rate / 1e6 }, "%.0f"),
			ratio(own, direct, rate), ratio(own, bare, rate),
			perGB(own, func(f figures) time.Duration { return f.cpu.agent }),
			perGB(own, func(f figures) time.Duration { return f.cpu.gateway }),
			perGB(own, func(f figures) time.Duration { return f.cpu.both() }),
			ratio(own, bare, func(f figures) float64 { return f.cpu.both().Seconds() / f.bytes }),
			perGB(own, func(f figures) time.Duration { return f.cpu.rest }))
	},
}

var latencyTable = table{
	[]string{"p50 µs", "range", "of direct", "over bare µs", "p99 µs", "range"},
	func(own, direct, bare []figures) []string {
		p50 := func(f figures) float64 { return micros(f.p50) }
		over := "–"
		if bare != nil {
			over = fmt.Sprintf("%+.0f", median(own, p50)-median(bare, p50))
		}
		return append(append(spread(own, p50, "%.0f"), ratio(own, direct, p50), over),
			spread(own, func(f figures) float64 { return micros(f.p99) }, "%.0f")...)
	},
}

var firstByteTable = table{
	[]string{"ms", "range", "of direct", "of bare", "agent +MiB", "range", "gateway +MiB", "range"},
	func(own, direct, bare []figures) []string {
		first := func(f figures) float64 { return f.firstByte.Seconds() * 1e3 }
		cells := append(spread(own, first, "%.2f"), ratio(own, direct, first), ratio(own, bare, first))
		for _, end := range []func(figures) int64{
			func(f figures) int64 { return f.growth.agent },
			func(f figures) int64 { return f.growth.gateway },
		} {
			cells = append(cells, grown(own, end)...)
		}
		return cells
	},
}

var tailTable = table{
	[]string{"p50 ms", "p99 ms", "of direct", "p99.5 ms", "range", "of direct", "of bare"},
	func(own, direct, bare []figures) []string {
		p50 := func(f figures) float64 { return micros(f.p50) / 1e3 }
		p99 := func(f figures) float64 { return micros(f.p99) / 1e3 }
		p995 := func(f figures) float64 { return micros(f.p995) / 1e3 }
		cells := []string{spread(own, p50, "%.1f")[0], spread(own, p99, "%.0f")[0], ratio(own, direct, p99)}
		return append(append(cells, spread(own, p995, "%.0f")...), ratio(own, direct, p995), ratio(own, bare, p995))
	},
}

var firstAnswerTable = table{
	[]string{"ms", "range", "slowest ms", "round trips", "of direct"},
	func(own, direct, _ []figures) []string {
		p50 := func(f figures) float64 { return micros(f.p50) / 1e3 }
		return append(spread(own, p50, "%.1f"),
			spread(own, func(f figures) float64 { return micros(f.p99) / 1e3 }, "%.0f")[0],
			fmt.Sprintf("%.2f", median(own, func(f figures) float64 { return f.trips })),
			ratio(own, direct, p50))
	},
}

var stalledTable = table{
	[]string{"alone MB/s", "beside 63 MB/s", "range", "of alone"},
	func(own, _, _ []figures) []string {
		return append(append([]string{spread(own, func(f figures) float64 { return f.alone / 1e6 }, "%.1f")[0]},
			spread(own, func(f figures) float64 { return f.rate / 1e6 }, "%.1f")...),
			fmt.Sprintf("%.2f", median(own, func(f figures) float64 { return f.rate / f.alone })))
	},
}

func micros(d time.Duration) float64 { return float64(d) / 1e3 }

// print writes one table, with a part for each load and a line for each row.
func (res results) print(w io.Writer, rows []*row, loads []load) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	var last []string
	for _, l := range loads {
		if !slices.Equal(l.table.head, last) {
			fmt.Fprintf(t, "\nload\trow\t%s\n", strings.Join(l.table.head, "\t"))
			last = l.table.head
		}
		for _, r := range rows {
			cells := l.table.cells(res[l.name][r.name], res[l.name]["direct"], res[l.name][r.bare])
			fmt.Fprintf(t, "%s\t%s\t%s\n", l.name, r.name, strings.Join(cells, "\t"))
		}
	}
	return t.Flush()
}

// median returns the median of one figure over the rounds.
func median(rounds []figures, of func(figures) float64) float64 { return middle(collect(rounds, of)) }

func collect(rounds []figures, of func(figures) float64) (values []float64) {
	for _, f := range rounds {
		values = append(values, of(f))
	}
	return values
}

func middle(values []float64) float64 {
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}

// spread returns the median and the range.
func spread(rounds []figures, of func(figures) float64, format string) []string {
	v := collect(rounds, of)
	return []string{fmt.Sprintf(format, middle(v)), fmt.Sprintf(format+"–"+format, slices.Min(v), slices.Max(v))}
}

// ratio returns the median of the rounds' ratios. Within a round both were measured soon after each
// other; between rounds the machine may have changed.
func ratio(own, base []figures, of func(figures) float64) string {
	if base == nil {
		return "–"
	}
	var v []float64
	for i := range own {
		v = append(v, of(own[i])/of(base[i]))
	}
	return fmt.Sprintf("%.2f", middle(v))
}

// perGB returns CPU seconds per 10^9 bytes over all rounds, since the clock ticks are too coarse
// for one.
func perGB(rounds []figures, of func(figures) time.Duration) string {
	var used time.Duration
	var bytes float64
	for _, f := range rounds {
		used += of(f)
		bytes += f.bytes
	}
	if used == 0 {
		return "–"
	}
	return fmt.Sprintf("%.2f", used.Seconds()/bytes*1e9)
}

// grown returns the median and the range of a memory growth. In the first round processes were
// fresh.
func grown(rounds []figures, of func(figures) int64) []string {
	if slices.ContainsFunc(rounds, func(f figures) bool { return !f.hasGrowth }) {
		return []string{"–", "–"}
	}
	return spread(rounds, func(f figures) float64 { return float64(of(f)) / mebibyte }, "%.1f")
}
