package kafkamodel

// header is the header of a request: message.RequestHeaderData.
type header struct {
	key, version  int16
	correlationID int32
}

// parseHeader reads a header and returns the body behind it: requests. RequestHeader.parse. The
// version of the header follows from the request's own key and version, whether or not the broker
// supports that version.
func parseHeader(frame []byte) (h header, body *reader, refused string) {
	r := &reader{rest: frame}
	h = header{key: r.int16(), version: r.int16(), correlationID: r.int32()}
	if len(frame) < 4 {
		return h, nil, "no key and version"
	}
	if a, known := apis[h.key]; !known || a.min > a.max {
		return h, nil, "unknown key"
	}
	if n := r.int16(); n >= 0 { // every negative length is null
		r.bytes(int32(n)) // in any encoding: String replaces what is not UTF-8
	}
	if h.flexible() {
		r.tags()
	}
	if r.failed {
		return h, nil, "header does not parse"
	}
	return h, r, ""
}

// flexible reports whether the header has tagged fields, version 2 of it:
// message.ApiMessageType.requestHeaderVersion, which asks the version only if the key has versions
// of both kinds.
func (h header) flexible() bool {
	a := apis[h.key]
	return a.flexible <= int32(a.min) || int32(h.version) >= a.flexible
}

func (h header) event() Event {
	return Event{Kind: Request, Key: h.key, Version: h.version, CorrelationID: h.correlationID}
}

// supported is protocol.ApiKeys.isVersionSupported: of any listener.
func (h header) supported() bool {
	a := apis[h.key]
	return h.version >= a.min && h.version <= a.max
}

// enabled is server.ApiVersionManager.isApiEnabled: ApiVersions is taken in any version, negative
// ones too, other requests only on the listeners that they are meant for.
func (h header) enabled() bool {
	return h.key == apiVersions || h.supported() && !apis[h.key].controller
}

// reader reads the primitive types: protocol.Readable and protocol.ByteBufferAccessor. Once it has
// failed, it returns zeros.
type reader struct {
	rest   []byte
	failed bool
}

// bytes is ByteBufferAccessor.readArray: a negative length fails too.
func (r *reader) bytes(n int32) []byte {
	if r.failed || n < 0 || int(n) > len(r.rest) {
		r.failed = true
		return nil
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) integer(size int32) (v int64) {
	for _, b := range r.bytes(size) {
		v = v<<8 | int64(b)
	}
	return v
}

func (r *reader) int16() int16 { return int16(r.integer(2)) }
func (r *reader) int32() int32 { return int32(r.integer(4)) }

// uvarint is utils.ByteUtils.readUnsignedVarint: up to five bytes. The last must not have its
// highest bit set, and loses the bits that do not fit. The result is an int in Java and can be
// negative.
func (r *reader) uvarint() (v int32) {
	for shift := 0; shift <= 28; shift += 7 {
		b := int8(r.integer(1))
		if b >= 0 {
			return v | int32(b)<<shift
		}
		v |= int32(b&0x7f) << shift
	}
	r.failed = true
	return 0
}

// tags skips tagged fields. Their order and duplicates do not matter, and a negative count is none.
func (r *reader) tags() {
	for range max(r.uvarint(), 0) {
		r.uvarint()
		r.bytes(r.uvarint())
		if r.failed {
			return
		}
	}
}

// compactLength is the length of a compact string, array or of bytes: negative is null.
func (r *reader) compactLength() int32 { return r.uvarint() - 1 }

// str reads a string of n bytes. It is over the limit from 32768 on, which only a compact string
// can state.
func (r *reader) str(n int32) []byte {
	if n > 0x7fff {
		r.failed = true
	}
	return r.bytes(n)
}

// elements checks the length of an array that may not be null. What may be allocated is checked
// against what is left.
func (r *reader) elements(n int32) int32 {
	if r.failed || n < 0 || int(n) > len(r.rest) {
		r.failed = true
		return 0
	}
	return n
}
