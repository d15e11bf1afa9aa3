package metrics

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// namespace begins the name of each metric of ours.
const namespace = "culvert"

func counterOpts(name, help string) prometheus.CounterOpts {
	return prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}
}

func gaugeOpts(name, help string) prometheus.GaugeOpts {
	return prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help}
}

// histogramOpts describes the histogram of a duration: a native one, whose buckets are 10 % wide,
// and ten classic buckets for servers that do not scrape native histograms. No classic bucket ends
// at 500 ms: that is where brokers answer idle consumers (fetch.max.wait.ms), and such answers
// would fall into either bucket by chance.
func histogramOpts(name, help string) prometheus.HistogramOpts {
	return prometheus.HistogramOpts{
		Namespace: namespace, Name: name, Help: help,
		Buckets:                         []float64{0.0005, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 10},
		NativeHistogramBucketFactor:     1.1,
		NativeHistogramMaxBucketNumber:  100,
		NativeHistogramMinResetDuration: time.Hour,
	}
}

// resolve fills counters with the counters of vec, one for each label value, so that counting needs
// no lookup.
func resolve(counters []prometheus.Counter, values []string, vec *prometheus.CounterVec) {
	for i, v := range values {
		counters[i] = vec.WithLabelValues(v)
	}
}

// registered registers c and returns it. If an equal collector is registered already, it returns
// that one. It panics on any other error, as MustRegister does.
func registered[C prometheus.Collector](reg prometheus.Registerer, c C) C {
	err := reg.Register(c)
	if already, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		return already.ExistingCollector.(C)
	}
	if err != nil {
		panic(err)
	}
	return c
}
