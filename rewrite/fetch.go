package rewrite

import (
	"cmp"
	"encoding/binary"
	"io"
	"math"
	"slices"
)

// maxTail bounds what is held back behind the records of a response: what fits into the buffer of a
// [protocol.Flow], which is a thousand leaders. A longer tail is blanked as it streams.
const maxTail = 64 << 10

// padTag is the number of the tagged field that fills the bytes that a shorter address leaves over.
// Kafka has none above 3 there, and clients skip unknown ones.
const padTag = 127

// streamed relays responses with records and a hint behind them. The records are passed as they
// arrive, and so is the length of the frame. So the hint has to keep its length.
type streamed struct {
	walk   func(cursor) cursor // up to the hint
	tagged bool
}

func (s streamed) relay(c cursor, d Directory) (Result, error) {
	c.hold = false
	c = s.walk(c)
	if c.err != nil {
		return Result{}, c.err
	}
	c.pass() // from here on offsets count from the tail's first byte
	c.hold = true
	return c.relayTail(s.tagged, d)
}

// relayTail edits what is behind the records and keeps its length. An unknown tagged field fills
// what shorter addresses leave over. If that does not fit, or the directory has no address for a
// leader, such a field of zeros replaces the hint. Clients then ask for metadata, as they do after
// the errors that hints come with.
func (c *cursor) relayTail(tagged bool, d Directory) (Result, error) {
	size := c.left()
	if size > maxTail {
		return Result{Blanked: 1, Outcome: c.outcome}, c.blankTail(size, tagged)
	}
	h := c.hint(tagged)
	if c.err != nil {
		return Result{}, c.err
	}
	n := len(h.addresses)
	if edits, ok := c.hintEdits(h, d); ok {
		if edits, ok = h.pad(edits, h.count); ok {
			return Result{Rewritten: n, Outcome: c.outcome}, c.overwrite(edits)
		}
	}
	if edits, ok := h.pad(h.remove()); ok {
		return Result{Blanked: n, Outcome: c.outcome}, c.overwrite(edits)
	}
	return Result{Blanked: n, Outcome: c.outcome}, c.blankTail(size, tagged)
}

// remove returns the edits that take out the hint, and how many tagged fields are left.
func (h hint) remove() ([]edit, int) {
	if h.tagged {
		return []edit{{span: h.field}}, h.count - 1
	}
	return []edit{{h.array, []byte{1}}}, h.count
}

// pad adds one or two tagged fields of zeros to the edits, so that the length of the response stays
// the same. It cannot if the edits make the response longer or one byte shorter, or if a tagged
// field has the highest number already. left is how many tagged fields the edits leave.
func (h hint) pad(edits []edit, left int) ([]edit, bool) {
	gap := -growth(edits)
	if gap == 0 {
		return edits, true
	}
	if h.lastTag > math.MaxInt32-2 {
		return nil, false
	}
	for fields := 1; fields <= 2; fields++ {
		count := binary.AppendUvarint(nil, uint64(left+fields))
		size := gap + h.countAt.len() - len(count)
		tag := max(h.lastTag+1, padTag+1-fields)
		if head := padding(int64(size), tag, fields); head != nil {
			end := h.end
			edits = append(edits, edit{h.countAt, count}, edit{span{end, end}, append(head, make([]byte, size-len(head))...)})
			slices.SortFunc(edits, func(a, b edit) int { return cmp.Compare(a.from, b.from) })
			return edits, true
		}
	}
	return nil, false
}

// padding returns tagged fields, numbered from tag on, without the zeros of the last one. With
// these they are size bytes long. It returns nil if no fields are.
func padding(size int64, tag, fields int) []byte {
	var b []byte
	for ; fields > 1; fields-- {
		b = append(binary.AppendUvarint(b, uint64(tag)), 0)
		tag++
	}
	b = binary.AppendUvarint(b, uint64(tag))
	for width := range binary.MaxVarintLen32 {
		zeros := size - int64(len(b)+width+1)
		if zeros < 0 {
			return nil
		}
		if with := binary.AppendUvarint(b, uint64(zeros)); len(with) == len(b)+width+1 {
			return with
		}
	}
	return nil
}

// overwrite makes edits that do not change the length of the tail, and passes it.
func (c *cursor) overwrite(edits []edit) error {
	if len(edits) > 0 {
		copy(c.b, splice(c.b, edits))
	}
	return c.f.PassThrough(int64(c.at))
}

// blankTail passes padding instead of the tail of size bytes, as it arrives.
func (c *cursor) blankTail(size int64, tagged bool) error {
	var head []byte
	if !tagged {
		head = append(head, 1) // no endpoints
	}
	for fields := 1; fields <= 2; fields++ {
		start := append(head, byte(fields))
		if pad := padding(size-int64(len(start)), padTag+1-fields, fields); pad != nil {
			return c.zero(size, append(start, pad...))
		}
	}
	c.fail("a tail of %d bytes cannot be padded", size)
	return c.err
}

// zero passes head and zeros, size bytes in all, instead of the bytes that arrive.
func (c *cursor) zero(size int64, head []byte) error {
	for size > 0 {
		if _, err := c.f.Peek(1, 1); err == io.EOF {
			return io.ErrUnexpectedEOF
		} else if err != nil {
			return err
		}
		n := int(min(size, int64(c.f.Buffered())))
		b, err := c.f.Peek(n, n)
		if err != nil {
			return err
		}
		clear(b)
		head = head[copy(b, head):]
		c.f.Pass(n)
		size -= int64(n)
	}
	return nil
}
