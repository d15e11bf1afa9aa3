package metrics

import (
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/culvert-proxy/culvert/proxy/status/document"
)

// Closes returns how many Kafka connections have ended, by cause.
func (m *reasonMetrics) Closes() []document.Count { return counts(m.closes[:], closes[:]) }

// Refusals returns how much was refused instead of being relayed, by reason.
func (m *reasonMetrics) Refusals() []document.Count { return counts(m.refused[:], refusals[:]) }

// Limits returns the limits, their use, and how often each was reached.
func (m *Metrics) Limits() []document.Limit {
	all := []document.Limit{}
	for _, u := range m.LimitUses() {
		l := document.Limit{Name: u.Limit.String(), Used: uint64(u.Used), Max: uint64(u.Max), Refused: uint64(valueOf(m.limited[u.Limit]))}
		if u.Limit == LimitMemory {
			l.Unit = "bytes"
		}
		all = append(all, l)
	}
	return all
}

// counts returns what counters show, in the order of their label values.
func counts(counters []prometheus.Counter, values []string) []document.Count {
	all := make([]document.Count, len(values))
	for i, name := range values {
		all[i] = document.Count{Name: name, Count: uint64(valueOf(counters[i]))}
	}
	return all
}

func valueOf(c prometheus.Counter) float64 { return read(c).GetCounter().GetValue() }

// read returns what a scrape gets of m.
func read(m prometheus.Metric) *dto.Metric {
	var into dto.Metric
	if err := m.Write(&into); err != nil { // it cannot fail with collectors that were made right
		panic(err)
	}
	return &into
}
