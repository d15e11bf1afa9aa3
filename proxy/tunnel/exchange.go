package tunnel

import (
	"net"
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

// timing holds the durations of the wire format, for tests to shorten.
type timing struct {
	keepalive time.Duration // a direction that is idle this long carries a KEEPALIVE
	dead      time.Duration // a Read that waits this long without a byte gives up
	open      time.Duration // a new stream has this long for its OPEN
	reset     time.Duration // how long the peer may take to take the end of a stream
	hello     time.Duration // for all of a hello
	handshake time.Duration // for TCP, TLS and HTTP up to a working exchange
	stagger   time.Duration // auto: how long h3 is alone
	verdict   time.Duration // auto: how long a decision holds
	idle      time.Duration // how long a carrier without streams is kept
}

var defaultTiming = timing{
	keepalive: 15 * time.Second, // a third of the shortest idle limit that ingresses are known to have
	dead:      45 * time.Second,
	open:      10 * time.Second,
	reset:     5 * time.Second,
	hello:     10 * time.Second,
	handshake: 10 * time.Second,
	stagger:   300 * time.Millisecond,
	verdict:   5 * time.Minute,
	idle:      time.Minute,
}
