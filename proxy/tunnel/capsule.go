package tunnel

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/exchange"
)

// A capsule is a type, a length and a value; type and length are QUIC variable-length integers (RFC
// 9297 §3.2, RFC 9000 §16). The boundaries of DATA capsules have no meaning: an intermediary may
// split and merge them, and both ends pass the bytes on as they arrive.
//
// An end skips a capsule of unknown type if the type is even, and ends the stream if it is odd. So
// a new capsule gets an even number if older ends may ignore it, and an odd one if they must not.
type capsuleType uint64

const (
	capsuleData      capsuleType = 0x01 // bytes of the stream
	capsuleKeepalive capsuleType = 0x02 // empty; a value is skipped
	capsuleFinalData capsuleType = 0x03 // the last bytes of this direction, usually none
	capsuleTicket    capsuleType = 0x04 // JSON Ticket, gateway to agent
	capsuleOpen      capsuleType = 0x05 // JSON Open, agent to gateway, once, first
	capsuleNotice    capsuleType = 0x06 // JSON Error, gateway to agent: why FINAL_DATA follows
	capsuleOpened    capsuleType = 0x07 // JSON Opened, gateway to agent, once, first
	capsuleTimes     capsuleType = 0x08 // varints, gateway to agent: see Conn.AddTime
	capsuleError     capsuleType = 0x09 // JSON Error; the last capsule in its direction
)

// String returns the name in docs/tunnel.md.
func (t capsuleType) String() string {
	switch t {
	case capsuleData:
		return "DATA"
	case capsuleKeepalive:
		return "KEEPALIVE"
	case capsuleFinalData:
		return "FINAL_DATA"
	case capsuleTicket:
		return "TICKET"
	case capsuleOpen:
		return "OPEN"
	case capsuleNotice:
		return "NOTICE"
	case capsuleOpened:
		return "OPENED"
	case capsuleTimes:
		return "TIMES"
	case capsuleError:
		return "ERROR"
	}
	return fmt.Sprintf("capsule type 0x%02x", uint64(t))
}

// maxJSON is the limit of the value of a JSON capsule, in bytes. It has room for a ticket and a few
// names.
const maxJSON = 16 << 10

// appendCapsule appends a whole capsule to b.
func appendCapsule(b []byte, t capsuleType, value []byte) []byte {
	return append(exchange.AppendTypeLength(b, uint64(t), uint64(len(value))), value...)
}

// encodeJSON returns the value of a JSON capsule. It fails where the peer would refuse it for its
// size.
func encodeJSON(t capsuleType, v any) ([]byte, error) {
	value, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", t, err)
	}
	if len(value) > maxJSON {
		return nil, fmt.Errorf("encode %s: %d bytes exceed the limit of %d", t, len(value), maxJSON)
	}
	return value, nil
}

// A decoder splits the bytes of a reader into capsules. It keeps its position when the reader
// fails, so that a read that timed out can continue at the exact byte. It buffers no more than one
// header and the value of one JSON capsule.
type decoder struct {
	head exchange.TypeLength

	inValue bool // between a header and the end of the value
	typ     capsuleType
	left    uint64 // bytes of the value still to come
	value   []byte // of a JSON capsule, as far as it has arrived
}

// header reads the next header. It then sets typ and left, and inValue to true.
func (d *decoder) header(r io.Reader) error {
	typ, length, err := d.head.Read(r)
	if err != nil {
		return err
	}
	d.typ, d.left, d.inValue = capsuleType(typ), length, true
	return nil
}

// some reads at most len(p) bytes of the value. done means that the value has ended, which may come
// with n == 0.
func (d *decoder) some(r io.Reader, p []byte) (n int, done bool, err error) {
	if d.left > 0 {
		n, err = r.Read(p[:min(uint64(len(p)), d.left)])
		d.left -= uint64(n)
	}
	if d.left > 0 {
		return n, false, err
	}
	d.inValue = false
	return n, true, nil
}

// whole reads the rest of a JSON value. Its buffer grows with the bytes that arrive and not with
// the length in the header, which costs a peer nothing to claim. The caller owns the result.
func (d *decoder) whole(r io.Reader) ([]byte, error) {
	if size := d.left + uint64(len(d.value)); size > maxJSON {
		return nil, exchange.ProtocolError("%s of %d bytes exceeds the limit of %d", d.typ, size, maxJSON)
	}
	var scratch [512]byte
	for {
		n, done, err := d.some(r, scratch[:])
		d.value = append(d.value, scratch[:n]...)
		if done {
			v := d.value
			d.value = nil
			return v, nil
		}
		if err != nil {
			return nil, err
		}
	}
}
