package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// loginMetrics registers the collectors of logins at an ingress. They exist only in a process that
// logs in, so they are registered on first use.
type loginMetrics struct {
	registerer prometheus.Registerer
}

// Logins returns a function that records one login at the ingress of a gateway: its error, or when
// the new token expires. provider becomes part of the metrics' names, so it must be a constant.
// gateway becomes a label, as in [Metrics.Tunnel].
func (m *loginMetrics) Logins(provider, gateway string) func(err error, expires time.Time) {
	logins := registered(m.registerer, prometheus.NewCounterVec(counterOpts(provider+"_logins_total",
		"Logins to get a token for the ingress."), []string{"gateway", "result"}))
	expiry := registered(m.registerer, prometheus.NewGaugeVec(gaugeOpts(provider+"_token_expiry_timestamp_seconds",
		"When the token from the last login that succeeded expires."), []string{"gateway"}))
	ok, failed := logins.WithLabelValues(gateway, string(ResultOK)), logins.WithLabelValues(gateway, string(ResultError))
	return func(err error, expires time.Time) {
		if err != nil {
			failed.Inc()
			return
		}
		ok.Inc()
		expiry.WithLabelValues(gateway).Set(float64(expires.Unix()))
	}
}
