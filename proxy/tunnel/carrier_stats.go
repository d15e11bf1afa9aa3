package tunnel

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

// CarrierStats sums up the connections that carry streams over one transport: QUIC connections for
// h3, TCP connections for ws and h2. Behind an ingress they lead to that, and with a proxy to the
// proxy.
type CarrierStats struct {
	Transport string
	Carriers  int           // open now
	Measured  int           // of those: the round trip is known
	Streams   int           // open now; those that are made ready do not count
	RTT       time.Duration // mean of the carriers' minimum round-trip times; 0 means not known
	MaxRTT    time.Duration // the largest of those minima
	Sent      uint64        // QUIC packets, or TCP segments on Linux, since the start
	Lost      uint64        // of those: lost (QUIC), or sent again (TCP)
}

// traffic is what one carrier has sent, and its minimum round-trip time. The smoothed one says
// little about the distance: it includes delayed acknowledgements, as of a Fetch that the broker
// holds.
type traffic struct {
	rtt        time.Duration // 0 means not known
	sent, lost uint64
}

// A link is a carrier whose traffic can be asked for. before is the last answer; one that has ended
// returns it again.
type link interface {
	traffic(before traffic) traffic
}

// linkCounts counts the links of one end, by transport. What a link has sent stays counted when it
// has ended. The zero value is ready to use.
type linkCounts struct {
	mu   sync.Mutex
	open map[link]*openLink
	past map[string]traffic // of the links that have ended, by transport
}

type openLink struct {
	transport string
	last      traffic
}

// add counts a link until remove. It may be called more than once.
func (n *linkCounts) add(transport string, l link) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if t, ok := l.(*tcpLink); ok && t.closed || n.open[l] != nil {
		return
	}
	if n.open == nil {
		n.open, n.past = make(map[link]*openLink), make(map[string]traffic)
	}
	n.open[l] = &openLink{transport: transport}
}

// remove is called when a link ends, as long as it can still be asked. It does nothing for one that
// was not added.
func (n *linkCounts) remove(l link) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if t, ok := l.(*tcpLink); ok {
		t.closed = true
	}
	o := n.open[l]
	if o == nil {
		return
	}
	delete(n.open, l)
	t, past := l.traffic(o.last), n.past[o.transport]
	n.past[o.transport] = traffic{sent: past.sent + t.sent, lost: past.lost + t.lost}
}

// stats asks all links. It holds the lock meanwhile, so that no link that ends is counted twice. A
// transport that was never used is left out.
func (n *linkCounts) stats(streams map[string]int) (all []CarrierStats) {
	n.mu.Lock()
	defer n.mu.Unlock()
	sums := make(map[string]*linkSum)
	for _, name := range Transports() {
		sums[name] = &linkSum{CarrierStats: CarrierStats{Transport: name, Streams: streams[name], Sent: n.past[name].sent, Lost: n.past[name].lost}}
	}
	for l, o := range n.open {
		o.last = l.traffic(o.last)
		sums[o.transport].add(o.last)
	}
	for _, name := range Transports() {
		if s := sums[name]; s.Carriers > 0 || s.Streams > 0 || s.Sent > 0 {
			all = append(all, s.CarrierStats)
		}
	}
	return all
}

// A linkSum adds up links.
type linkSum struct {
	CarrierStats
	rtts time.Duration // the sum of the round trips that are known
}

func (s *linkSum) add(t traffic) {
	s.Carriers++
	s.Sent += t.sent
	s.Lost += t.lost
	if t.rtt > 0 {
		s.Measured++
		s.rtts += t.rtt
		s.RTT, s.MaxRTT = s.rtts/time.Duration(s.Measured), max(s.MaxRTT, t.rtt)
	}
}

// A quicLink is a QUIC connection as a link.
type quicLink struct{ *quic.Conn }

// traffic never goes back: quic-go takes back a loss when it finds that the packet was only late.
func (l quicLink) traffic(before traffic) traffic {
	s := l.ConnectionStats()
	return traffic{rtt: s.MinRTT, sent: s.PacketsSent, lost: max(before.lost, s.PacketsLost)}
}

// A tcpLink is a connection over TCP, or over memory in tests. Once it was added to counts it is
// counted until Close.
type tcpLink struct {
	net.Conn
	counts *linkCounts
	closed bool // guarded by counts.mu
}

// Close counts what the connection has sent, before the kernel forgets it.
func (l *tcpLink) Close() error {
	l.counts.remove(l)
	return l.Conn.Close()
}

// CloseWrite closes one direction, where there are two.
func (l *tcpLink) CloseWrite() error {
	if c, ok := l.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return nil
}

func (l *tcpLink) traffic(before traffic) traffic {
	below := l.Conn
	if h, ok := below.(*headedConn); ok {
		below = h.Conn
	}
	if c, ok := below.(*net.TCPConn); ok {
		if raw, err := c.SyscallConn(); err == nil {
			return tcpTraffic(raw, before)
		}
	}
	return before
}

// carrierKey is the context key of the transport for which a TCP connection is dialled.
type carrierKey struct{}

// asCarrier says that what is dialled with ctx carries streams over a transport.
func asCarrier(ctx context.Context, transport string) context.Context {
	return context.WithValue(ctx, carrierKey{}, transport)
}

// dialled returns c as a link, which is counted if ctx is of asCarrier.
func (n *linkCounts) dialled(ctx context.Context, c net.Conn) net.Conn {
	l := &tcpLink{Conn: c, counts: n}
	if transport, ok := ctx.Value(carrierKey{}).(string); ok {
		n.add(transport, l)
	}
	return l
}

// streamsBy counts streams by transport: those whose OPEN was sent, and that have not ended.
func streamsBy(streams []*Conn) map[string]int {
	n := make(map[string]int)
	for _, c := range streams {
		if c.writing.openSent.Load() && (c.dialling || c.isOpened()) && !c.ending.over.Load() {
			n[c.transport]++
		}
	}
	return n
}

// CarrierStats returns what carries streams now, and what it has sent, for each transport that was used.
// It asks each connection, which takes about a microsecond.
func (d *Dialer) CarrierStats() []CarrierStats {
	d.init()
	return d.route.links.stats(streamsBy(d.streams.open()))
}

// CarrierStats is as [Dialer.CarrierStats]. A connection counts when a request on it has authenticated.
func (s *Server) CarrierStats() []CarrierStats {
	s.init()
	return s.links.stats(streamsBy(s.registry.all()))
}
