package tunnel

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/culvert-proxy/culvert/proxy/tunnel/exchange"
)

// A capsule is type, length, value; type and length are QUIC variable-length integers (RFC 9297 §3.2, RFC 9000 §16). Capsule boundaries mean
// nothing: an intermediary may cut and join DATA, and both ends pass its bytes on as they come.
//
// An end that meets a type it does not know skips it when the number is even, and ends the stream when it is odd. So what may be ignored by
// an older end gets an even number, and what must not be an odd one.
type capsuleType uint64

const (
	capsuleData      capsuleType = 0x01 // bytes of the stream
	capsuleKeepalive capsuleType = 0x02 // nothing; its value is skipped
	capsuleFinalData capsuleType = 0x03 // the last bytes of this direction, usually none
	capsuleTicket    capsuleType = 0x04 // JSON Ticket, gateway to agent
	capsuleOpen      capsuleType = 0x05 // JSON Open, agent to gateway, once, first
	capsuleOpened    capsuleType = 0x07 // JSON Opened, gateway to agent, once, first
	capsuleError     capsuleType = 0x09 // JSON Error; the last capsule of an end
)

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
	case capsuleOpened:
		return "OPENED"
	case capsuleError:
		return "ERROR"
	}
	return fmt.Sprintf("capsule type 0x%02x", uint64(t))
}

// maxJSON bounds the value of a JSON capsule, in bytes: a ticket and a few names; whoever wants more is not one of us.
const maxJSON = 16 << 10

func appendCapsule(b []byte, t capsuleType, value []byte) []byte {
	return append(exchange.AppendTypeLength(b, uint64(t), uint64(len(value))), value...)
}

// encodeJSON makes the value of a JSON capsule.
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

// A decoder finds the capsules in what a reader gives. It keeps its place when the reader fails, so that a read that timed out can go on
// later at the very byte. It holds at most a header, and the value of one JSON capsule.
type decoder struct {
	head exchange.TypeLength

	inValue bool // between a header and the end of its value
	typ     capsuleType
	left    uint64 // bytes of the value still to come
	value   []byte // of a JSON capsule, as far as it came
}

// header reads up to the end of the next header, after which typ and left are set and inValue is true.
func (d *decoder) header(r io.Reader) error {
	typ, length, err := d.head.Read(r)
	if err != nil {
		return err
	}
	d.typ, d.left, d.inValue = capsuleType(typ), length, true
	return nil
}

// some reads at most len(p) bytes of the value. The value is over when done is true, which may come with n == 0.
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

// whole reads the value of a JSON capsule to its end, growing as the bytes come and not as the header promises. The result is valid until
// the next capsule.
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
