package rewrite

import (
	"encoding/binary"
	"math"
)

// A span is the part [from, to) of a response.
type span struct{ from, to int }

func (s span) len() int { return s.to - s.from }

// An edit puts other bytes in the place of a span.
type edit struct {
	span
	with []byte
}

// growth returns by how many bytes the edits make a response longer.
func growth(edits []edit) int {
	n := 0
	for _, e := range edits {
		n += len(e.with) - e.len()
	}
	return n
}

// splice returns a copy of b with the edits made. They are in order and do not overlap.
func splice(b []byte, edits []edit) []byte {
	out := make([]byte, 0, len(b)+growth(edits))
	at := 0
	for _, e := range edits {
		out = append(out, b[at:e.from]...)
		out = append(out, e.with...)
		at = e.to
	}
	return append(out, b[at:]...)
}

// finish is replaceHeld, and passes the rest of the frame as it arrives.
func (c *cursor) finish(edits []edit) error {
	rest := c.left()
	if err := c.replaceHeld(edits); err != nil {
		return err
	}
	return c.f.PassThrough(rest)
}

// replaceHeld makes the edits in what has been walked over and held, adapts the frame's length to
// them, and passes it.
func (c *cursor) replaceHeld(edits []edit) error {
	if len(edits) == 0 {
		c.f.Pass(c.at)
		return nil
	}
	out := splice(c.b[:c.at], edits)
	size := int64(len(out)) - 4 + c.left()
	if size > math.MaxInt32 {
		c.fail("%d bytes do not fit into a frame", size)
		return c.err
	}
	binary.BigEndian.PutUint32(out, uint32(size))
	return c.f.Replace(c.at, out)
}

// appendString appends a string that is not null.
func appendString(b []byte, s string, flexible bool) []byte {
	if flexible {
		b = binary.AppendUvarint(b, uint64(len(s)+1))
	} else {
		b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
	}
	return append(b, s...)
}
