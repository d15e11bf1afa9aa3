package proxy

import (
	"github.com/culvert-proxy/culvert/proxy/status/document"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// tunnelVia is what is known about the way to a gateway.
func tunnelVia(g *tunnel.Dialer) document.Tunnel {
	s := g.State()
	t := document.Tunnel{
		Tried: []document.Tried{}, Carriers: carriersOf(g.CarrierStats()),
		Gateway: g.URL.Redacted(), Version: g.Gateway(), Streams: g.Streams(), Ingress: g.IngressName(), Transport: s.Transport, Since: s.Since.UTC(), Why: s.Why, Error: s.Error, RetryAt: s.RetryAt.UTC(),
	}
	for _, c := range t.Carriers {
		if c.Transport == s.Transport {
			t.RTT = c.RTT
		}
	}
	for _, k := range s.Tried {
		t.Tried = append(t.Tried, document.Tried{
			Transport: k.Transport, At: k.Tried.UTC(), Took: k.Took.Seconds(), Error: k.Error, Fixed: k.Fixed, NextProbe: k.NextProbe.UTC(),
		})
	}
	return t
}

// carriersOf shows what carries streams, for each transport in use.
func carriersOf(stats []tunnel.CarrierStats) []document.Carrier {
	all := []document.Carrier{}
	for _, c := range stats {
		all = append(all, document.Carrier{
			Transport: c.Transport, Connections: c.Carriers, Streams: c.Streams, RTT: c.RTT.Seconds(), MaxRTT: c.MaxRTT.Seconds(), Sent: c.Sent, Lost: c.Lost,
		})
	}
	return all
}
