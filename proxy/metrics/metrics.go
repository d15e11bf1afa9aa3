// Package metrics holds the Prometheus collectors of both ends, the agent and
// the gateway. Both expose the same names; the scrape job, or the label end of
// culvert_build_info, tells them apart. docs/metrics.md says which question
// each metric answers.
//
// Every label takes its values from a set that culvert bounds: what a peer
// invents is counted under "unknown", "other" or "error". Client ids,
// addresses, topics and groups never become labels; the gateway's host does,
// which is a setting.
//
// All methods may be called concurrently. What the relay path uses, [API] and
// the counters behind [Metrics.Refused] and [Metrics.Closed], is resolved
// beforehand: it takes no lock and allocates nothing.
package metrics

import (
	"runtime"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/culvert-proxy/culvert/protocol"
)

// End is the side of the tunnel that a process is.
type End string

// The two ends.
const (
	Agent   End = "agent"
	Gateway End = "gateway"
)

// Metrics are the collectors of one process. Make them with [New].
type Metrics struct {
	requests      *prometheus.CounterVec
	requestBytes  *prometheus.CounterVec
	responseBytes *prometheus.CounterVec
	duration      *prometheus.HistogramVec
	transfer      *prometheus.HistogramVec
	queued        *prometheus.CounterVec
	rewritten     *prometheus.CounterVec
	blanked       *prometheus.CounterVec

	apis [protocol.MaxKey + 2]atomic.Pointer[API] // by key; the last is for unknown keys

	refused [numRefusals]prometheus.Counter
	closes  [numCloses]prometheus.Counter
	tickets [numTicketEvents]prometheus.Counter
	limited [numLimits]prometheus.Counter

	connections        *connections
	streams            *prometheus.GaugeVec
	nodes              prometheus.Gauge
	brokerDials        *prometheus.CounterVec
	tunnelDials        *prometheus.CounterVec
	tunnelDialDuration *prometheus.HistogramVec
	tunnelFallbacks    *prometheus.CounterVec
	tunnelTransport    *prometheus.GaugeVec
	tunnelNextProbe    *prometheus.GaugeVec
	udpBuffers         *prometheus.GaugeVec
	registerer         prometheus.Registerer // of collectors that not every process has
}

