package tunnel

import (
	"strconv"
	"time"

	"github.com/culvert-proxy/culvert/proxy/tunnel/race"
)

// atOnce is for timers that are due. Not 0: in a synctest bubble of Go 1.26 such a timer runs on the goroutine that sets it, which crashes the
// race detector (https://go.dev/issue/78156).
const atOnce = time.Nanosecond

// timing holds the durations of the wire format and of choosing a transport, for tests to shorten.
type timing struct {
	keepalive time.Duration // a direction that is idle this long carries a KEEPALIVE
	dead      time.Duration // a Read that waits this long without a byte gives up
	stale     time.Duration // what was silent this long, and owes us a KEEPALIVE, takes no new stream
	open      time.Duration // a new stream has this long for its OPEN
	reset     time.Duration // how long the peer may take to take the end of a stream
	hello     time.Duration // for all of a hello
	handshake time.Duration // for TCP, TLS and HTTP up to a working exchange
	stranger  time.Duration // for the first request of a QUIC connection that shows credentials
	answer    time.Duration // for the answer to OPEN over what was ready, or three round trips if that is longer
	idle      time.Duration // how long a carrier without streams is kept

	quicIdle      time.Duration // after which a silent QUIC connection is dead
	quicKeepalive time.Duration

	h3HeadStart time.Duration // auto: how long h3 is tried alone
	headStart   time.Duration // auto: how long another transport is

	race race.Timing

	spares time.Duration // how often spares are looked after
}

var defaultTiming = timing{
	keepalive: 15 * time.Second, // a third of the shortest idle limit that ingresses are known to have
	dead:      45 * time.Second,
	stale:     20 * time.Second, // clients give up after 30, and must not come back to what is dead
	open:      10 * time.Second,
	reset:     5 * time.Second,
	hello:     10 * time.Second,
	handshake: 10 * time.Second,
	stranger:  10 * time.Second,
	answer:    time.Second,
	idle:      time.Minute,

	quicIdle:      30 * time.Second,
	quicKeepalive: 5 * time.Second, // behind a NAT that has forgotten us, what the gateway sends is lost for so long: clients give up after 10

	h3HeadStart: 300 * time.Millisecond,
	headStart:   time.Second,

	race: race.DefaultTiming,

	spares: 5 * time.Second,
}.over(hurry)

// hurry divides the long durations. Only tests that build culvert set it, at both ends alike, and by the linker: -ldflags=-X=….hurry=10.
var hurry string

// over divides the long durations.
func (t timing) over(by string) timing {
	n, err := strconv.Atoi(by)
	if err != nil {
		return t
	}
	for _, d := range []*time.Duration{
		&t.keepalive, &t.dead, &t.stale, &t.idle, &t.quicIdle, &t.quicKeepalive,
		&t.race.Probe, &t.race.ProbeMost, &t.race.UnlikelyProbe, &t.race.UnlikelyProbeMost,
		&t.race.SwitchEvery, &t.race.CutWindow, &t.race.CutApart,
	} {
		*d /= time.Duration(n)
	}
	return t
}
