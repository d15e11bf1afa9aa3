package exchange

import (
	"io"

	"github.com/quic-go/quic-go/quicvarint"
)

// MaxTypeLength is how many bytes a type and a length have at most.
const MaxTypeLength = 16

// A TypeLength reads the type and the length that HTTP/3 frames (RFC 9114 §7.1) and capsules (RFC 9297 §3.2) begin with, two QUIC varints. It reads
// no byte beyond them, and keeps its place when the reader fails: after a timeout it goes on at the very byte. The zero value is ready.
type TypeLength struct {
	head [MaxTypeLength]byte
	have int // bytes in head
}

// Read reads from r until both are there.
func (t *TypeLength) Read(r io.Reader) (typ, length uint64, err error) {
	for t.have < t.need() {
		n, err := r.Read(t.head[t.have:t.need()])
		t.have += n
		if err != nil && t.have < t.need() {
			return 0, 0, err
		}
	}
	typ, n, err := quicvarint.Parse(t.head[:t.have])
	if err == nil {
		length, _, err = quicvarint.Parse(t.head[n:t.have])
	}
	t.have = 0
	return typ, length, err
}

// need is how many bytes there are at least, after what is known of them.
func (t *TypeLength) need() int {
	if t.have == 0 {
		return 2
	}
	k := varintLen(t.head[0])
	if t.have <= k {
		return k + 1
	}
	return k + varintLen(t.head[k])
}

// varintLen is the length of a varint whose first byte is b.
func varintLen(b byte) int { return 1 << (b >> 6) }

// AppendTypeLength appends both in their shortest form.
func AppendTypeLength(b []byte, typ, length uint64) []byte {
	return quicvarint.Append(quicvarint.Append(b, typ), length)
}
