package exchange

import (
	"bytes"
	"io"

	"github.com/quic-go/qpack"
)

// errHeaderTooLarge is the error for HEADERS larger than MaxHeader, counted as in RFC 9114 §4.2.2.
// It is shared; nobody may change it.
var errHeaderTooLarge = ProtocolError("HTTP/3 header of more than %d bytes", MaxHeader)

// decodeFields decodes the block of a HEADERS frame. It counts the decoded size, because one byte
// of a block can stand for a field of a hundred bytes.
func decodeFields(block []byte) (fields []qpack.HeaderField, err error) {
	size := 0
	for next := qpack.NewDecoder().Decode(block); ; {
		f, err := next()
		if err == io.EOF {
			return fields, nil
		}
		if err != nil {
			return nil, err
		}
		if size += len(f.Name) + len(f.Value) + 32; size > MaxHeader {
			return nil, errHeaderTooLarge
		}
		fields = append(fields, f)
	}
}

// A fieldBlock encodes the fields of a HEADERS frame.
type fieldBlock struct {
	block bytes.Buffer
	enc   *qpack.Encoder
}

// add adds a field. Fields are encoded in the order in which they are added; pseudo-header fields
// must come first (RFC 9114 §4.3).
func (f *fieldBlock) add(name, value string) {
	if f.enc == nil {
		f.enc = qpack.NewEncoder(&f.block)
	}
	f.enc.WriteField(qpack.HeaderField{Name: name, Value: value})
}

// frame returns the HEADERS frame.
func (f *fieldBlock) frame() []byte {
	return append(AppendTypeLength(nil, frameHeaders, uint64(f.block.Len())), f.block.Bytes()...)
}
