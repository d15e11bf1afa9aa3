package tunnel

import (
	"net"
	"strconv"
	"sync"
	"time"
)

const (
	// chunkSize is the most that one capsule of ours carries. Larger chunks gain nothing and cost memory per blocked writer.
	chunkSize = 64 << 10

	// headroom is what an exchange may use for its own header in front of the capsules: a WebSocket frame's, or an HTTP/3 frame's.
	headroom = 14

	// frameSize is a chunk with its headers.
	frameSize = headroom + maxCapsuleHeader + chunkSize

	// smallSize is enough for what an idle stream sends, and for most requests.
	smallSize = 2 << 10
)

var (
	framePool = sync.Pool{New: func() any { b := make([]byte, frameSize); return &b }}
	smallPool = sync.Pool{New: func() any { b := make([]byte, smallSize); return &b }}
)

// An exchange is one HTTP exchange as capsules see it: bytes both ways. Read has one caller at a time, and so have Write, Flush and
// CloseWrite together; the rest may be called at any time.
type exchange interface {
	// Read reads bytes of capsules; small reads are cheap. After a timeout it can be called again and nothing is lost.
	Read(p []byte) (int, error)
	// SetWait(false) makes Read say errNoMore rather than wait. For the reader.
	SetWait(bool)
	// Write sends b[headroom:] and may overwrite all of b. After a timeout it has accepted all of it nevertheless, and keeps the rest for
	// the next Flush.
	Write(b []byte) error
	// Flush sends what Write kept, and what the exchange itself has to say (a pong).
	Flush() error
	// Dirty reports whether a Flush is due.
	Dirty() bool
	// OnDirty sets who is told, from within Read, that a Flush is due. To be set before the first Read.
	OnDirty(func())
	// CloseWrite says that no more will be written. It is no half-close, that is FINAL_DATA.
	CloseWrite() error
	// Abort ends both directions at once, also those of blocked calls. It may be called more than once.
	Abort()
	// LastByte is the clock when the last byte came.
	LastByte() int64

	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
	LocalAddr() net.Addr
	RemoteAddr() net.Addr
	Transport() string
}

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

	stagger time.Duration // auto: how long h3 is alone
	silent  time.Duration // auto: how long another transport is alone

	// After which a transport that is broken is probed again, and that doubles with each failure up to the most.
	probe, probeMost         time.Duration
	rareProbe, rareProbeMost time.Duration // of one that is not expected to work

	switchEvery time.Duration // auto: changes for the better are this far apart
	cutWindow   time.Duration // auto: two cuts within this demote a transport
	cutApart    time.Duration // auto: cuts that are closer together are one

	// After which a gateway that was not reached is tried again, and that doubles up to the most.
	retry, retryMost       time.Duration
	patience               time.Duration // a dial waits for a try that is due within this
	hopeless, hopelessMost time.Duration // where the answer was one that time alone does not change

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

	stagger: 300 * time.Millisecond,
	silent:  time.Second,

	probe: 30 * time.Second, probeMost: 15 * time.Minute,
	rareProbe: 15 * time.Minute, rareProbeMost: 4 * time.Hour,

	switchEvery: time.Minute,
	cutWindow:   10 * time.Minute,
	cutApart:    20 * time.Second, // streams learn of an outage by what does not come, within a KEEPALIVE of each other

	retry: 250 * time.Millisecond, retryMost: 5 * time.Second, patience: time.Second,
	hopeless: time.Second, hopelessMost: 30 * time.Second,

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
		&t.probe, &t.probeMost, &t.rareProbe, &t.rareProbeMost, &t.switchEvery, &t.cutWindow, &t.cutApart,
	} {
		*d /= time.Duration(n)
	}
	return t
}
