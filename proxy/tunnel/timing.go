package tunnel

import (
	"strconv"
	"time"

	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/race"
)

// atOnce is the duration for timers that are due. It is not 0 because in a synctest bubble of Go
// 1.26 such a timer runs on the goroutine that sets it, which crashes the race detector
// (https://go.dev/issue/78156).
const atOnce = time.Nanosecond

// timing holds the durations of the wire format and of the pools. It is a type so that tests can
// shorten them.
type timing struct {
	keepalive       time.Duration // an idle direction sends a KEEPALIVE after this
	dead            time.Duration // a Read that receives nothing for this long ends the stream
	stale           time.Duration // a spare or carrier that was silent this long gets no new stream
	open            time.Duration // limit for OPEN to arrive on a new stream
	reset           time.Duration // limit for the peer to read the end of a stream
	hello           time.Duration // limit for a whole hello
	handshake       time.Duration // limit for TCP, TLS and HTTP until the exchange works
	unauthenticated time.Duration // limit for the first authenticated request of a QUIC connection
	// Limit for the answer to OPEN over something that was ready; three round trips if that is
	// longer.
	answer time.Duration
	idle   time.Duration // how long a carrier without streams is kept
	slow   time.Duration // a stream that hardly moves for this long suffers
	busy   time.Duration // a transport that moves 1 GiB within this is busy
	rate   time.Duration // how long a rate is measured at most
	times  time.Duration // TIMES are sent this often

	quicIdle      time.Duration // a QUIC connection that was silent this long is dead
	quicKeepalive time.Duration

	h3HeadStart time.Duration // in auto: how long h3 is tried alone
	headStart   time.Duration // in auto: how long any other transport is tried before the next

	race race.Timing

	spares time.Duration // how often spares are checked
	burst  time.Duration // streams that are opened within this are one burst
	bursts time.Duration // as many spares are kept as the largest burst of this time had
}

var defaultTiming = timing{
	keepalive: 15 * time.Second, // a third of the shortest idle timeout known of an ingress
	dead:      45 * time.Second,
	// Clients give up after 30 s, and their next connection must not use a dead carrier.
	stale:           20 * time.Second,
	open:            10 * time.Second,
	reset:           5 * time.Second,
	hello:           10 * time.Second,
	handshake:       10 * time.Second,
	unauthenticated: 10 * time.Second,
	answer:          time.Second,
	idle:            time.Minute,
	slow:            3 * time.Second,
	busy:            10 * time.Second,
	rate:            2 * time.Second,
	times:           time.Second,

	quicIdle: 30 * time.Second,
	// When a NAT has dropped our mapping, the gateway's packets are lost for this long; clients
	// give up after 10 s.
	quicKeepalive: 5 * time.Second,

	h3HeadStart: 300 * time.Millisecond,
	headStart:   time.Second,

	race: race.DefaultTiming,

	spares: 5 * time.Second,
	burst:  3 * time.Second,
	bursts: 10 * time.Minute,
}.over(hurry)

// hurry divides the long durations. Only tests that build culvert set it, for both ends, with the
// linker flag -ldflags=-X=….hurry=10.
var hurry string

// over divides the long durations by a number; by is "" in production, which changes nothing.
func (t timing) over(by string) timing {
	n, err := strconv.Atoi(by)
	if err != nil {
		return t
	}
	for _, d := range []*time.Duration{
		&t.keepalive, &t.dead, &t.stale, &t.idle, &t.quicIdle, &t.quicKeepalive,
		&t.race.Probe, &t.race.ProbeMost, &t.race.UnlikelyProbe, &t.race.UnlikelyProbeMost,
		&t.race.SwitchEvery, &t.race.CutWindow, &t.race.CutApart, &t.race.Check, &t.race.CheckMost,
		&t.bursts,
	} {
		*d /= time.Duration(n)
	}
	return t
}
