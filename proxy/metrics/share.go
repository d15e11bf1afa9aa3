package metrics

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/culvert-proxy/culvert/protocol"
)

// shareMetrics count the gateways' share of the requests' durations, as gateways tell it to agents.
type shareMetrics struct{ requests, seconds *prometheus.CounterVec }

func newShareMetrics(f promauto.Factory) shareMetrics {
	return shareMetrics{
		requests: f.NewCounterVec(counterOpts("gateway_requests_total",
			"Requests of this agent that its gateways have timed, as they tell it."), []string{"api_key"}),
		seconds: f.NewCounterVec(counterOpts("gateway_request_seconds_total",
			"How long those requests took at the gateways, in all."), []string{"api_key"}),
	}
}

// share is the gateways' share of one API key. Its series are made when a gateway tells something,
// so an agent whose gateways do not, and a gateway, have none.
type share struct {
	mu                sync.Mutex
	requests, seconds prometheus.Counter // nil until then
}

// GatewayTimed counts requests that a gateway has timed, and how long they took there in all. It
// does nothing for an API key that this agent has not seen itself: a gateway can name any.
func (m *apiMetrics) GatewayTimed(key protocol.APIKey, requests uint64, took time.Duration) {
	a := m.slot(key).Load()
	if a == nil {
		return
	}
	a.share.mu.Lock()
	defer a.share.mu.Unlock()
	if a.share.requests == nil {
		a.share.requests, a.share.seconds = m.share.requests.WithLabelValues(key.String()), m.share.seconds.WithLabelValues(key.String())
	}
	a.share.requests.Add(float64(requests))
	a.share.seconds.Add(took.Seconds())
}

// GatewayShare returns what GatewayTimed has counted since the start: 0 and 0 if no gateway tells.
func (a *API) GatewayShare() (requests uint64, seconds float64) {
	a.share.mu.Lock()
	defer a.share.mu.Unlock()
	if a.share.requests == nil {
		return 0, 0
	}
	return uint64(valueOf(a.share.requests)), valueOf(a.share.seconds)
}
