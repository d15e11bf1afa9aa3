package main

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/culvert-proxy/culvert/test/proc"
)

// load is measured in each row once a round.
type load struct {
	name  string
	run   func(r *row, window time.Duration) (figures, error)
	table table
}

// figures are the results of one row under one load in one round. What the load does not measure is
// zero.
type figures struct {
	rate      float64 // bytes a second
	bytes     float64 // that cpu belongs to; 0: unknown
	cpu       used
	p50, p99  time.Duration
	firstByte time.Duration
	growth    ends[int64] // of memory, in bytes
	hasGrowth bool

	p995  time.Duration
	trips float64 // round trips of the link
	alone float64 // rate
}

const mebibyte = 1 << 20

var loads = []load{
	{"first byte", firstByte(fetchRequest(fetchVersion, mebibyte), fetchRequest(fetchVersion, 40*mebibyte)), firstByteTable},
	{"produce", throughput(produceRequest(1000 << 10)), throughputTable},      // Java's max.request.size, less headers
	{"produce 16 KiB", throughput(produceRequest(16 << 10)), throughputTable}, // Java's batch.size
	{"kgo produce", kgoLoad(kgoProduce, kgoProducer...), throughputTable},
	{"fetch v17", throughput(fetchRequest(fetchVersion, mebibyte)), throughputTable},
	{"fetch v11", throughput(fetchRequest(11, mebibyte)), throughputTable},
	{"kgo consume", kgoLoad(kgoConsume, kgoConsumer...), throughputTable},
	{"one record", latency(produceRequest(recordSize)), latencyTable},
	{"one record ×16", tail(16, produceRequest(recordSize)), tailTable},
	{"first answer", firstAnswer, firstAnswerTable},
	{"63 stalled", stalled(64, fetchRequest(fetchVersion, mebibyte), fetchRequest(fetchVersion, 16*mebibyte)), stalledTable},
}

// throughput measures how fast requests of one kind are answered, and the cost.
func throughput(request []byte) func(*row, time.Duration) (figures, error) {
	return func(r *row, window time.Duration) (f figures, err error) {
		s := &stream{request: request}
		err = s.run(r, func() { f.observe(r, window, &s.carried) })
		return f, err
	}
}

// observe measures a load while it runs.
func (f *figures) observe(r *row, window time.Duration, carried *atomic.Int64) {
	time.Sleep(window / 4) // warm up
	awaitMore(carried, 0)
	before, ok := usage(r)
	begin, start := time.Now(), carried.Load()
	time.Sleep(window)
	awaitMore(carried, start)
	n := float64(carried.Load() - start)
	f.rate = n / time.Since(begin).Seconds()
	if ok {
		after, _ := usage(r)
		f.bytes, f.cpu = n, after.since(before)
	}
}

// awaitMore waits until something was carried, in case the machine is busy with something else.
func awaitMore(carried *atomic.Int64, than int64) {
	for begin := time.Now(); carried.Load() <= than && time.Since(begin) < 10*time.Second; {
		time.Sleep(time.Millisecond)
	}
}

// latency measures one request at a time on one connection.
func latency(request []byte) func(*row, time.Duration) (figures, error) {
	return func(r *row, window time.Duration) (figures, error) {
		c, err := r.wan.dial(r.brokers[0])
		if err != nil {
			return figures{}, err
		}
		took, err := roundTrips(c, request, window, 100)
		if err != nil {
			return figures{}, err
		}
		slices.Sort(took)
		return figures{p50: quantile(took, 0.50), p99: quantile(took, 0.99)}, nil
	}
}

// firstByte measures how soon a large response begins to arrive, and how much memory it takes on
// its way to a client that reads. The connection has carried small responses before, so that
// buffers and code are in memory.
func firstByte(small, large []byte) func(*row, time.Duration) (figures, error) {
	return func(r *row, _ time.Duration) (f figures, err error) {
		c, err := r.wan.dial(r.brokers[0])
		if err != nil {
			return f, err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(time.Minute))
		for range 5 {
			if err := c.exchange(small); err != nil {
				return f, err
			}
		}
		var took []time.Duration
		f.growth, f.hasGrowth, err = growth(r, func() error {
			for range 5 {
				t, err := c.firstByte(large)
				if err != nil {
					return err
				}
				took = append(took, t)
			}
			return nil
		})
		if err != nil {
			return f, err
		}
		slices.Sort(took)
		f.firstByte = quantile(took, 0.5)
		return f, nil
	}
}

// said returns the output of the row's processes.
func (r *row) said() string {
	time.Sleep(100 * time.Millisecond) // they may still be writing
	var b strings.Builder
	for _, p := range []*proc.Process{r.agent, r.gateway} {
		if p != nil {
			fmt.Fprintf(&b, "\n%s", p.Output())
		}
	}
	return b.String()
}

// results are the figures of all rounds so far, by load and row.
type results map[string]map[string][]figures

// measure measures every load in every row once. Each round starts with another row, so that
// disturbances affect all rows alike.
func (res results) measure(round int, rows []*row, loads []load, window time.Duration) error {
	for _, l := range loads {
		if res[l.name] == nil {
			res[l.name] = map[string][]figures{}
		}
		for i := range rows {
			r := rows[(i+round)%len(rows)]
			f, err := l.run(r, window)
			if err != nil {
				return fmt.Errorf("%s, %s: %w%s", r.name, l.name, err, r.said())
			}
			res[l.name][r.name] = append(res[l.name][r.name], f)
		}
	}
	return nil
}
