package rewrite

import (
	"cmp"
	"encoding/binary"
	"io"
	"math"
	"slices"

	"github.com/culvert-proxy/culvert/protocol"
)

// maxTail is the most that is held back behind the records of a response: as
// much as a [protocol.Flow] has room for. It is a thousand leaders. A longer
// tail is blanked as it streams.
const maxTail = 64 << 10

// padTag is the number of the tagged field that fills what a shorter address
// leaves over. Kafka has none above 3 there; all clients skip unknown ones.
const padTag = 127

// relayFetch passes a Fetch or ShareFetch response. Its records go on as they
// arrive, so that its length is gone when its hint comes, and the hint has to
// take as many bytes as it did.
func (w *Rewriter) relayFetch(c *cursor, r response) (Result, error) {
	c.hold = false
	if r.key == protocol.Fetch {
		c.fetch()
	} else {
		c.shareFetch(r.version)
	}
	if c.err != nil {
		return Result{}, c.err
	}
	c.pass() // from here on offsets count from the tail's first byte
	c.hold = true
	return w.relayTail(c, r.key == protocol.Fetch)
}

// fetch walks over a Fetch response v16-18, up to its tail.
//
//	throttle int32, error int16, session int32
//	[topics] id
//	  [partitions] index int32, error int16, high watermark int64, last stable offset int64, log start offset int64
//	    [aborted] producer id int64, first offset int64, TAGS
//	    preferred read replica int32, records bytes, TAGS
//	  TAGS
//	hint
func (c *cursor) fetch() {
	c.skip(4 + 2 + 4)
	for n := c.array(); n > 0 && c.err == nil; n-- {
		c.skip(16)
		for n := c.array(); n > 0 && c.err == nil; n-- {
			c.skip(4 + 2 + 8 + 8 + 8)
			for n := c.array(); n > 0 && c.err == nil; n-- {
				c.skip(8 + 8)
				c.tags()
			}
			c.skip(4)
			c.records()
			c.tags()
		}
		c.tags()
	}
}

// shareFetch walks over a ShareFetch response v0-2, up to its tail.
//
//	throttle int32, error int16, message string, acquisition lock timeout int32 (v1+)
//	[topics] id
//	  [partitions] index int32, error int16, message string, acknowledge error int16, acknowledge message string
//	    leader {node int32, epoch int32, TAGS}
//	    records bytes
//	    [acquired] first offset int64, last offset int64, delivery count int16, TAGS
//	    TAGS
//	  TAGS
//	hint
func (c *cursor) shareFetch(version int16) {
	c.skip(4 + 2)
	c.string()
	if version >= 1 {
		c.skip(4)
	}
	for n := c.array(); n > 0 && c.err == nil; n-- {
		c.skip(16)
		for n := c.array(); n > 0 && c.err == nil; n-- {
			c.skip(4 + 2)
			c.string()
			c.skip(2)
			c.string()
			c.skip(4 + 4)
			c.tags()
			c.records()
			for n := c.array(); n > 0 && c.err == nil; n-- {
				c.skip(8 + 8 + 2)
				c.tags()
			}
			c.tags()
		}
		c.tags()
	}
}

// relayTail edits what is behind the records, without a change of its length.
// Shorter addresses are made up for by an unknown tagged field. Where that does
// not fit, or the Directory lacks an address, the hint gives way to one, which
// holds zeros: clients then ask for metadata, as they do after the errors that
// hints come with.
func (w *Rewriter) relayTail(c *cursor, tagged bool) (Result, error) {
	size := c.left()
	if size > maxTail {
		return Result{Blanked: 1}, c.blankTail(size, tagged)
	}
	h := c.hint(tagged)
	if c.err != nil {
		return Result{}, c.err
	}
	n := len(h.addresses)
	if edits, ok := w.hintEdits(c, h); ok {
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
