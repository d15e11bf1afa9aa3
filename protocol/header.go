package protocol

import (
	"encoding/binary"
	"errors"
	"fmt"
)

const (
	// maxRequest is the largest request frame that is relayed. Brokers take 100
	// MiB by default (socket.request.max.bytes); what other protocols look like
	// when read as a length lies above: PROXY protocol v2 (219 MB), TLS (369 MB),
	// HTTP (1.2 GB).
	maxRequest = 200 << 20
	// minRequest is API key, API version and correlation id: header v0, which
	// only ControlledShutdown v0 has; all others go on with a client id.
	minRequest = 8
	// maxHead bounds what is held back of a request until its header has been
	// read: a client id and a transactional id of 32 KiB each, and the rest.
	maxHead = 80 << 10
	// minResponse is the correlation id.
	minResponse = 4
	// lengthSize is the length in front of each frame, which does not count itself.
	lengthSize = 4
	// Where correlation ids stand, in a request behind API key and version.
	requestIDAt, responseIDAt = lengthSize + 4, lengthSize
)

// ErrFrame is wrapped by errors about bytes that are no Kafka frame, ErrForeign
// by those about bytes of another protocol that was recognised, and ErrHTTP
// where that is HTTP.
var (
	ErrFrame   = errors.New("not a Kafka frame")
	ErrForeign = fmt.Errorf("%w but another protocol", ErrFrame)
	ErrHTTP    = fmt.Errorf("%w: an HTTP request", ErrForeign)
)

// Request is what a proxy knows of a request: its header, and what of its body
// decides how the connection goes on.
type Request struct {
	Size          int64 // of the frame with its length, in bytes
	Key           APIKey
	Version       int16
	CorrelationID int32
	// NoResponse is set for Produce with acks=0: the broker answers nothing, or
	// closes the connection (Kafka's KafkaApis.handleProduceRequest).
	NoResponse bool
	// Mechanism is set for SaslHandshake v0: raw tokens of it follow where the
	// broker accepts it.
	Mechanism Mechanism
}

// PeekRequest reads the header of the next request in f and passes nothing. It
// returns io.EOF where the client has ended between two frames, and an error
// wrapping [ErrFrame] for bytes that cannot be a request.
func PeekRequest(f *Flow) (Request, error) {
	size, err := peekSize(f)
	if err != nil {
		return Request{}, err
	}
	if size < minRequest || size > maxRequest {
		return Request{}, notKafka(f, size)
	}
	b, err := f.Peek(lengthSize+minRequest, maxHead)
	if err != nil {
		return Request{}, err
	}
	r := Request{
		Size:          lengthSize + int64(size),
		Key:           APIKey(binary.BigEndian.Uint16(b[4:])),
		Version:       int16(binary.BigEndian.Uint16(b[6:])),
		CorrelationID: int32(binary.BigEndian.Uint32(b[8:])),
	}
	switch {
	case r.Key == Produce:
		acks, err := peekAcks(f, r)
		if err != nil {
			return Request{}, err
		}
		r.NoResponse = acks == 0
	case r.Key == SASLHandshake && r.Version == 0:
		if r.Mechanism, err = peekMechanism(f, r); err != nil {
			return Request{}, err
		}
	}
	return r, nil
}

// SetRequestID gives the request that [PeekRequest] has found in f another
// correlation id, and SetResponseID the response that [PeekResponse] has.
func SetRequestID(f *Flow, id int32)  { setID(f, requestIDAt, id) }
func SetResponseID(f *Flow, id int32) { setID(f, responseIDAt, id) }

func setID(f *Flow, at int, id int32) {
	b, err := f.Peek(at+4, maxHead)
	if err != nil {
		panic("protocol: correlation id of a frame that was not peeked at")
	}
	binary.BigEndian.PutUint32(b[at:], uint32(id))
}

// FrameBuffered reports whether the next frame is in f as a whole, so that no
// look at it will have to wait.
func FrameBuffered(f *Flow) bool {
	if f.Buffered() < lengthSize {
		return false
	}
	size, err := peekSize(f)
	return err == nil && f.Buffered()-lengthSize >= int(size)
}

// PeekResponse reads the length and the correlation id of the next response in
// f and passes nothing. The size counts the length. io.EOF means that the
// broker has ended between two frames.
func PeekResponse(f *Flow) (size int64, correlationID int32, err error) {
	n, err := peekSize(f)
	if err != nil {
		return 0, 0, err
	}
	if n < minResponse || isForeign(f) {
		return 0, 0, notKafka(f, n)
	}
	b, err := f.Peek(lengthSize+minResponse, maxHead)
	if err != nil {
		return 0, 0, err
	}
	return lengthSize + int64(n), int32(binary.BigEndian.Uint32(b[4:])), nil
}

// PeekFrame reads the length of the next frame in f, whatever the frame holds,
// and returns its size with the length.
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

func peekSize(f *Flow) (int32, error) {
	b, err := f.Peek(lengthSize, maxHead)
	if err != nil {
		return 0, err
	}
	return int32(binary.BigEndian.Uint32(b)), nil
}

// isForeign reports whether a broker's answer is of another protocol, though it
// could be a length: a TLS alert (type 21, version 3.x, length 2) to a plaintext
// client would be 352 MB, and a client that believes it may run out of memory;
// an HTTP response 1.2 GB.
func isForeign(f *Flow) bool {
	b, err := f.Peek(lengthSize, maxHead)
	return err == nil && (b[0] == 0x15 && b[1] == 3 && b[2] <= 4 && b[3] == 0 || string(b) == "HTTP")
}

// notKafka says what stands in f where a frame should begin. The length has
// been peeked at.
func notKafka(f *Flow, size int32) error {
	b, err := f.Peek(lengthSize, maxHead)
	if err != nil {
		return err
	}
	switch s := string(b); {
	case b[0] == 0x16 && b[1] == 3:
		return fmt.Errorf("%w: a TLS ClientHello", ErrForeign)
	case b[0] == 0x15 && b[1] == 3:
		return fmt.Errorf("%w: a TLS alert", ErrForeign)
	case s == "GET " || s == "POST" || s == "PUT " || s == "HEAD" || s == "OPTI" || s == "CONN" || s == "DELE" || s == "PRI ":
		return ErrHTTP
	case s == "HTTP":
		return fmt.Errorf("%w: an HTTP response", ErrForeign)
	case s == "PROX" || s == "\r\n\r\n":
		return fmt.Errorf("%w: a PROXY protocol header", ErrForeign)
	}
	return fmt.Errorf("%w: length %d (bytes % x)", ErrFrame, size, b)
}
