package protocol

import (
	"encoding/binary"
	"fmt"
)

const (
	// minResponse is the correlation id.
	minResponse = 4
	// Offsets of correlation ids. In a request, API key and version come first.
	requestIDAt, responseIDAt = lengthSize + 4, lengthSize
)

// Request is what a proxy knows of a request: its header, and those fields of its body that decide
// what follows on the connection.
type Request struct {
	Size          int64 // of the frame with its length, in bytes
	Key           APIKey
	Version       int16
	CorrelationID int32
	// NoResponse is set for Produce with acks=0: the broker does not answer, or closes the
	// connection (Kafka's KafkaApis.handleProduceRequest).
	NoResponse bool
	// Mechanism is set for SaslHandshake v0: if the broker accepts it, its raw tokens follow.
	Mechanism Mechanism
}

// PeekRequest reads the header of the next request in f and passes nothing. It returns io.EOF if
// the client closed between two frames, and an error wrapping [ErrFrame] for bytes that cannot be a
// request.
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
	h := newHead(f, r.Size)
	switch {
	case r.Key == Produce:
		r.NoResponse = h.acks(r.Version) == 0
	case r.Key == SASLHandshake && r.Version == 0:
		r.Mechanism = h.mechanism()
	}
	if h.err != nil {
		return Request{}, fmt.Errorf("read header of %s v%d, correlation id %d: %w", r.Key, r.Version, r.CorrelationID, h.err)
	}
	return r, nil
}

// SetRequestID changes the correlation id of the request that [PeekRequest] has found in f.
func SetRequestID(f *Flow, id int32) { setID(f, requestIDAt, id) }

// SetResponseID changes the correlation id of the response that [PeekResponse] has found in f.
func SetResponseID(f *Flow, id int32) { setID(f, responseIDAt, id) }

func setID(f *Flow, at int, id int32) {
	b, err := f.Peek(at+4, maxHead)
	if err != nil {
		panic("protocol: correlation id of a frame that was not peeked at")
	}
	binary.BigEndian.PutUint32(b[at:], uint32(id))
}

// PeekResponse reads the length and the correlation id of the next response in f and passes
// nothing. The size counts the length. io.EOF means that the broker closed between two frames.
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
