package protocol

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
	h := newHead(f, r)
	h.classicString() // client id
	switch flexible := Produce.Flexible(r.Version); {
	case flexible:
		h.tags()
		h.compactString()
	case r.Version >= 3:
		h.classicString()
	}
	acks := h.int16()
	return acks, h.failed(r)
}
