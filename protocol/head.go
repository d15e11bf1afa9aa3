package protocol

import (
	"encoding/binary"
	"fmt"
)

// minRequest is API key, API version and correlation id: header v0, which only ControlledShutdown
// v0 has. In all others a client id follows.
const minRequest = 8

// head reads the beginning of a request field by field and passes nothing. Its first error sticks.
// It reads lengths and nulls exactly as Kafka does, whose integers have 32 bits and a sign: a
// reading of ours that differs from the broker's would let a client hide a request (generated
// XxxData.read, ByteUtils.java).
type head struct {
	f    *Flow
	size int // bytes that belong to the frame
	at   int // offset of the next field
	err  error
}

// newHead returns a head at the end of the correlation id of the request next in f. size counts the
// length in front.
func newHead(f *Flow, size int64) head {
	return head{f: f, size: int(min(size, maxHead)), at: lengthSize + minRequest}
}

// bytes returns the next n bytes.
func (h *head) bytes(n int) []byte {
	if h.err != nil {
		return nil
	}
	if n < 0 || n > h.size-h.at {
		h.err = fmt.Errorf("%w: %d bytes at offset %d of %d", ErrFrame, n, h.at, h.size)
		return nil
	}
	b, err := h.f.Peek(h.at+n, maxHead)
	if err != nil {
		h.err = err
		return nil
	}
	h.at += n
	return b[h.at-n:]
}

func (h *head) int16() int16 {
	if b := h.bytes(2); b != nil {
		return int16(binary.BigEndian.Uint16(b))
	}
	return 0
}

// uvarint reads Kafka's unsigned varint, which is an int in Java: five bytes may make it negative,
// and bits beyond the 32nd are lost (ByteUtils.readUnsignedVarint).
func (h *head) uvarint() int32 {
	var v uint32
	for shift := 0; shift < 35; shift += 7 {
		b := h.bytes(1)
		if b == nil {
			return 0
		}
		v |= uint32(b[0]&0x7f) << shift
		if b[0] < 0x80 {
			return int32(v)
		}
	}
	h.err = fmt.Errorf("%w: varint of more than 5 bytes at offset %d", ErrFrame, h.at)
	return 0
}

// classicString reads a nullable string. Every negative length is null.
func (h *head) classicString() {
	if n := h.int16(); n > 0 {
		h.bytes(int(n))
	}
}

// compactString reads a nullable string of a flexible version.
func (h *head) compactString() {
	if n := h.uvarint() - 1; n > 0 {
		h.bytes(int(n))
	}
}

// tags reads tagged fields. A negative count is 0.
func (h *head) tags() {
	for n := h.uvarint(); n > 0 && h.err == nil; n-- {
		h.uvarint()
		h.bytes(int(h.uvarint()))
	}
}
