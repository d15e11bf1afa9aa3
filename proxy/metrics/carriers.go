package metrics

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// carrierMetrics shows the connections that carry the tunnel. They are asked at each scrape, and
// nothing is counted here.
type carrierMetrics struct {
	carriersDesc, rttDesc, sentDesc, lostDesc, gatewaysDesc *prometheus.Desc

	stats    atomic.Pointer[func() []tunnel.CarrierStats]
	gateways atomic.Pointer[func() map[string]int]
}

func newCarrierMetrics(reg prometheus.Registerer) *carrierMetrics {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(prometheus.BuildFQName(namespace, "", name), help, labels, nil)
	}
	m := &carrierMetrics{
		carriersDesc: desc("carriers", "QUIC or TCP connections that carry the tunnel, open now.", "transport"),
		rttDesc:      desc("carrier_rtt_seconds", "Minimum round-trip times of these connections: the mean and the largest of them. TCP's on Linux only.", "transport", "stat"),
		sentDesc:     desc("carrier_packets_sent_total", "QUIC packets, or TCP segments on Linux, that these connections have sent.", "transport"),
		gatewaysDesc: desc("gateway_streams", "Tunnel streams to each gateway of an agent, open now.", "gateway"),
		lostDesc:     desc("carrier_packets_lost_total", "QUIC packets that were lost, or TCP segments that were sent again.", "transport"),
	}
	reg.MustRegister(m)
	return m
}

// AskCarriers sets what tells about the connections. A transport may be there several times, once
// for each gateway.
func (m *carrierMetrics) AskCarriers(stats func() []tunnel.CarrierStats) { m.stats.Store(&stats) }

// AskGateways sets what tells how many streams lead to each gateway, by its host and port as set.
func (m *carrierMetrics) AskGateways(streams func() map[string]int) { m.gateways.Store(&streams) }

// Describe and Collect make it a collector.
func (m *carrierMetrics) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.carriersDesc, m.rttDesc, m.sentDesc, m.lostDesc, m.gatewaysDesc} {
		descs <- d
	}
}

func (m *carrierMetrics) Collect(into chan<- prometheus.Metric) {
	if streams := m.gateways.Load(); streams != nil {
		for gateway, n := range (*streams)() {
			into <- prometheus.MustNewConstMetric(m.gatewaysDesc, prometheus.GaugeValue, float64(n), gateway)
		}
	}
	stats := m.stats.Load()
	if stats == nil {
		return
	}
	for transport, c := range byTransport((*stats)()) {
		show := func(d *prometheus.Desc, t prometheus.ValueType, v float64, labels ...string) {
			into <- prometheus.MustNewConstMetric(d, t, v, append([]string{transport}, labels...)...)
		}
		show(m.carriersDesc, prometheus.GaugeValue, float64(c.Carriers))
		show(m.sentDesc, prometheus.CounterValue, float64(c.Sent))
		show(m.lostDesc, prometheus.CounterValue, float64(c.Lost))
		if c.RTT > 0 {
			show(m.rttDesc, prometheus.GaugeValue, c.RTT.Seconds(), "mean")
			show(m.rttDesc, prometheus.GaugeValue, c.MaxRTT.Seconds(), "max")
		}
	}
}

// byTransport adds up what there is for each transport.
func byTransport(stats []tunnel.CarrierStats) map[string]tunnel.CarrierStats {
	sums := make(map[string]tunnel.CarrierStats)
	for _, c := range stats {
		name := transportLabel(c.Transport)
		s := sums[name]
		if measured := s.Measured + c.Measured; measured > 0 {
			s.RTT = (s.RTT*time.Duration(s.Measured) + c.RTT*time.Duration(c.Measured)) / time.Duration(measured)
			s.Measured = measured
		}
		s.MaxRTT = max(s.MaxRTT, c.MaxRTT)
		s.Carriers += c.Carriers
		s.Sent += c.Sent
		s.Lost += c.Lost
		sums[name] = s
	}
	return sums
}
