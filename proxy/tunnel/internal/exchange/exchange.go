// Package exchange carries bytes in both directions over one HTTP exchange: a WebSocket ([WS]), an
// HTTP/3 request ([H3]), or a POST whose two bodies flow at the same time ([Post]). It knows
// neither what the bytes mean nor who is at the other end; package tunnel puts capsules into them.
package exchange

import (
	"errors"
	"net"
	"os"
	"time"
)

// An Exchange is one HTTP exchange. Read has one caller at a time, and so have Write, Flush and
// CloseWrite together. The other methods may be called at any time.
type Exchange interface {
	// Read reads bytes of the peer; small reads are cheap. After a timeout it can be called again,
	// and nothing is lost. If the response opens no tunnel it returns a *[Refused].
	Read(p []byte) (int, error)
	// SetWait(false) makes Read return [ErrNoMore] instead of blocking. Only the reader may call
	// it.
	SetWait(bool)
	// Write sends b[Headroom:] and may overwrite all of b. After a timeout it has accepted
	// everything nevertheless, and keeps the rest for the next Flush.
	Write(b []byte) error
	// Flush sends what Write has kept, and what the exchange itself has to send (a pong).
	Flush() error
	// Dirty reports whether a Flush is due.
	Dirty() bool
	// OnDirty sets the function that Read calls when a Flush becomes due. It must be called before
	// the first Read, and the function must not block.
	OnDirty(func())
	// CloseWrite says that no more will be written; the peer may still send. It ends the HTTP body
	// and is not the half-close of the stream inside.
	CloseWrite() error
	// Abort ends both directions at once, and makes blocked calls return. It may be called more
	// than once.
	Abort()
	// LastByte returns the [Clock] when the last byte arrived.
	LastByte() int64

	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
	LocalAddr() net.Addr
	RemoteAddr() net.Addr
}

// MaxHeader bounds the header of a request or a response, in bytes. Tokens are the largest part.
const MaxHeader = 16 << 10

// HeaderGateway is in every response of a gateway, to distinguish it from those of an ingress.
const HeaderGateway = "Culvert-Gateway"

// A Buffering exchange holds bytes of the peer's that nobody has read yet, in memory that is not
// the kernel's. The gateway ends its stream when memory runs out and nobody reads.
type Buffering interface {
	// StalledSince is the [Clock] since when something has waited for a reader, or 0.
	StalledSince() int64
}

// ErrNoMore is returned by Read instead of blocking, after SetWait(false). It is a timeout, and
// temporary, because only after such an error does crypto/tls continue with the next Read.
var ErrNoMore net.Error = noMoreError{}

type noMoreError struct{}

func (noMoreError) Unwrap() error   { return os.ErrDeadlineExceeded }
func (noMoreError) Error() string   { return "nothing more without waiting" }
func (noMoreError) Timeout() bool   { return true }
func (noMoreError) Temporary() bool { return true }

// IsTimeout reports whether err is a deadline that has passed. Not every net.Error with a Timeout
// is one: ETIMEDOUT ends a TCP connection, and a later read would find what looks like a clean end.
func IsTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

var clockStart = time.Now()

// Clock returns a monotonic time in nanoseconds, never 0. An int64 fits into an atomic, which
// time.Time does not.
func Clock() int64 { return int64(time.Since(clockStart)) + 1 }
