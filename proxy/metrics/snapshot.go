package metrics

import (
	"cmp"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/culvert-proxy/culvert/protocol"
)

// Snapshot is what the collectors have counted since the start.
type Snapshot struct {
	APIs     []APISnapshot // of the API keys that were used, by name
	Closes   []Count       // connections that ended, by cause
	Refusals []Count       // by reason
	Limits   []LimitSnapshot
}

// APISnapshot is what was counted for one API key.
type APISnapshot struct {
	Name          string
	Requests      uint64
	RequestBytes  uint64
	ResponseBytes uint64
	InFlight      int64 // requests that await their response now
	Throttle      time.Duration
	Throttled     uint64         // responses
	Errors        []Count        // responses with an error, by class; those of which there were none are left out
	Duration      *dto.Histogram // seconds from a request's header read to its response's correlation id read
}

// LimitSnapshot is a limit, its use, and how often it was reached.
type LimitSnapshot struct {
	LimitUse
	Refused uint64
}

// Count is a number under the value of a label.
type Count struct {
	Name  string
	Count uint64
}

// Snapshot returns what was counted. Counters go on meanwhile, so figures may differ by what
// happens in that moment.
func (m *Metrics) Snapshot() Snapshot {
	s := Snapshot{
		Closes:   counts(m.closes[:], closes[:]),
		Refusals: counts(m.refused[:], refusals[:]),
	}
	for name, a := range m.used() {
		s.APIs = append(s.APIs, a.snapshot(name))
	}
	slices.SortFunc(s.APIs, func(a, b APISnapshot) int { return cmp.Compare(a.Name, b.Name) })
	for _, u := range m.LimitUses() {
		s.Limits = append(s.Limits, LimitSnapshot{u, uint64(valueOf(m.limited[u.Limit]))})
	}
	return s
}

func (a *API) snapshot(name string) APISnapshot {
	s := APISnapshot{
		Name:          name,
		Requests:      uint64(valueOf(a.Requests)),
		RequestBytes:  uint64(valueOf(a.RequestBytes)),
		ResponseBytes: uint64(valueOf(a.ResponseBytes)),
		InFlight:      a.InFlight.Load(),
		Throttle:      time.Duration(valueOf(a.throttle) * float64(time.Second)),
		Throttled:     uint64(valueOf(a.throttled)),
		Duration:      read(a.Duration.(prometheus.Metric)).GetHistogram(),
	}
	for c, counter := range a.errors {
		if n := uint64(valueOf(counter)); n > 0 {
			s.Errors = append(s.Errors, Count{protocol.ErrorClass(c).String(), n})
		}
	}
	return s
}

func counts(counters []prometheus.Counter, names []string) (all []Count) {
	for i, c := range counters {
		all = append(all, Count{names[i], uint64(valueOf(c))})
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
