package rewrite

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/culvert-proxy/culvert/protocol"
)

// maxHeld bounds the bytes of one response that are held back, whatever a broker sends. A broker's
// entry is about 60 bytes long: 10,000 of them need less than 1 MiB. A Produce response of 100,000
// partitions needs 5 MiB.
const maxHeld = 16 << 20

// ErrUndecodable is wrapped by errors about responses that do not follow their schema. Such a
// response is not relayed: an address could be in it.
var ErrUndecodable = errors.New("cannot be decoded and is not relayed")

// maxRead is how many bytes of a response are read for its errors, beyond those that have arrived
// already. Responses with errors are small, and a Fetch response of many megabytes must cost no
// more than passing it.
const maxRead = 64 << 10

// errEnough ends a walk behind maxRead.
var errEnough = errors.New("enough has been read")

// response says which response a cursor walks over.
type response struct {
	key           protocol.APIKey
	version       int16
	correlationID int32
}

func (r response) String() string {
	return fmt.Sprintf("%s v%d response, correlation id %d", r.key, r.version, r.correlationID)
}

// A cursor walks over one response, field by field in the order of Kafka's schemas
// (clients/src/main/resources/common/message). Its first error sticks, and what is read after it is
// zero.
//
// A count or length that exceeds the bytes left in the frame is an error, and nothing is allocated
// before its bytes have arrived.
type cursor struct {
	response
	f      *protocol.Flow
	b      []byte // the bytes of the frame that are read and not passed, on loan from f
	at     int    // offset of the next field in b
	beyond int64  // bytes of the frame behind b
	passed int64  // bytes of the frame before b
	// hold keeps in b all that is walked over, so that offsets in b stay valid. Without it, that is
	// passed as soon as more bytes are needed.
	hold     bool
	most     int64 // how many bytes to walk over at most, except those that have arrived; 0: all
	flexible bool  // compact lengths, and tagged fields behind each struct (KIP-482)
	outcome  protocol.Outcome
	err      error
}

// newCursor returns a cursor at the length of the frame that is next in f. It holds what it walks
// over. size counts the length.
func newCursor(f *protocol.Flow, size int64, r response) cursor {
	return cursor{response: r, f: f, beyond: size, hold: true}
}

// header walks over the length, the correlation id and the header's tagged fields, and sets the
// form of the body.
func (c *cursor) header() {
	c.skip(4 + 4)
	c.flexible = c.key.FlexibleResponseHeader(c.version)
	c.tags()
	c.flexible = c.key.Flexible(c.version)
}

// reading has c pass what it walks over, up to a bound.
func (c *cursor) reading() { c.hold, c.most = false, maxRead }

// passRest passes what a walk in such a mode has left of size bytes.
func passRest(c cursor, size int64) (protocol.Outcome, error) {
	if c.err == nil || c.err == errEnough || errors.Is(c.err, ErrUndecodable) {
		return c.outcome, c.f.PassThrough(size - c.passed)
	}
	return c.outcome, c.err
}

// left returns how many bytes of the frame have not been walked over.
func (c *cursor) left() int64 { return int64(len(c.b)-c.at) + c.beyond }

// end fails if bytes of the frame are left.
func (c *cursor) end() {
	if n := c.left(); n > 0 && c.err == nil {
		c.fail("%d bytes left over", n)
	}
}

func (c *cursor) fail(format string, args ...any) {
	c.stop(fmt.Errorf("decode %s: %s: %w", c.response, fmt.Sprintf(format, args...), ErrUndecodable))
}

func (c *cursor) stop(err error) {
	if c.err == nil {
		c.err = err
	}
	c.b, c.at, c.beyond = nil, 0, 0
}

// take walks over the next n bytes and returns them, or nil.
func (c *cursor) take(n int) []byte {
	if n > len(c.b)-c.at && !c.more(n) {
		return nil
	}
	c.at += n
	return c.b[c.at-n : c.at]
}

// more reads until b holds n bytes behind at, and takes all others that have arrived with them. It
// reports whether it could.
func (c *cursor) more(n int) bool {
	if c.err != nil {
		return false
	}
	if int64(n) > c.left() {
		c.fail("%d bytes expected, %d left", n, c.left())
		return false
	}
	if c.enough(n) {
		return false
	}
	if !c.hold {
		c.pass()
	}
	need, size := int64(c.at)+int64(n), int64(len(c.b))+c.beyond
	if need > maxHeld {
		c.fail("more than %d MiB would be held back", maxHeld>>20)
		return false
	}
	if _, err := c.f.Peek(int(need), maxHeld); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		c.stop(err)
		return false
	}
	c.see(size)
	return true
}

