package metrics

import (
	"math"
	"time"
)

// durations is the content of a native histogram: how many durations fell into each bucket.
type durations struct {
	created time.Time // of the histogram; another time if it was reset
	count   uint64
	sum     float64  // in seconds
	zeros   uint64   // durations that are zero
	schema  int32    // each bucket ends 2^(2^-schema) times as high as the one before it
	buckets []bucket // with durations in them, by index
}

// bucket is a bucket of a native histogram. The one with index i ends at 2^(i/2^schema) seconds.
type bucket struct {
	index int32
	count uint64
}

// minus returns the durations of d that are not in before, which was read earlier from the same
// histogram. A histogram is reset at most once an hour, and its buckets become twice as wide, when
// it would get too many of them.
func (d durations) minus(before durations) durations {
	if !d.created.Equal(before.created) || d.count < before.count {
		return d
	}
	schema := min(d.schema, before.schema)
	d, before = d.widened(schema), before.widened(schema)
	left := durations{created: d.created, count: d.count - before.count, sum: d.sum - before.sum, zeros: d.zeros - before.zeros, schema: schema}
	earlier := before.buckets
	for _, b := range d.buckets {
		for len(earlier) > 0 && earlier[0].index < b.index {
			earlier = earlier[1:]
		}
		if len(earlier) > 0 && earlier[0].index == b.index {
			b.count -= min(b.count, earlier[0].count)
		}
		if b.count > 0 {
			left.buckets = append(left.buckets, b)
		}
	}
	return left
}

// plus returns the durations of both.
func (d durations) plus(other durations) durations {
	if d.count == 0 {
		return other
	}
	if other.count == 0 {
		return d
	}
	schema := min(d.schema, other.schema)
	d, other = d.widened(schema), other.widened(schema)
	sum := durations{created: d.created, count: d.count + other.count, sum: d.sum + other.sum, zeros: d.zeros + other.zeros, schema: schema}
	a, b := d.buckets, other.buckets
	for len(a) > 0 || len(b) > 0 {
		switch {
		case len(b) == 0 || len(a) > 0 && a[0].index < b[0].index:
			sum.buckets, a = append(sum.buckets, a[0]), a[1:]
		case len(a) == 0 || b[0].index < a[0].index:
			sum.buckets, b = append(sum.buckets, b[0]), b[1:]
		default:
			sum.buckets = append(sum.buckets, bucket{a[0].index, a[0].count + b[0].count})
			a, b = a[1:], b[1:]
		}
	}
	return sum
}

// widened returns the same durations in the wider buckets of a lower schema.
func (d durations) widened(schema int32) durations {
	if schema >= d.schema {
		return d
	}
	var wide []bucket
	for _, b := range d.buckets {
		index := ((b.index - 1) >> (d.schema - schema)) + 1
		if n := len(wide); n > 0 && wide[n-1].index == index {
			wide[n-1].count += b.count
		} else {
			wide = append(wide, bucket{index, b.count})
		}
	}
	d.schema, d.buckets = schema, wide
	return d
}

// quantile returns the duration in seconds that the fraction q of all durations do not exceed. As
// Prometheus does, it assumes that durations are spread within their bucket on a scale that grows
// exponentially.
func (d durations) quantile(q float64) float64 {
	rank := q * float64(d.count)
	if rank -= float64(d.zeros); rank <= 0 {
		return 0
	}
	for i, b := range d.buckets {
		if n := float64(b.count); rank <= n || i == len(d.buckets)-1 {
			return math.Exp2((float64(b.index) - 1 + min(1, rank/n)) * math.Exp2(-float64(d.schema)))
		} else {
			rank -= n
		}
	}
	return 0
}
