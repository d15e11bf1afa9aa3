package exchange

import (
	"io"

	"github.com/quic-go/quic-go/quicvarint"
)

// Types of HTTP/3 frames on request streams, RFC 9114 §7.2.
const (
	frameData    = 0x00
	frameHeaders = 0x01
)

// MaxTypeLength is the largest size of a type and a length together, in bytes.
const MaxTypeLength = 16

// A TypeLength reads the type and the length at the start of an HTTP/3 frame (RFC 9114 §7.1) or a
// capsule (RFC 9297 §3.2): two QUIC varints. It reads no byte beyond them. It keeps its position
// when the reader fails, so that a read after a timeout continues at the exact byte;
// quicvarint.Read would lose what it has read. The zero value is ready to use.
type TypeLength struct {
	head [MaxTypeLength]byte
	have int // bytes in head
}

// Read reads from r until both are complete.
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

// need returns the total size in bytes, as far as the bytes so far determine it.
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

// varintLen returns the length of a varint with first byte b, RFC 9000 §16.
func varintLen(b byte) int { return 1 << (b >> 6) }

// AppendTypeLength appends both in their shortest encoding.
func AppendTypeLength(b []byte, typ, length uint64) []byte {
	return quicvarint.Append(quicvarint.Append(b, typ), length)
}