// enough reports, and has err say, that n more bytes are more than to walk over.
func (c *cursor) enough(n int) bool {
	if c.most == 0 || c.passed+int64(c.at)+int64(n) <= c.most {
		return false
	}
	c.stop(errEnough)
	return true
}

// see sets b to what has arrived of the next size bytes, the rest of the frame.
func (c *cursor) see(size int64) {
	n := int(min(size, int64(c.f.Buffered())))
	c.b, _ = c.f.Peek(n, n)
	c.beyond = size - int64(n)
}

// pass passes what has been walked over.
func (c *cursor) pass() {
	c.f.Pass(c.at)
	c.passed += int64(c.at)
	c.b, c.at = c.b[c.at:], 0
}

// skip walks over n bytes.
func (c *cursor) skip(n int) {
	switch have := len(c.b) - c.at; {
	case n <= have:
		c.at += n
	case c.hold || int64(n) > c.left():
		c.take(n)
	case c.enough(n):
	default:
		c.f.Pass(c.at)
		c.passed += int64(c.at) + int64(n)
		c.b, c.at, c.beyond = nil, 0, c.beyond-int64(n-have)
		if err := c.f.PassThrough(int64(n)); err != nil {
			c.stop(err)
		}
	}
}

func (c *cursor) int16() int16 {
	if b := c.take(2); b != nil {
		return int16(binary.BigEndian.Uint16(b))
	}
	return 0
}

func (c *cursor) int32() int32 {
	if b := c.take(4); b != nil {
		return int32(binary.BigEndian.Uint32(b))
	}
	return 0
}

// uvarint reads an unsigned varint of at most five bytes and 31 bits: no size is larger in Kafka,
// where it is a Java int.
func (c *cursor) uvarint() int {
	if c.at < len(c.b) && c.b[c.at] < 0x80 {
		c.at++
		return int(c.b[c.at-1])
	}
	var v uint64
	for shift := 0; shift < 35; shift += 7 {
		b := c.take(1)
		if b == nil {
			return 0
		}
		v |= uint64(b[0]&0x7f) << shift
		if b[0] < 0x80 && v <= math.MaxInt32 {
			return int(v)
		}
	}
	c.fail("varint of more than 31 bits")
	return 0
}

// count returns n, or fails if n elements of at least size bytes each do not fit into the bytes
// left.
func (c *cursor) count(n, size int) int {
	if n < 0 || int64(n)*int64(size) > c.left() {
		c.fail("%d elements, %d bytes left", n, c.left())
		return 0
	}
	return n
}

// array reads the length of an array, which is 0 for null.
func (c *cursor) array() int {
	n := 0
	if c.flexible {
		n = c.uvarint() - 1
	} else {
		n = int(c.int32())
	}
	if n == -1 {
		return 0
	}
	return c.count(n, 1)
}

// string walks over a string, which may be null, and returns its bytes, on loan, if they are held.
func (c *cursor) string() []byte {
	n := 0
	if c.flexible {
		n = c.uvarint() - 1
	} else {
		n = int(c.int16())
	}
	switch {
	case n == -1:
		return nil
	case !c.hold:
		c.skip(c.count(n, 1))
		return nil
	}
	return c.take(c.count(n, 1))
}

// records walks over bytes, which may be null and are not looked at.
func (c *cursor) records() {
	n := 0
	if c.flexible {
		n = c.uvarint() - 1
	} else {
		n = int(c.int32())
	}
	if n > 0 {
		c.skip(n)
	}
}

// errorCode reads an error code.
func (c *cursor) errorCode() { c.outcome.Errors.Add(c.int16()) }

// partition walks over n bytes that begin with the index of a partition, int32, and its error
// code.
func (c *cursor) partition(n int) {
	if b := c.take(n); b != nil {
		c.outcome.Errors.Add(int16(binary.BigEndian.Uint16(b[4:])))
	}
}

// tags walks over the tagged fields at the end of a struct.
func (c *cursor) tags() {
	if !c.flexible {
		return
	}
	for n := c.count(c.uvarint(), 2); n > 0 && c.err == nil; n-- {
		c.uvarint()
		c.skip(c.uvarint())
	}
}

// numbers walks over an array of numbers of so many bytes.
func (c *cursor) numbers(size int) { c.skip(c.count(c.array(), size) * size) }
