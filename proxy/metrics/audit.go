package metrics

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// auditMetrics counts the lines of a gateway's audit log.
type auditMetrics struct{ lines *prometheus.CounterVec }

// What becomes of lines.
const (
	auditWritten = "written"
	auditLost    = "lost"
	auditOmitted = "omitted"
)

func newAuditMetrics(f promauto.Factory) *auditMetrics {
	return &auditMetrics{f.NewCounterVec(counterOpts("audit_lines_total",
		"Lines for the audit log, by what became of them."), []string{"result"})}
}

// startAtZero begins the series of a gateway: an increase from nothing would not be seen.
func (m *auditMetrics) startAtZero() {
	for _, result := range []string{auditWritten, auditLost, auditOmitted} {
		m.lines.WithLabelValues(result)
	}
}

// AuditWritten counts a line that the audit log has taken.
func (m *auditMetrics) AuditWritten() { m.lines.WithLabelValues(auditWritten).Inc() }

// AuditLost counts lines that it did not take in time.
func (m *auditMetrics) AuditLost(lines int) { m.lines.WithLabelValues(auditLost).Add(float64(lines)) }

// AuditOmitted counts a line that was left out, because there were too many like it.
func (m *auditMetrics) AuditOmitted() { m.lines.WithLabelValues(auditOmitted).Inc() }
