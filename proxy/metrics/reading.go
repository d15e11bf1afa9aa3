package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/culvert-proxy/culvert/proxy/status/document"
)

// reading is what the collectors of one API key show at one time, since the start.
type reading struct {
	requests, requestBytes, responseBytes float64
	duration                              durations
}

// read reads the collectors of a key.
func (a *API) read() *reading {
	return &reading{
		requests: value(a.Requests), requestBytes: value(a.RequestBytes), responseBytes: value(a.ResponseBytes),
		duration: readDurations(a.Duration),
	}
}

// add adds what another key's collectors show.
func (r *reading) add(other *reading) {
	r.requests += other.requests
	r.requestBytes += other.requestBytes
	r.responseBytes += other.responseBytes
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
	return document.API{
		Requests: uint64(r.requests), RequestBytes: uint64(r.requestBytes), ResponseBytes: uint64(r.responseBytes),
		Rate:             perSecond(r.requests, before.requests),
		RequestByteRate:  perSecond(r.requestBytes, before.requestBytes),
		ResponseByteRate: perSecond(r.responseBytes, before.responseBytes),
		Latency:          r.duration.minus(before.duration).latency(),
	}
}

// readDurations reads a histogram.
func readDurations(o prometheus.Observer) (d durations) {
	h, ok := o.(prometheus.Metric)
	var m dto.Metric
	if !ok || h.Write(&m) != nil {
		return durations{}
	}
	read := m.GetHistogram()
	d = durations{
		created: read.GetCreatedTimestamp().AsTime(),
		count:   read.GetSampleCount(), sum: read.GetSampleSum(), schema: read.GetSchema(), zeros: read.GetZeroCount(),
		buckets: make([]bucket, 0, len(read.GetPositiveDelta())),
	}
	deltas, index, count := read.GetPositiveDelta(), int32(0), int64(0)
	for _, span := range read.GetPositiveSpan() {
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
