// Package exchange carries bytes both ways over one HTTP exchange: a WebSocket ([WS]), an HTTP/3 request ([H3]) or a POST whose two bodies flow at
// the same time ([Post]). It knows neither what the bytes mean nor who is at the other end; package tunnel puts its capsules into them.
package exchange

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// An Exchange is one HTTP exchange. Read has one caller at a time, and so have Write, Flush and CloseWrite together; the other methods may be
// called at any time.
type Exchange interface {
	// Read reads bytes of the peer's; small reads are cheap. After a timeout it can be called again and nothing is lost. An answer that opens no
	// tunnel is a *[Refused].
	Read(p []byte) (int, error)
	// SetWait(false) makes Read return [ErrNoMore] instead of waiting. Only the reader may call it.
	SetWait(bool)
	// Write sends b[Headroom:] and may overwrite all of b. After a timeout it has accepted all of it nevertheless, and keeps the rest for
	// the next Flush.
	Write(b []byte) error
	// Flush sends what Write kept, and what the exchange itself has to say (a pong).
	Flush() error
	// Dirty reports whether a Flush is due.
	Dirty() bool
	// OnDirty sets who is told, from within Read, that a Flush is due. It must be called before the first Read.
	OnDirty(func())
	// CloseWrite says that no more will be written. The peer may still send: this is no half-close of what the bytes carry.
	CloseWrite() error
	// Abort ends both directions at once, also those of blocked calls. It may be called more than once.
	Abort()
	// LastByte is the [Clock] when the last byte came.
	LastByte() int64

	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
	LocalAddr() net.Addr
	RemoteAddr() net.Addr
}

// HeaderGateway is in every answer of a gateway, so that it can be told from an ingress's.
const HeaderGateway = "Culvert-Gateway"

const (
	// ChunkSize is the most that one Write should carry. Larger chunks gain nothing and cost memory per blocked writer.
	ChunkSize = 64 << 10

	// Headroom is the space that a caller of Write leaves in front of its bytes for the exchange's own header: a WebSocket frame's, or an HTTP/3
	// frame's.
	Headroom = 14

	// MaxHeader bounds the header of a request or an answer, in bytes: tokens are the largest part.
	MaxHeader = 16 << 10

	// bufferSize is a chunk with its headers.
	bufferSize = Headroom + 16 + ChunkSize

	// smallSize is enough for what an idle stream sends, and for most requests.
	smallSize = 2 << 10
)

var (
	buffers = sync.Pool{New: func() any { b := make([]byte, bufferSize); return &b }}
	small   = sync.Pool{New: func() any { b := make([]byte, smallSize); return &b }}
)

// Buffer returns a buffer of at least n bytes; n must not exceed [Headroom] + 16 + [ChunkSize]. Return it with [Release].
func Buffer(n int) *[]byte {
	if n <= smallSize {
		return small.Get().(*[]byte)
	}
	return buffers.Get().(*[]byte)
}

// Release returns a buffer that [Buffer] gave, whose contents may be overwritten from then on.
func Release(b *[]byte) {
	if len(*b) == smallSize {
		small.Put(b)
		return
	}
	buffers.Put(b)
}

// ErrNoMore is what Read returns instead of waiting, after SetWait(false). It is a timeout, and temporary, because crypto/tls takes only such an
// error as a reason to go on with the next Read.
var ErrNoMore net.Error = noMoreError{}

type noMoreError struct{}

func (noMoreError) Unwrap() error   { return os.ErrDeadlineExceeded }
func (noMoreError) Error() string   { return "nothing more without waiting" }
func (noMoreError) Timeout() bool   { return true }
func (noMoreError) Temporary() bool { return true }

// IsTimeout reports whether err is a deadline that passed. Not every net.Error with a Timeout is one: ETIMEDOUT is the end of a TCP connection,
// behind which a read finds what looks like its end in good order.
func IsTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

var clockStart = time.Now()

// Clock is monotonic, in nanoseconds, and never 0.
func Clock() int64 { return int64(time.Since(clockStart)) + 1 }
