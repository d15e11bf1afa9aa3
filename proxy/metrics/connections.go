package metrics

import (
	"context"
	"errors"
	"net"
	"slices"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Stream counts an open tunnel stream. The caller calls closed once, when the
// stream is over.
func (m *Metrics) Stream(transport string) (closed func()) {
	return enter(m.streams.WithLabelValues(transportLabel(transport)))
}

func enter(g prometheus.Gauge) (leave func()) {
	g.Inc()
	return g.Dec
}

// Result says how a dial ended.
type Result string

// The results; any other is counted as [ResultError].
const (
	ResultOK       Result = "ok"
	ResultRefused  Result = "refused"  // nobody listens there
	ResultTimeout  Result = "timeout"  // no answer in time
	ResultCanceled Result = "canceled" // another dial of the same race was faster, or nobody waits any longer
	ResultError    Result = "error"
)

var results = []Result{ResultOK, ResultRefused, ResultTimeout, ResultCanceled, ResultError}

// ResultOf tells from a dial's error, nil included, how the dial ended. On
// Windows a refused connection is a [ResultError].
func ResultOf(err error) Result {
	switch {
	case err == nil:
		return ResultOK
	case errors.Is(err, context.Canceled):
		return ResultCanceled
	case errors.Is(err, context.DeadlineExceeded), timedOut(err):
		return ResultTimeout
	case errors.Is(err, syscall.ECONNREFUSED):
		return ResultRefused
	}
	return ResultError
}

// timedOut reports whether a dial got no answer in time, ETIMEDOUT included, which
// is the system's own limit.
func timedOut(err error) bool {
	ne, ok := errors.AsType[net.Error](err)
	return ok && ne.Timeout()
}

// UDPBuffers notes what the buffers of the UDP socket hold.
func (m *Metrics) UDPBuffers(receive, send int) {
	m.udpBuffers.WithLabelValues("receive").Set(float64(receive))
	m.udpBuffers.WithLabelValues("send").Set(float64(send))
}

// label bounds what may come from another package as a string.
func (r Result) label() string {
	if !slices.Contains(results, r) {
		r = ResultError
	}
	return string(r)
}

// BrokerDial counts a dial of a broker that ended with err, which may be nil.
func (m *Metrics) BrokerDial(err error) {
	m.brokerDials.WithLabelValues(ResultOf(err).label()).Inc()
}

// TunnelDial counts a dial of a gateway, which took d. The duration is
// observed only of dials that succeeded, so that timeouts do not hide how long
// a dial takes.
func (m *Metrics) TunnelDial(transport string, r Result, d time.Duration) {
	transport = transportLabel(transport)
	m.tunnelDials.WithLabelValues(transport, r.label()).Inc()
	if r == ResultOK {
		m.tunnelDialDuration.WithLabelValues(transport).Observe(d.Seconds())
	}
}

// Tunnel follows the way to one gateway. gateway becomes a label: it is a host
// and port that a setting gives. Its methods are called one at a time.
type Tunnel struct {
	metrics *Metrics
	gateway string
	last    string // transport
}

// Tunnel returns what follows the way to a gateway.
func (m *Metrics) Tunnel(gateway string) *Tunnel {
	t := &Tunnel{metrics: m, gateway: gateway}
	t.Uses("")
	return t
}

// Uses says which transport new streams take from now on; "" while none works.
// A move to another one is counted, for the worse or for the better.
func (t *Tunnel) Uses(transport string) {
	for _, each := range tunnelTransports {
		used := 0.0
		if each == transport {
			used = 1
		}
		t.metrics.tunnelTransport.WithLabelValues(t.gateway, each).Set(used)
	}
	if transport == "" {
		return
	}
	if t.last != "" && t.last != transport {
		t.metrics.tunnelFallbacks.WithLabelValues(transportLabel(t.last), transportLabel(transport)).Inc()
	}
	t.last = transport
}

// NextProbe says when a transport that is better than the one in use is tried
// again; the zero time means that it is not to be.
func (t *Tunnel) NextProbe(transport string, at time.Time) {
	seconds := 0.0
	if !at.IsZero() {
		seconds = float64(at.Unix())
	}
	t.metrics.tunnelNextProbe.WithLabelValues(t.gateway, transportLabel(transport)).Set(seconds)
}

// Logins returns what follows the logins at the provider of the ingress before a
// gateway: it is called with how each went, and when the token expires that it
// got. The provider's name, which is a constant of the caller, is part of the
// metrics' names.
func (m *Metrics) Logins(provider, gateway string) func(err error, expires time.Time) {
	logins := registered(m.registerer, prometheus.NewCounterVec(counterOpts(provider+"_logins_total",
		"Logins for a token for the ingress."), []string{"gateway", "result"}))
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

// registered returns c, or the same collector where it is registered already. It
// panics as MustRegister does.
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

// tunnelTransports are those that lead to a gateway.
var tunnelTransports = []string{"h3", "ws", "h2"}

// transportLabel bounds what may come from another package as a string.
func transportLabel(transport string) string {
	if transport == "direct" || slices.Contains(tunnelTransports, transport) {
		return transport
	}
	return "other"
}