// New registers the collectors of one end with reg, those of the process and
// of the Go runtime among them, and panics if one is there already. The
// version is culvert's own.
func New(reg prometheus.Registerer, end End, version string) *Metrics {
	f := promauto.With(reg)
	m := &Metrics{
		requests: f.NewCounterVec(counterOpts("requests_total",
			"Requests whose header was read."), []string{"api_key"}),
		requestBytes: f.NewCounterVec(counterOpts("request_bytes_total",
			"Bytes of request frames relayed, their four bytes of length included."), []string{"api_key"}),
		responseBytes: f.NewCounterVec(counterOpts("response_bytes_total",
			"Bytes of response frames relayed, their four bytes of length included."), []string{"api_key"}),
		duration: f.NewHistogramVec(histogramOpts("request_duration_seconds",
			"From a request's header read to its response's correlation id read. Produce with acks=0 has no response and is not timed."), []string{"api_key"}),
		transfer: f.NewHistogramVec(histogramOpts("response_transfer_seconds",
			"From a response's correlation id read to its last byte relayed."), []string{"api_key"}),
		queued: f.NewCounterVec(counterOpts("requests_queued_total",
			"Requests whose header was read while another on their connection awaited its response."), []string{"api_key"}),
		rewritten: f.NewCounterVec(counterOpts("rewritten_addresses_total",
			"Broker addresses in responses replaced by local ones."), []string{"api_key"}),
		blanked: f.NewCounterVec(counterOpts("blanked_addresses_total",
			"Addresses in responses replaced by one that leads nowhere: leader hints without a ticket, controllers."), []string{"api_key"}),
		connections: newConnections(),
		streams: f.NewGaugeVec(gaugeOpts("streams",
			"Tunnel streams open now."), []string{"transport"}),
		nodes: f.NewGauge(gaugeOpts("nodes",
			"Nodes of the cluster in the table.")),
		brokerDials: f.NewCounterVec(counterOpts("broker_dials_total",
			"Dials of a broker that ended."), []string{"result"}),
		tunnelDials: f.NewCounterVec(counterOpts("tunnel_dials_total",
			"Dials of a gateway that ended."), []string{"transport", "result"}),
		tunnelDialDuration: f.NewHistogramVec(histogramOpts("tunnel_dial_duration_seconds",
			"From the start of a dial to a carrier that is ready for a stream. Only dials that succeeded are timed."), []string{"transport"}),
		tunnelFallbacks: f.NewCounterVec(counterOpts("tunnel_fallbacks_total",
			"Times that new streams moved from one transport to another."), []string{"from", "to"}),
		tunnelTransport: f.NewGaugeVec(gaugeOpts("tunnel_transport",
			"1 for the transport that new streams to a gateway take, 0 for the others."), []string{"gateway", "transport"}),
		tunnelNextProbe: f.NewGaugeVec(gaugeOpts("tunnel_next_probe_timestamp_seconds",
			"When a better transport than the one in use is tried next; 0 for never."), []string{"gateway", "transport"}),
		udpBuffers: f.NewGaugeVec(gaugeOpts("udp_buffer_bytes",
			"What the buffers of the UDP socket below h3 hold, as the kernel granted it."), []string{"direction"}),
		registerer: reg,
	}
	resolve(m.refused[:], refusals[:], f.NewCounterVec(counterOpts("refused_total",
		"Connections, requests and responses refused instead of being relayed."), []string{"reason"}))
	resolve(m.closes[:], closes[:], f.NewCounterVec(counterOpts("connection_closes_total",
		"Kafka connections that ended, by what ended them first."), []string{"cause"}))
	resolve(m.tickets[:], ticketEvents[:], f.NewCounterVec(counterOpts("tickets_total",
		"Tickets for broker addresses, by what became of them."), []string{"result"}))
	resolve(m.limited[:], limits[:], f.NewCounterVec(counterOpts("limit_refusals_total",
		"Streams and connections refused because a limit was reached."), []string{"limit"}))

	f.NewGaugeVec(gaugeOpts("build_info",
		"Always 1; the labels say what runs here."), []string{"end", "version", "go_version"}).
		WithLabelValues(string(end), version, runtime.Version()).Set(1)
	reg.MustRegister(
		m.connections,
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		newRuntimeCollector(),
	)
	m.startAtZero(end)
	return m
}

// startAtZero makes the series of rare events exist before their first event,
// since rate and increase do not see the step from nothing to one.
func (m *Metrics) startAtZero(end End) {
	switch end {
	case Agent:
		for _, from := range tunnelTransports {
			for _, r := range results {
				m.tunnelDials.WithLabelValues(from, string(r))
			}
			for _, to := range tunnelTransports {
				if from != to {
					m.tunnelFallbacks.WithLabelValues(from, to)
				}
			}
		}
	case Gateway:
		for _, r := range results {
			m.brokerDials.WithLabelValues(string(r))
		}
	}
}

// resolve fills counters with those of vec, one for each label value.
func resolve(counters []prometheus.Counter, values []string, vec *prometheus.CounterVec) {
	for i, v := range values {
		counters[i] = vec.WithLabelValues(v)
	}
}

const namespace = "culvert"

func counterOpts(name, help string) prometheus.CounterOpts {
	return prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}
}

func gaugeOpts(name, help string) prometheus.GaugeOpts {
	return prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help}
}

// histogramOpts are those of every duration: a native histogram, whose buckets
// are 10 % wide, and ten classic buckets for servers that do not scrape native
// ones. No classic boundary is at 500 ms, where the brokers' answers to idle
// consumers lie (fetch.max.wait.ms).
func histogramOpts(name, help string) prometheus.HistogramOpts {
	return prometheus.HistogramOpts{
		Namespace: namespace, Name: name, Help: help,
		Buckets:                         []float64{0.0005, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 10},
		NativeHistogramBucketFactor:     1.1,
		NativeHistogramMaxBucketNumber:  100,
		NativeHistogramMinResetDuration: time.Hour,
	}
}
