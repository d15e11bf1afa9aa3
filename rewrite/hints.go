package rewrite

import (
	"encoding/binary"
	"slices"
)

// A hint is the part of a response that names the leaders to turn to instead (NodeEndpoints,
// KIP-951). It is the end of the response:
//
//	[endpoints] node int32, host string, port int32, rack string, TAGS, TAGS   (ShareFetch, ShareAcknowledge)
//	TAGS, with the same array in the field 0                                   (Produce, Fetch)
type hint struct {
	addresses []address
	array     span // the endpoints, with their count

	tagged bool
	field  span // the tagged field that holds the array, from its number on
	size   span // its size

	countAt span // where the count of the response's tagged fields is
	count   int  // that count
	lastTag int  // the highest number among them
	end     int  // the end of the response
}

// Where the endpoints of a hint are: an array of the response, or its tagged field 0.
const inArray, inTag = false, true

// hint walks over the end of a response.
func (c *cursor) hint(tagged bool) (h hint) {
	h.tagged = tagged
	if !tagged {
		c.endpoints(&h)
	}
	at := c.at
	h.count = c.count(c.uvarint(), 2)
	h.countAt = span{at, c.at}
	for n := h.count; n > 0 && c.err == nil; n-- {
		c.hintTag(&h)
	}
	h.end = c.at
	c.end()
	return h
}

// hintTag walks over one of the response's tagged fields. Java and librdkafka read the field 0 and
// ignore its size, others rely on the size. A field of which these read different bytes is an
// error: an address could be among them.
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

// hintEdits returns the edits that replace the addresses of a hint, or ok=false if the directory
// has none for one of them.
func (c *cursor) hintEdits(h hint, d Directory) (edits []edit, ok bool) {
	edits, missing := c.replace(h.addresses, d)
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

// blank empties the array of endpoints. A client then asks for metadata.
func (h hint) blank() []edit {
	empty := edit{h.array, []byte{1}}
	if h.tagged {
		return []edit{h.resize(1), empty}
	}
	return []edit{empty}
}

// held relays responses without records that may end in a hint. All of the response is held, so
// that its length can change. If the directory has no address for one of the leaders, the whole
// hint is blanked: a client must not be led to some of them only.
type held struct {
	walk   func(cursor) cursor // up to the hint
	tagged bool
}

func (h held) relay(c cursor, d Directory) (Result, error) {
	c = h.walk(c)
	found := c.hint(h.tagged)
	if c.err != nil {
		return Result{}, c.err
	}
	n := len(found.addresses)
	edits, ok := c.hintEdits(found, d)
	if !ok {
		return Result{Blanked: n, Outcome: c.outcome}, c.finish(found.blank())
	}
	return Result{Rewritten: n, Outcome: c.outcome}, c.finish(edits)
}
