package metrics

import (
	"iter"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/culvert-proxy/culvert/protocol"
)

// API holds the collectors of one API key. Their labels are resolved, so counting a frame costs one
// atomic addition for each number.
type API struct {
	Requests      prometheus.Counter  // requests whose header was read
	RequestBytes  prometheus.Counter  // with the four bytes of length
	ResponseBytes prometheus.Counter  // with the four bytes of length
	Duration      prometheus.Observer // seconds from the request's header read to its response's correlation id read
	Transfer      prometheus.Observer // seconds from the response's correlation id read to its last byte relayed
	Queued        prometheus.Counter  // requests that waited behind another on their connection
	Rewritten     prometheus.Counter  // addresses replaced by local ones
	Blanked       prometheus.Counter  // addresses replaced by one that nobody can connect to

	InFlight atomic.Int64 // requests that await their response now

	throttle  prometheus.Counter // seconds
	throttled prometheus.Counter // responses
	errors    [protocol.NumErrorClasses]prometheus.Counter
	share     share
}

// Outcome counts what a response says besides what was asked for: how long its client is to wait,
// and its errors, once for each class.
func (a *API) Outcome(o protocol.Outcome) {
	if o.Throttle > 0 {
		a.throttle.Add(float64(o.Throttle) / 1000)
		a.throttled.Inc()
	}
	if o.Errors == 0 {
		return
	}
	for c, counter := range a.errors {
		if o.Errors.Has(protocol.ErrorClass(c)) {
			counter.Inc()
		}
	}
}

// apiMetrics counts requests and responses by API key.
type apiMetrics struct {
	requests      *prometheus.CounterVec
	requestBytes  *prometheus.CounterVec
	responseBytes *prometheus.CounterVec
	duration      *prometheus.HistogramVec
	transfer      *prometheus.HistogramVec
	queued        *prometheus.CounterVec
	rewritten     *prometheus.CounterVec
	blanked       *prometheus.CounterVec
	throttle      *prometheus.CounterVec
	throttled     *prometheus.CounterVec
	errors        *prometheus.CounterVec
	share         shareMetrics
	inFlight      *prometheus.Desc

	resolved [protocol.MaxKey + 2]atomic.Pointer[API] // by key, nil until it is used; the last is for unknown keys

	window window
}

func newAPIMetrics(f promauto.Factory, reg prometheus.Registerer) *apiMetrics {
	m := &apiMetrics{
		requests: f.NewCounterVec(counterOpts("requests_total",
			"Requests whose header was read."), []string{"api_key"}),
		requestBytes: f.NewCounterVec(counterOpts("request_bytes_total",
			"Bytes of request frames relayed, their four bytes of length included."), []string{"api_key"}),
		responseBytes: f.NewCounterVec(counterOpts("response_bytes_total",
			"Bytes of response frames relayed, their four bytes of length included."), []string{"api_key"}),
		duration: f.NewHistogramVec(histogramOpts("request_duration_seconds",
			"From a request's header read to its response's correlation id read. Produce with acks=0 has no response and is not timed."), []string{"api_key"}),
		transfer: f.NewHistogramVec(histogramOpts("response_transfer_seconds",
			"From a response's correlation id read to its last byte relayed."), []string{"api_key"}),
		queued: f.NewCounterVec(counterOpts("requests_queued_total",
			"Requests whose header was read while another on their connection awaited its response."), []string{"api_key"}),
		rewritten: f.NewCounterVec(counterOpts("rewritten_addresses_total",
			"Broker addresses in responses replaced by local ones."), []string{"api_key"}),
		blanked: f.NewCounterVec(counterOpts("blanked_addresses_total",
			"Addresses in responses replaced by an unusable one: leader hints to nodes that are not known, and controllers."), []string{"api_key"}),
		throttle: f.NewCounterVec(counterOpts("throttle_seconds_total",
			"For how long brokers asked clients to wait, in responses."), []string{"api_key"}),
		throttled: f.NewCounterVec(counterOpts("throttled_responses_total",
			"Responses in which brokers asked clients to wait."), []string{"api_key"}),
		errors: f.NewCounterVec(counterOpts("response_errors_total",
			"Responses with an error, by the class of the error."), []string{"api_key", "class"}),
		share: newShareMetrics(f),
		inFlight: prometheus.NewDesc(prometheus.BuildFQName(namespace, "", "requests_in_flight"),
			"Requests that await their response.", []string{"api_key"}, nil),
	}
	reg.MustRegister(inFlight{m})
	return m
}

// inFlight shows the requests in flight of each API key. They are no vector of gauges because
// adding to an integer costs less than adding to a float, and every request does it twice.
type inFlight struct{ of *apiMetrics }

func (c inFlight) Describe(descs chan<- *prometheus.Desc) { descs <- c.of.inFlight }

func (c inFlight) Collect(into chan<- prometheus.Metric) {
	for name, a := range c.of.used() {
		into <- prometheus.MustNewConstMetric(c.of.inFlight, prometheus.GaugeValue, float64(a.InFlight.Load()), name)
	}
}

// used returns the collectors of the API keys that were used, by name.
func (m *apiMetrics) used() iter.Seq2[string, *API] {
	return func(yield func(string, *API) bool) {
		for k := range m.resolved {
			if a := m.resolved[k].Load(); a != nil && !yield(protocol.APIKey(k).String(), a) {
				return
			}
		}
	}
}

// API returns the collectors of an API key. All unknown keys share the same ones, since a client
// can send any number. The key's series appear with the first call, so that a scrape lists only the
// keys that were used.
func (m *apiMetrics) API(key protocol.APIKey) *API {
	slot := m.slot(key)
	if a := slot.Load(); a != nil {
		return a
	}
	// Two callers may get here at once. Both made collectors of the same series, so it does not
	// matter whose are stored.
	slot.CompareAndSwap(nil, m.newAPI(key.String()))
	return slot.Load()
}

// slot returns where the collectors of an API key are.
func (m *apiMetrics) slot(key protocol.APIKey) *atomic.Pointer[API] {
	if key.Known() {
		return &m.resolved[key]
	}
	return &m.resolved[len(m.resolved)-1]
}

func (m *apiMetrics) newAPI(name string) *API {
	a := &API{
		Requests:      m.requests.WithLabelValues(name),
		RequestBytes:  m.requestBytes.WithLabelValues(name),
		ResponseBytes: m.responseBytes.WithLabelValues(name),
		Duration:      m.duration.WithLabelValues(name),
		Transfer:      m.transfer.WithLabelValues(name),
		Queued:        m.queued.WithLabelValues(name),
		Rewritten:     m.rewritten.WithLabelValues(name),
		Blanked:       m.blanked.WithLabelValues(name),
		throttle:      m.throttle.WithLabelValues(name),
		throttled:     m.throttled.WithLabelValues(name),
	}
	for c := range a.errors {
		a.errors[c] = m.errors.WithLabelValues(name, protocol.ErrorClass(c).String())
	}
	return a
}
