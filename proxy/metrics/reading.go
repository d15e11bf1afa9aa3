package metrics

import (
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/culvert-proxy/culvert/protocol"
	"github.com/culvert-proxy/culvert/proxy/status/document"
)

// reading is what the collectors of one API key show at one time, since the start: those of which
// the document shows what they were over the window.
type reading struct {
	requests, requestBytes, responseBytes float64
	duration                              durations
	timed                                 uint64  // requests that gateways have told of
	timedSeconds                          float64 // how long those took there
}

// read reads these collectors of a key.
func (a *API) read() *reading {
	r := &reading{
		requests: valueOf(a.Requests), requestBytes: valueOf(a.RequestBytes), responseBytes: valueOf(a.ResponseBytes),
		duration: readDurations(a.Duration.(prometheus.Metric)),
	}
	r.timed, r.timedSeconds = a.GatewayShare()
	return r
}

// minus returns what has come since before was read; nil: since the start.
func (r reading) minus(before *reading) reading {
	if before == nil {
		return r
	}
	return reading{
		requests: r.requests - before.requests, requestBytes: r.requestBytes - before.requestBytes,
		responseBytes: r.responseBytes - before.responseBytes,
		duration:      r.duration.minus(before.duration),
		timed:         r.timed - before.timed, timedSeconds: r.timedSeconds - before.timedSeconds,
	}
}

// plus returns the sums of two keys.
func (r reading) plus(other reading) reading {
	return reading{
		requests: r.requests + other.requests, requestBytes: r.requestBytes + other.requestBytes,
		responseBytes: r.responseBytes + other.responseBytes,
		duration:      r.duration.plus(other.duration),
		timed:         r.timed + other.timed, timedSeconds: r.timedSeconds + other.timedSeconds,
	}
}

// totals are what the other collectors of a key show now.
type totals struct {
	inFlight int64
	throttle float64
	errors   [protocol.NumErrorClasses]float64
}

// totals reads the other collectors of a key.
func (a *API) totals() totals {
	t := totals{inFlight: a.InFlight.Load(), throttle: valueOf(a.throttle)}
	for class, c := range a.errors {
		t.errors[class] = valueOf(c)
	}
	return t
}

// measured is what has been measured for one API key, or for several.
type measured struct {
	start, window reading // since the start, and over the window
	totals
	history  []float64 // requests in each of the last seconds, the newest last
	longPoll bool      // brokers hold these requests on purpose
}

// add adds another key.
func (m *measured) add(other *measured) {
	m.start, m.window = m.start.plus(other.start), m.window.plus(other.window)
	m.inFlight += other.inFlight
	m.throttle += other.throttle
	for class, n := range other.errors {
		m.errors[class] += n
	}
	more := other.history
	if len(m.history) < len(more) {
		m.history, more = slices.Clone(more), m.history
	}
	for i, n := range more {
		m.history[len(m.history)-len(more)+i] += n
	}
}

// document returns it as the status document shows it.
func (m *measured) document(name string, over time.Duration) document.API {
	a := document.API{
		Name: name, LongPoll: m.longPoll, Requests: uint64(m.start.requests), RequestBytes: uint64(m.start.requestBytes), ResponseBytes: uint64(m.start.responseBytes),
		InFlight: int(m.inFlight), Throttle: m.throttle, Latency: m.window.duration.latency(), History: m.history,
	}
	if over >= time.Second { // right after the start, one request would look like thousands a second
		a.Rate, a.RequestByteRate, a.ResponseByteRate =
			m.window.requests/over.Seconds(), m.window.requestBytes/over.Seconds(), m.window.responseBytes/over.Seconds()
	}
	if n := m.window.timed; n > 0 && m.window.toldOfNearlyAll() {
		a.Gateway = &document.Latency{Count: n, Mean: m.window.timedSeconds / float64(n)}
	}
	// Both means of a long poll are mostly waiting, and not of quite the same requests: their
	// difference would be noise.
	if a.Latency != nil && a.Gateway != nil && !m.longPoll {
		a.Tunnel = max(0, a.Latency.Mean-a.Gateway.Mean)
	}
	for class, n := range m.errors {
		if n > 0 {
			a.Errors = append(a.Errors, document.Count{Name: protocol.ErrorClass(class).String(), Count: uint64(n)})
		}
	}
	return a
}

// toldOfNearlyAll reports whether gateways have told of about as many requests as were timed here. The
// last second may be missing. If more is, as while only some gateways tell, the two means are of
// different requests.
func (r reading) toldOfNearlyAll() bool {
	return r.timed+max(maxUntold, r.duration.count/10) >= r.duration.count
}

// maxUntold is how many requests gateways may always be behind.
const maxUntold = 10

// readDurations reads a histogram.
func readDurations(m prometheus.Metric) durations {
	h := read(m).GetHistogram()
	d := durations{
		created: h.GetCreatedTimestamp().AsTime(),
		count:   h.GetSampleCount(), sum: h.GetSampleSum(), schema: h.GetSchema(), zeros: h.GetZeroCount(),
		buckets: make([]bucket, 0, len(h.GetPositiveDelta())),
	}
	deltas, index, count := h.GetPositiveDelta(), int32(0), int64(0)
	for _, span := range h.GetPositiveSpan() {
		index += span.GetOffset()
		for range span.GetLength() {
			count += deltas[0]
			deltas = deltas[1:]
			if count > 0 {
				d.buckets = append(d.buckets, bucket{index, uint64(count)})
			}
			index++
		}
	}
	return d
}

// latency sums up durations; nil if there are none.
func (d durations) latency() *document.Latency {
	if d.count == 0 {
		return nil
	}
	return &document.Latency{
		Count: d.count, Mean: d.sum / float64(d.count),
		P50: d.quantile(0.5), P90: d.quantile(0.9), P99: d.quantile(0.99),
	}
}
