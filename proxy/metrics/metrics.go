// Package metrics holds the Prometheus collectors of both ends, the agent and the gateway. Both
// expose the same names; the scrape job, or the label end of culvert_build_info, tells them apart.
// docs/metrics.md says which question each metric answers.
//
// Every label has a bounded set of values: what a peer invents is counted under "unknown", "other"
// or "error". Client ids, addresses, topics and groups never become labels, because a peer could
// create series without end. The gateway's host does become one, because it is a setting.
//
// All methods may be called concurrently, except those of [Tunnel]. What the relay path uses is
// resolved beforehand and then takes no lock and allocates nothing: [API], and the counters of
// [Metrics.Refused] and [Metrics.Closed].
package metrics

import (
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// End is the side of the tunnel that a process is.
type End string

// The two ends.
const (
	Agent   End = "agent"
	Gateway End = "gateway"
)

// Metrics are the collectors of one process, in a group for each kind of thing they count. Make
// them with [New].
type Metrics struct {
	*apiMetrics
	*reasonMetrics
	*nodeMetrics
	*tunnelMetrics
	*carrierMetrics
	*loginMetrics
	*stateMetrics
	*forwardMetrics
	*auditMetrics
}

// New registers the collectors of one end with reg, with those of the process and of the Go
// runtime, and panics if one of them is registered already. The version is culvert's own.
func New(reg prometheus.Registerer, end End, version string) *Metrics {
	f := promauto.With(reg)
	m := &Metrics{newAPIMetrics(f, reg), newReasonMetrics(f), newNodeMetrics(f, reg), newTunnelMetrics(f), newCarrierMetrics(reg), &loginMetrics{reg}, newStateMetrics(reg), newForwardMetrics(f), newAuditMetrics(f)}
	f.NewGaugeVec(gaugeOpts("build_info",
		"Always 1; the labels say which end and version runs."), []string{"end", "version", "go_version"}).
		WithLabelValues(string(end), version, runtime.Version()).Set(1)
	reg.MustRegister(
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		newRuntimeCollector(),
	)
	switch end {
	case Agent:
		m.tunnelMetrics.startAtZero()
	case Gateway:
		m.nodeMetrics.startAtZero()
		m.auditMetrics.startAtZero()
	}
	return m
}
