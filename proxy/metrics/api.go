package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/culvert-proxy/culvert/protocol"
)

// API holds the collectors of one API key, resolved, so that counting a frame
// costs an atomic addition for each number.
type API struct {
	Requests      prometheus.Counter  // requests whose header was read
	RequestBytes  prometheus.Counter  // with the four bytes of length
	ResponseBytes prometheus.Counter  // with the four bytes of length
	Duration      prometheus.Observer // seconds from the request's header read to its response's correlation id read
	Transfer      prometheus.Observer // seconds from the response's correlation id read to its last byte relayed
	Queued        prometheus.Counter  // requests that waited behind another on their connection
	Rewritten     prometheus.Counter  // addresses replaced by local ones
	Blanked       prometheus.Counter  // addresses replaced by one that leads nowhere
}

// API returns the collectors of an API key; all unknown keys share one. The
// key's series appear with the first call, so that a scrape lists only keys
// that were used.
func (m *Metrics) API(key protocol.APIKey) *API {
	slot := &m.apis[len(m.apis)-1]
	if key.Known() {
		slot = &m.apis[key]
	}
	if a := slot.Load(); a != nil {
		return a
	}
	// Whoever comes first at the same time stores collectors of the same series.
	slot.CompareAndSwap(nil, m.newAPI(key.String()))
	return slot.Load()
}

func (m *Metrics) newAPI(name string) *API {
	return &API{
		Requests:      m.requests.WithLabelValues(name),
		RequestBytes:  m.requestBytes.WithLabelValues(name),
		ResponseBytes: m.responseBytes.WithLabelValues(name),
		Duration:      m.duration.WithLabelValues(name),
		Transfer:      m.transfer.WithLabelValues(name),
		Queued:        m.queued.WithLabelValues(name),
		Rewritten:     m.rewritten.WithLabelValues(name),
		Blanked:       m.blanked.WithLabelValues(name),
	}
}
