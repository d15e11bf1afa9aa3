package protocol

import (
	"encoding/binary"
	"errors"
	"fmt"
)

const (
	// maxRequest is the largest request frame that is relayed. Brokers take 100 MiB by default
	// (socket.request.max.bytes). The first bytes of other protocols, read as a length, are larger:
	// PROXY protocol v2 (219 MB), TLS (369 MB), HTTP (1.2 GB).
	maxRequest = 200 << 20
	// maxHead bounds what is held back of a request until its header has been read: a client id and
	// a transactional id of 32 KiB each, and the rest.
	maxHead = 80 << 10
	// lengthSize is the length in front of each frame, which does not count itself.
	lengthSize = 4
)

// ErrFrame is wrapped by errors about bytes that are no Kafka frame. ErrForeign is wrapped by those
// about bytes of another protocol that was recognised.
var (
	ErrFrame   = errors.New("not a Kafka frame")
	ErrForeign = fmt.Errorf("%w but another protocol", ErrFrame)
)

// ForeignError says which other protocol was recognised. It wraps ErrForeign.
type ForeignError string

// The protocols that are recognised.
const (
	TLSClientHello ForeignError = "a TLS ClientHello"
	TLSAlert       ForeignError = "a TLS alert"
	HTTPRequest    ForeignError = "an HTTP request"
	HTTPResponse   ForeignError = "an HTTP response"
	ProxyHeader    ForeignError = "a PROXY protocol header"
)

func (e ForeignError) Error() string { return ErrForeign.Error() + ": " + string(e) }

func (e ForeignError) Unwrap() error { return ErrForeign }

// PeekFrame reads the length of the next frame in f, whatever the frame holds, and returns its size
// with the length.
func PeekFrame(f *Flow) (int64, error) {
	n, err := peekSize(f)
	if err != nil {
		return 0, err
	}
	if n < 0 || isForeign(f) {
		return 0, notKafka(f, n)
	}
	return lengthSize + int64(n), nil
}

// FrameBuffered reports whether the next frame is in f as a whole, so that no Peek within it
// blocks.
func FrameBuffered(f *Flow) bool {
	if f.Buffered() < lengthSize {
		return false
	}
	size, err := peekSize(f)
	return err == nil && f.Buffered()-lengthSize >= int(size)
}

func peekSize(f *Flow) (int32, error) {
	b, err := f.Peek(lengthSize, maxHead)
	if err != nil {
		return 0, err
	}
	return int32(binary.BigEndian.Uint32(b)), nil
}

// isForeign reports whether a broker's answer is of another protocol, though it could be a length:
// a TLS alert (type 21, version 3.x, length 2) to a plaintext client would be 352 MB, and a client
// that believes it may run out of memory; an HTTP response would be 1.2 GB.
func isForeign(f *Flow) bool {
	b, err := f.Peek(lengthSize, maxHead)
	return err == nil && (b[0] == 0x15 && b[1] == 3 && b[2] <= 4 && b[3] == 0 || string(b) == "HTTP")
}

// notKafka returns an error that says what is in f instead of a frame. The length has been peeked
// at.
func notKafka(f *Flow, size int32) error {
	b, err := f.Peek(lengthSize, maxHead)
	if err != nil {
		return err
	}
	switch s := string(b); {
	case b[0] == 0x16 && b[1] == 3:
		return TLSClientHello
	case b[0] == 0x15 && b[1] == 3:
		return TLSAlert
	case s == "GET " || s == "POST" || s == "PUT " || s == "HEAD" || s == "OPTI" || s == "CONN" || s == "DELE" || s == "PRI ":
		return HTTPRequest
	case s == "HTTP":
		return HTTPResponse
	case s == "PROX" || s == "\r\n\r\n":
		return ProxyHeader
	}
	return fmt.Errorf("%w: length %d (bytes % x)", ErrFrame, size, b)
}
