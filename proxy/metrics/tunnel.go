package metrics

import (
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// tunnelMetrics counts what happens between an agent and its gateways.
type tunnelMetrics struct {
	streams      *prometheus.GaugeVec
	dials        *prometheus.CounterVec
	dialDuration *prometheus.HistogramVec
	fallbacks    *prometheus.CounterVec
	faults       *prometheus.CounterVec
	transport    *prometheus.GaugeVec
	nextProbe    *prometheus.GaugeVec
	udpBuffers   *prometheus.GaugeVec
}

func newTunnelMetrics(f promauto.Factory) *tunnelMetrics {
	return &tunnelMetrics{
		streams: f.NewGaugeVec(gaugeOpts("streams",
			"Tunnel streams open now."), []string{"transport"}),
		dials: f.NewCounterVec(counterOpts("tunnel_dials_total",
			"Dials of a gateway that ended."), []string{"transport", "result"}),
		dialDuration: f.NewHistogramVec(histogramOpts("tunnel_dial_duration_seconds",
			"From the start of a dial until a connection can carry a stream. Only dials that succeeded are timed."), []string{"transport"}),
		fallbacks: f.NewCounterVec(counterOpts("tunnel_fallbacks_total",
			"Times that new streams moved from one transport to another."), []string{"from", "to"}),
		faults: f.NewCounterVec(counterOpts("tunnel_faults_total",
			"Times that a transport which works was found to be slow, or late with small messages, by what was done about it."), []string{"transport", "fault", "outcome"}),
		transport: f.NewGaugeVec(gaugeOpts("tunnel_transport",
			"1 for the transport that new streams to a gateway use, 0 for the others."), []string{"gateway", "transport"}),
		nextProbe: f.NewGaugeVec(gaugeOpts("tunnel_next_probe_timestamp_seconds",
			"When a better transport than the one in use is tried next; 0 for never."), []string{"gateway", "transport"}),
		udpBuffers: f.NewGaugeVec(gaugeOpts("udp_buffer_bytes",
			"Sizes of the UDP socket's buffers for h3, as the kernel granted them."), []string{"direction"}),
	}
}

// startAtZero creates the series of an agent's dials, and of the faults of transports, before the
// first dial. Prometheus's rate and increase do not see the step from no series to 1.
func (m *tunnelMetrics) startAtZero() {
	for _, from := range tunnelTransports {
		for _, r := range results {
			m.dials.WithLabelValues(from, string(r))
		}
		for _, to := range tunnelTransports {
			if from != to {
				m.fallbacks.WithLabelValues(from, to)
			}
		}
		for _, f := range []tunnel.Fault{tunnel.Slow, tunnel.Late, tunnel.Costly} {
			for _, o := range tunnel.Outcomes() {
				m.faults.WithLabelValues(from, f.String(), string(o))
			}
		}
	}
}

// Stream counts an open tunnel stream. The caller calls closed once, when the stream is over.
func (m *tunnelMetrics) Stream(transport string) (closed func()) {
	return enter(m.streams.WithLabelValues(transportLabel(transport)))
}

func enter(g prometheus.Gauge) (leave func()) {
	g.Inc()
	return g.Dec
}

// UDPBuffers records the sizes of the UDP socket's buffers, in bytes.
func (m *tunnelMetrics) UDPBuffers(receive, send int) {
	m.udpBuffers.WithLabelValues("receive").Set(float64(receive))
	m.udpBuffers.WithLabelValues("send").Set(float64(send))
}

// TunnelDial counts a dial of a gateway that took d. It observes the duration only of a dial that
// succeeded: a timeout says how patient we are, not how long a dial takes.
func (m *tunnelMetrics) TunnelDial(transport string, r Result, d time.Duration) {
	transport = transportLabel(transport)
	m.dials.WithLabelValues(transport, r.label()).Inc()
	if r == ResultOK {
		m.dialDuration.WithLabelValues(transport).Observe(d.Seconds())
	}
}

// TunnelFault counts a fault of a transport that works.
func (m *tunnelMetrics) TunnelFault(transport string, f tunnel.Fault, o tunnel.Outcome) {
	m.faults.WithLabelValues(transportLabel(transport), f.String(), string(o)).Inc()
}

// Tunnel records which transport leads to one gateway. Make it with [Metrics.Tunnel]. Its methods
// must not be called concurrently.
type Tunnel struct {
	metrics *tunnelMetrics
	gateway string
	last    string // the transport that worked last; "" before the first
}

// Tunnel returns a [Tunnel] for a gateway. gateway becomes a label: it is the host and port from a
// setting, so there are only a few.
func (m *tunnelMetrics) Tunnel(gateway string) *Tunnel {
	t := &Tunnel{metrics: m, gateway: gateway}
	t.Uses("")
	return t
}

// Uses records which transport new streams use from now on; "" means that none works. Each change
// of transport is counted, to a better or to a worse one.
func (t *Tunnel) Uses(transport string) {
	for _, each := range tunnelTransports {
		used := 0.0
		if each == transport {
			used = 1
		}
		t.metrics.transport.WithLabelValues(t.gateway, each).Set(used)
	}
	if transport == "" {
		return
	}
	if t.last != "" && t.last != transport {
		t.metrics.fallbacks.WithLabelValues(transportLabel(t.last), transportLabel(transport)).Inc()
	}
	t.last = transport
}

// NextProbe records when a transport that is better than the one in use is tried again; the zero
// time means never.
func (t *Tunnel) NextProbe(transport string, at time.Time) {
	seconds := 0.0
	if !at.IsZero() {
		seconds = float64(at.Unix())
	}
	t.metrics.nextProbe.WithLabelValues(t.gateway, transportLabel(transport)).Set(seconds)
}

// tunnelTransports are the transports to a gateway, best first.
var tunnelTransports = tunnel.Transports()

// transportLabel returns transport if it is a known one, otherwise "other". "direct" is an agent
// without a tunnel.
func transportLabel(transport string) string {
	if transport == "direct" || slices.Contains(tunnelTransports, transport) {
		return transport
	}
	return "other"
}
