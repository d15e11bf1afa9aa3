package metrics

import (
	"runtime/metrics"

	"github.com/prometheus/client_golang/prometheus"
)

// runtimeMetrics are the metrics of the Go runtime that help an operator. They have the names that
// client_golang's own collector uses, so that ready-made dashboards work. We do not use that
// collector because it always includes a summary of GC pauses. Quantiles of one process cannot be
// combined over several, and the sidecar that scrapes in Snowpark Container Services does not
// support summaries.
var runtimeMetrics = []struct {
	name   string
	help   string
	source string // of package runtime/metrics
	kind   prometheus.ValueType
}{
	{"go_goroutines", "Goroutines that exist now.", "/sched/goroutines:goroutines", prometheus.GaugeValue},
	{"go_sched_gomaxprocs_threads", "Threads that may run Go code at once.", "/sched/gomaxprocs:threads", prometheus.GaugeValue},
	{"go_memstats_sys_bytes", "Memory mapped by the runtime.", "/memory/classes/total:bytes", prometheus.GaugeValue},
	{"go_memstats_heap_alloc_bytes", "Heap memory of live objects and of dead ones not yet swept.", "/memory/classes/heap/objects:bytes", prometheus.GaugeValue},
	{"go_memstats_heap_released_bytes", "Heap memory given back to the system.", "/memory/classes/heap/released:bytes", prometheus.GaugeValue},
	{"go_memstats_stack_inuse_bytes", "Memory of goroutines' stacks.", "/memory/classes/heap/stacks:bytes", prometheus.GaugeValue},
	{"go_memstats_next_gc_bytes", "Heap size at which the garbage collector runs next.", "/gc/heap/goal:bytes", prometheus.GaugeValue},
	{"go_gc_gomemlimit_bytes", "Memory limit of the runtime, GOMEMLIMIT.", "/gc/gomemlimit:bytes", prometheus.GaugeValue},
	{"go_memstats_alloc_bytes_total", "Heap memory allocated since the start.", "/gc/heap/allocs:bytes", prometheus.CounterValue},
	{"go_gc_cycles_total_gc_cycles_total", "Garbage collections completed.", "/gc/cycles/total:gc-cycles", prometheus.CounterValue},
	{"go_cpu_classes_gc_total_cpu_seconds_total", "CPU time that the garbage collector took, as the runtime estimates it.", "/cpu/classes/gc/total:cpu-seconds", prometheus.CounterValue},
	{"go_sync_mutex_wait_total_seconds_total", "Time that goroutines waited for locks.", "/sync/mutex/wait/total:seconds", prometheus.CounterValue},
}

// runtimeCollector reads runtimeMetrics at each scrape.
type runtimeCollector struct {
	descs []*prometheus.Desc // one for each of runtimeMetrics
}

var _ prometheus.Collector = (*runtimeCollector)(nil)

func newRuntimeCollector() *runtimeCollector {
	c := &runtimeCollector{}
	for _, m := range runtimeMetrics {
		c.descs = append(c.descs, prometheus.NewDesc(m.name, m.help, nil, nil))
	}
	return c
}

func (c *runtimeCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		ch <- d
	}
}

func (c *runtimeCollector) Collect(ch chan<- prometheus.Metric) {
	samples := make([]metrics.Sample, len(runtimeMetrics))
	for i, m := range runtimeMetrics {
		samples[i].Name = m.source
	}
	metrics.Read(samples)
	for i, s := range samples {
		if v, ok := number(s.Value); ok {
			ch <- prometheus.MustNewConstMetric(c.descs[i], runtimeMetrics[i].kind, v)
		}
	}
}

// number returns a sample as a float. ok is false for a metric that this version of Go does not
// have.
func number(v metrics.Value) (n float64, ok bool) {
	switch v.Kind() {
	case metrics.KindUint64:
		return float64(v.Uint64()), true
	case metrics.KindFloat64:
		return v.Float64(), true
	}
	return 0, false
}
