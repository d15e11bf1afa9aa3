package rewrite

import (
	"encoding/binary"
	"slices"

	"github.com/culvert-proxy/culvert/protocol"
)

// A hint is where a response names the leaders to turn to instead
// (NodeEndpoints, KIP-951). It stands behind all else:
//
//	[endpoints] node int32, host string, port int32, rack string, TAGS, TAGS   (ShareFetch, ShareAcknowledge)
//	TAGS, with the same array in the field 0                                   (Produce, Fetch)
type hint struct {
	addresses []address
	array     span // the endpoints, with their count

	tagged bool
	field  span // the tagged field that holds the array, from its number on
	size   span // its size

	tags    span // the count of the response's tagged fields
	tagsLen int  // that count
	lastTag int  // the highest number among them
	end     int  // the end of the response
}

// hint walks over the end of a response.
func (c *cursor) hint(tagged bool) (h hint) {
	h.tagged = tagged
	if !tagged {
		c.endpoints(&h)
	}
	at := c.at
	h.tagsLen = c.count(c.uvarint(), 2)
	h.tags = span{at, c.at}
	for n := h.tagsLen; n > 0 && c.err == nil; n-- {
		c.hintTag(&h)
	}
	h.end = c.at
	c.end()
	return h
}

// hintTag walks over one of the response's tagged fields. Java and librdkafka
// read the field 0 without a look at its size, others trust the size: unless
// both agree it could show an address to one of them.
func (c *cursor) hintTag(h *hint) {
	from := c.at
	tag := c.uvarint()
	sizeAt := c.at
	size := c.uvarint()
	value := c.at
	h.lastTag = max(h.lastTag, tag)
	if tag > 0 || !h.tagged {
		c.skip(size)
		return
	}
	if h.field.to > 0 {
		c.fail("two tagged fields 0")
	}
	c.endpoints(h)
	if read := c.at - value; read != size && c.err == nil {
		c.fail("tagged field 0 of %d bytes holds %d", size, read)
	}
	h.field, h.size = span{from, c.at}, span{sizeAt, value}
}

func (c *cursor) endpoints(h *hint) {
	from := c.at
	for n := c.array(); n > 0 && c.err == nil; n-- {
		h.addresses = c.broker(h.addresses)
		c.string() // rack
		c.tags()
	}
	h.array = span{from, c.at}
}

// hintEdits returns the edits that replace the addresses of a hint, or ok=false if
// one is missing in the Directory.
func (w *Rewriter) hintEdits(c *cursor, h hint) (edits []edit, ok bool) {
	edits, missing := w.edits(c, h.addresses)
	if missing >= 0 {
		return nil, false
	}
	if n := growth(edits); n != 0 && h.tagged {
		edits = slices.Insert(edits, 0, h.resize(h.array.len()+n))
	}
	return edits, true
}

// resize changes the size of the tagged field.
func (h hint) resize(n int) edit {
	return edit{h.size, binary.AppendUvarint(nil, uint64(n))}
}

// blank empties the array of endpoints, which tells a client to ask for metadata.
func (h hint) blank() []edit {
	empty := edit{h.array, []byte{1}}
	if h.tagged {
		return []edit{h.resize(1), empty}
	}
	return []edit{empty}
}

// relayHint passes a response that holds no records and may end in a hint.
// Without all of its addresses a hint is blanked: it must not lead a client to
// some of the leaders only.
func (w *Rewriter) relayHint(c *cursor, r response) (Result, error) {
	var h hint
	if r.key == protocol.Produce {
		h = c.produce(r.version)
	} else {
		h = c.shareAcknowledge(r.version)
	}
	if c.err != nil {
		return Result{}, c.err
	}
	n := len(h.addresses)
	edits, ok := w.hintEdits(c, h)
	if !ok {
		return Result{Blanked: n}, c.finish(h.blank())
	}
	return Result{Rewritten: n}, c.finish(edits)
}

// produce walks over a Produce response v10-13.
//
//	[topics] name string (v10-12) or id (v13+)
//	  [partitions] index int32, error int16, base offset int64, append time int64, log start offset int64
//	    [record errors] batch index int32, message string, TAGS
//	    message string, TAGS
//	  TAGS
//	throttle int32, hint
func (c *cursor) produce(version int16) hint {
	for n := c.array(); n > 0 && c.err == nil; n-- {
		if version >= 13 {
			c.skip(16)
		} else {
			c.string()
		}
		for n := c.array(); n > 0 && c.err == nil; n-- {
			c.skip(4 + 2 + 8 + 8 + 8)
			for n := c.array(); n > 0 && c.err == nil; n-- {
				c.skip(4)
				c.string()
				c.tags()
			}
			c.string()
			c.tags()
		}
		c.tags()
	}
	c.skip(4)
	return c.hint(true)
}

// shareAcknowledge walks over a ShareAcknowledge response v0-2.
//
//	throttle int32, error int16, message string, acquisition lock timeout int32 (v2+)
//	[topics] id
//	  [partitions] index int32, error int16, message string
//	    leader {node int32, epoch int32, TAGS}, TAGS
//	  TAGS
//	hint
func (c *cursor) shareAcknowledge(version int16) hint {
	c.skip(4 + 2)
	c.string()
	if version >= 2 {
		c.skip(4)
	}
	for n := c.array(); n > 0 && c.err == nil; n-- {
		c.skip(16)
		for n := c.array(); n > 0 && c.err == nil; n-- {
			c.skip(4 + 2)
			c.string()
			c.skip(4 + 4)
			c.tags()
			c.tags()
		}
		c.tags()
	}
	return c.hint(false)
}
