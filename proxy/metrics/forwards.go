package metrics

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// forwardMetrics counts what passes beside Kafka, by the name of a forward: a setting.
type forwardMetrics struct {
	connections *prometheus.GaugeVec
	bytes       *prometheus.CounterVec
	dials       *prometheus.CounterVec
	closes      *prometheus.CounterVec
}

func newForwardMetrics(f promauto.Factory) *forwardMetrics {
	return &forwardMetrics{
		connections: f.NewGaugeVec(gaugeOpts("forward_connections",
			"Connections of a forward open now."), []string{"forward"}),
		bytes: f.NewCounterVec(counterOpts("forward_bytes_total",
			"Bytes that connections of a forward have received: up from clients, down from the target."), []string{"forward", "direction"}),
		dials: f.NewCounterVec(counterOpts("forward_dials_total",
			"Dials of the target of a forward that ended."), []string{"forward", "result"}),
		closes: f.NewCounterVec(counterOpts("forward_closes_total",
			"Connections of a forward that ended, by what ended them first."), []string{"forward", "cause"}),
	}
}

// OfForward returns the value of the label cause for a connection of a forward.
func (c Close) OfForward() string { return forwardCloses[c] }

// forwardCloses are the causes that a connection of a forward can have.
var forwardCloses = map[Close]string{
	CloseClientFIN:   "client_fin",
	CloseClientReset: "client_reset",
	CloseBrokerFIN:   "target_fin",
	CloseBrokerReset: "target_reset",
	CloseTunnelCut:   "tunnel_cut",
	CloseDrain:       "drain",
	CloseDial:        "dial",
}

// Forward holds the collectors of one forward. Make it with [Metrics.Forward].
type Forward struct {
	Up, Down prometheus.Counter // bytes

	open        atomic.Int64
	connections prometheus.Gauge
	dials       map[Result]prometheus.Counter
	closes      map[Close]prometheus.Counter
}

// Forward returns the collectors of a forward, from zero. The name becomes a label: it is a setting.
func (m *forwardMetrics) Forward(name string) *Forward {
	f := &Forward{
		Up: m.bytes.WithLabelValues(name, "up"), Down: m.bytes.WithLabelValues(name, "down"),
		connections: m.connections.WithLabelValues(name),
		dials:       map[Result]prometheus.Counter{}, closes: map[Close]prometheus.Counter{},
	}
	for _, r := range results {
		f.dials[r] = m.dials.WithLabelValues(name, string(r))
	}
	for c, cause := range forwardCloses {
		f.closes[c] = m.closes.WithLabelValues(name, cause)
	}
	return f
}

// Enter counts an open connection. The caller calls leave once, when it has ended.
func (f *Forward) Enter() (leave func()) {
	f.open.Add(1)
	f.connections.Inc()
	return func() {
		f.open.Add(-1)
		f.connections.Dec()
	}
}

// Open returns how many connections are open now.
func (f *Forward) Open() int { return int(f.open.Load()) }

// Dialled counts a dial of the target that ended with err, which may be nil.
func (f *Forward) Dialled(err error) { f.dials[ResultOf(err)].Inc() }

// Closed counts the end of a connection.
func (f *Forward) Closed(c Close) { f.closes[c].Inc() }
