package protocol

import (
	"encoding/binary"
	"fmt"
)

// peekAcks returns the acks of the Produce request r, whose header begins f.
//
//	v0-2:  header v1 | acks
//	v3-8:  header v1 | transactional id, classic nullable string | acks
//	v9+:   header v2 | transactional id, compact nullable string | acks
//
// Header v1 is key, version and correlation id behind the length, and the
// client id with a length of two bytes, in header v2 as well; header v2 ends
// with tagged fields.
func peekAcks(f *Flow, r Request) (int16, error) {
	h := head{f: f, size: int(min(r.Size, maxHead)), at: lengthSize + minRequest}
	h.classicString() // client id
	switch flexible := Produce.Flexible(r.Version); {
	case flexible:
		h.tags()
		h.compactString()
	case r.Version >= 3:
		h.classicString()
	}
	acks := h.int16()
	if h.err != nil {
		return 0, fmt.Errorf("read header of Produce v%d, correlation id %d: %w", r.Version, r.CorrelationID, h.err)
	}
	return acks, nil
}

// head walks the head of a frame by peeking further and further. Its first
// error sticks.
type head struct {
	f    *Flow
	size int // bytes that belong to the frame
	at   int
	err  error
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

func (h *head) uvarint() int {
	var v uint64
	for shift := 0; shift < 35; shift += 7 {
		b := h.bytes(1)
		if b == nil {
			return 0
		}
		v |= uint64(b[0]&0x7f) << shift
		if b[0] < 0x80 {
			return int(v)
		}
	}
	h.err = fmt.Errorf("%w: varint of more than 5 bytes at offset %d", ErrFrame, h.at)
	return 0
}

func (h *head) classicString() {
	if n := h.int16(); n > 0 {
		h.bytes(int(n))
	}
}

func (h *head) compactString() {
	if n := h.uvarint(); n > 1 {
		h.bytes(n - 1)
	}
}

func (h *head) tags() {
	for n := h.uvarint(); n > 0 && h.err == nil; n-- {
		h.uvarint()
		h.bytes(h.uvarint())
	}
}
