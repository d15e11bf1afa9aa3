package metrics

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// stateMetrics shows what a process is asked for at each scrape, and counts nothing itself.
type stateMetrics struct {
	readyDesc, expiryDesc, usedDesc, maxDesc *prometheus.Desc

	mu     sync.Mutex
	ready  func() error
	expiry map[string]func() time.Time
	limits func() []LimitUse
}

// LimitUse is how much of a limit is used.
type LimitUse struct {
	Limit Limit
	Used  int64 // bytes of memory, otherwise a number of streams, spares or connections
	Max   int64 // 0: there is no limit
}

func newStateMetrics(reg prometheus.Registerer) *stateMetrics {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(prometheus.BuildFQName(namespace, "", name), help, labels, nil)
	}
	m := &stateMetrics{
		readyDesc:  desc("ready", "Whether /readyz says 200."),
		expiryDesc: desc("certificate_expiry_timestamp_seconds", "When a certificate expires.", "certificate"),
		usedDesc:   desc("limit_used", "How much of a limit is used; memory in bytes.", "limit"),
		maxDesc:    desc("limit_max", "How much a limit allows; memory in bytes. Limits that are switched off have no series.", "limit"),
		expiry:     map[string]func() time.Time{},
	}
	reg.MustRegister(m)
	return m
}

// AskReady sets what says whether the process is ready. Before, it is not.
func (m *stateMetrics) AskReady(ready func() error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ready = ready
}

// AskExpiry sets what says when a certificate expires; the zero time is not known, and has no
// series. The name becomes a label, so it must be a constant.
func (m *stateMetrics) AskExpiry(certificate string, expires func() time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expiry[certificate] = expires
}

// AskLimits sets what says how much of each limit is used.
func (m *stateMetrics) AskLimits(limits func() []LimitUse) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.limits = limits
}

// LimitUses returns how much of each limit is used.
func (m *stateMetrics) LimitUses() []LimitUse {
	m.mu.Lock()
	limits := m.limits
	m.mu.Unlock()
	if limits == nil {
		return nil
	}
	return limits()
}

// Describe and Collect make it a collector.
func (m *stateMetrics) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.readyDesc, m.expiryDesc, m.usedDesc, m.maxDesc} {
		descs <- d
	}
}

// Collect asks without holding the lock, as an answer may take one that is held while the process
// sets what is asked.
func (m *stateMetrics) Collect(into chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		into <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	m.mu.Lock()
	ready, expiry := m.ready, maps.Clone(m.expiry)
	m.mu.Unlock()
	isReady := 0.0
	if ready != nil && ready() == nil {
		isReady = 1
	}
	gauge(m.readyDesc, isReady)
	for _, name := range slices.Sorted(maps.Keys(expiry)) {
		if at := expiry[name](); !at.IsZero() {
			gauge(m.expiryDesc, float64(at.Unix()), name)
		}
	}
	for _, u := range m.LimitUses() {
		gauge(m.usedDesc, float64(u.Used), u.Limit.String())
		if u.Max > 0 {
			gauge(m.maxDesc, float64(u.Max), u.Limit.String())
		}
	}
}
