package rewrite

import (
	"cmp"
	"encoding/binary"
	"io"
	"math"
	"slices"
)

// maxTail is the most that is held back behind the records of a response: as
// much as a [protocol.Flow] has room for. It is a thousand leaders. A longer
// tail is blanked as it streams.
const maxTail = 64 << 10

// padTag is the number of the tagged field that fills what a shorter address
// leaves over. Kafka has none above 3 there; all clients skip unknown ones.
const padTag = 127

// streamed relays responses with records and, behind them, a hint. The records
// are passed as they arrive. The length of the frame has left by the time its
// hint comes, so the hint has to keep the length that it had.
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

// relayTail edits what is behind the records and keeps its length. An unknown
// tagged field fills what shorter addresses leave over. Where that does not fit,
// or the directory lacks an address, such a field of zeros takes the place of
// the hint: clients then ask for metadata, as they do after the errors that
// hints come with.
func (c *cursor) relayTail(tagged bool, d Directory) (Result, error) {
	size := c.left()
	if size > maxTail {
		return Result{Blanked: 1}, c.blankTail(size, tagged)
	}
	h := c.hint(tagged)
	if c.err != nil {
		return Result{}, c.err
	}
	n := len(h.addresses)
	if edits, ok := c.hintEdits(h, d); ok {
		if edits, ok = h.pad(edits, h.tagsLen); ok {
			return Result{Rewritten: n}, c.overwrite(edits)
		}
	}
	if edits, ok := h.pad(h.remove()); ok {
		return Result{Blanked: n}, c.overwrite(edits)
	}
	return Result{Blanked: n}, c.blankTail(size, tagged)
}

// remove takes out the hint and returns how many tagged fields are left.
func (h hint) remove() ([]edit, int) {
	if h.tagged {
		return []edit{{span: h.field}}, h.tagsLen - 1
	}
	return []edit{{h.array, []byte{1}}}, h.tagsLen
}

// pad adds one or two tagged fields with zeros to the edits, so that they
// change no length. It cannot where they make the response longer, or shorter
// by a single byte, nor behind the last number there is. tagsLen is how many
// tagged fields the edits leave.
func (h hint) pad(edits []edit, tagsLen int) ([]edit, bool) {
	gap := -growth(edits)
	if gap == 0 {
		return edits, true
	}
	if h.lastTag > math.MaxInt32-2 {
		return nil, false
	}
	for fields := 1; fields <= 2; fields++ {
		count := binary.AppendUvarint(nil, uint64(tagsLen+fields))
		size := gap + h.tags.len() - len(count)
		tag := max(h.lastTag+1, padTag+1-fields)
		if head := padding(int64(size), tag, fields); head != nil {
			end := h.end
			edits = append(edits, edit{h.tags, count}, edit{span{end, end}, append(head, make([]byte, size-len(head))...)})
			slices.SortFunc(edits, func(a, b edit) int { return cmp.Compare(a.from, b.from) })
			return edits, true
		}
	}
	return nil, false
}

// padding returns the tagged fields, numbered from tag on, that are size bytes
// long with the zeros that belong behind them; nil if there is no such size.
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

// overwrite makes edits that leave the length of the tail as it was, and passes it.
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

// zero passes head, and zeros up to size bytes, instead of what arrives.
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
