package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/culvert-proxy/culvert/protocol"
	"github.com/culvert-proxy/culvert/proxy/status/document"
)

// reading is what the collectors of one API key show at one time, since the start.
type reading struct {
	requests, requestBytes, responseBytes float64
	inFlight                              int64 // now
	throttle                              float64
	errors                                [protocol.NumErrorClasses]float64
	duration                              durations
}

// read reads the collectors of a key.
func (a *API) read() *reading {
	r := &reading{
		requests: valueOf(a.Requests), requestBytes: valueOf(a.RequestBytes), responseBytes: valueOf(a.ResponseBytes),
		inFlight: a.InFlight.Load(), throttle: valueOf(a.throttle),
		duration: readDurations(a.Duration.(prometheus.Metric)),
	}
	for class, c := range a.errors {
		r.errors[class] = valueOf(c)
	}
	return r
}

// add adds what another key's collectors show.
func (r *reading) add(other *reading) {
	r.requests += other.requests
	r.requestBytes += other.requestBytes
	r.responseBytes += other.responseBytes
	r.inFlight += other.inFlight
	r.throttle += other.throttle
	for class, n := range other.errors {
		r.errors[class] += n
	}
	r.duration = r.duration.plus(other.duration)
}

// since returns what has been measured since the start, and over the time since before was read.
func (r *reading) since(before *reading, over time.Duration) document.API {
	perSecond := func(now, then float64) float64 {
		if over <= 0 {
			return 0
		}
		return (now - then) / over.Seconds()
	}
	a := document.API{
		Requests: uint64(r.requests), RequestBytes: uint64(r.requestBytes), ResponseBytes: uint64(r.responseBytes),
		InFlight: int(r.inFlight), Throttle: r.throttle,
		Rate:             perSecond(r.requests, before.requests),
		RequestByteRate:  perSecond(r.requestBytes, before.requestBytes),
		ResponseByteRate: perSecond(r.responseBytes, before.responseBytes),
		Latency:          r.duration.minus(before.duration).latency(),
	}
	for class, n := range r.errors {
		if n > 0 {
			a.Errors = append(a.Errors, document.Count{Name: protocol.ErrorClass(class).String(), Count: uint64(n)})
		}
	}
	return a
}

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
