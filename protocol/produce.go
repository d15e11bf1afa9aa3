package protocol

// acks reads a Produce request up to its acks, and returns them.
//
//	v0-2:  header v1 | acks
//	v3-8:  header v1 | transactional id, classic nullable string | acks
//	v9+:   header v2 | transactional id, compact nullable string | acks
//
// Header v1 is key, version and correlation id behind the length, and the client id with a length
// of two bytes, in header v2 as well; header v2 ends with tagged fields.
func (h *head) acks(version int16) int16 {
	h.classicString() // client id
	switch flexible := Produce.Flexible(version); {
	case flexible:
		h.tags()
		h.compactString()
	case version >= 3:
		h.classicString()
	}
	return h.int16()
}
