package tunnel

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/culvert-proxy/culvert/proxy/printable"
	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/exchange"
)

// Read waits for one byte and returns it with whatever else has arrived. At the agent's end the
// first Read sends OPEN if no Write has.
func (c *Conn) Read(p []byte) (int, error) {
	c.reading.lock <- struct{}{}
	defer c.unlockRead()
	if len(p) == 0 {
		return 0, nil
	}
	if err := c.sendOpen(); err != nil {
		return 0, err
	}
	if c.reading.dec.inValue && c.reading.dec.typ == capsuleData {
		c.flow.begin(&c.flow.down, true)
	}
	n, err := c.read(p)
	c.flow.end(&c.flow.down)
	c.flow.add(&c.flow.down, n)
	c.reading.bytes.Add(int64(n))
	return n, err
}

func (c *Conn) unlockRead() { <-c.reading.lock }

// read fills p from as many capsules as have arrived. It waits for the first byte only.
func (c *Conn) read(p []byte) (n int, err error) {
	if err := c.readable(); err != nil {
		return 0, err
	}
	c.reading.waiting.Store(exchange.Clock())
	for n < len(p) {
		k, err := c.step(p[n:])
		if n == 0 && k > 0 {
			c.reading.waiting.Store(0)
			c.x.SetWait(false)
		}
		n += k
		if err == nil {
			continue
		}
		err = c.readFailed(err)
		if n > 0 {
			break
		}
		c.reading.waiting.Store(0)
		return 0, err
	}
	c.x.SetWait(true)
	return n, nil
}

// readable returns the error that ended reading, or nil.
func (c *Conn) readable() error {
	if c.reading.err == nil && c.ending.over.Load() {
		c.reading.err = c.endCause()
	}
	return c.reading.err
}

// step consumes one step of the capsule stream: a header, some DATA into p, or one JSON value. It
// uses p as scratch space.
func (c *Conn) step(p []byte) (n int, err error) {
	if !c.reading.dec.inValue {
		if err := c.reading.dec.header(c.x); err != nil {
			return 0, err
		}
		if err := c.expect(c.reading.dec.typ); err != nil {
			return 0, err
		}
	}
	switch c.reading.dec.typ {
	case capsuleData:
		n, _, err := c.reading.dec.some(c.x, p)
		return n, err
	case capsuleFinalData:
		n, done, err := c.reading.dec.some(c.x, p)
		if done {
			err = errFinal
		}
		return n, err
	case capsuleOpen, capsuleOpened, capsuleError:
		return 0, c.stepJSON()
	case capsuleTicket, capsuleNotice:
		if c.dialling {
			return 0, c.stepJSON()
		}
	case capsuleTimes:
		if c.wantsTimes() {
			return 0, c.stepTimes()
		}
	}
	_, _, err = c.reading.dec.some(c.x, p) // skip
	return 0, err
}

// expect returns an *Error if a capsule of type t is not allowed at this point of the stream.
func (c *Conn) expect(t capsuleType) error {
	first := capsuleOpen
	if c.dialling {
		first = capsuleOpened
	}
	switch t {
	case capsuleKeepalive, capsuleError:
		return nil
	case capsuleOpen, capsuleOpened:
		if t != first || c.isOpened() {
			return exchange.ProtocolError("unexpected %s", t)
		}
		return nil
	case capsuleData, capsuleFinalData, capsuleTicket, capsuleNotice, capsuleTimes:
		if !c.isOpened() {
			return exchange.ProtocolError("%s before %s", t, first)
		}
		return nil
	}
	if t%2 == 0 {
		return nil
	}
	return exchange.ProtocolError("unknown %s must not be ignored: this end speaks version %s of the tunnel, the other end %s", t, Version, c.theirVersion())
}

// isOpened reports whether OPEN or OPENED has arrived.
func (c *Conn) isOpened() bool {
	select {
	case <-c.opened:
		return true
	default:
		return false
	}
}

// theirVersion is the peer's version of the wire format, for error messages.
func (c *Conn) theirVersion() string {
	switch {
	case !c.isOpened():
		return "unknown"
	case c.dialling:
		return printable.Text(c.answer.Version, exchange.MaxWord)
	default:
		return printable.Text(c.openIn.Version, exchange.MaxWord)
	}
}

// errRemote is an ERROR that the peer sent, as opposed to an *Error that this end raises.
type errRemote struct{ err *Error }

func (e errRemote) Error() string { return e.err.Error() }

// stepJSON reads the rest of a JSON capsule and acts on it. It returns an errRemote for an ERROR.
// Each value is bounded before it is kept or shown.
func (c *Conn) stepJSON() error {
	value, err := c.reading.dec.whole(c.x)
	if err != nil {
		return err
	}
	switch t := c.reading.dec.typ; t {
	case capsuleTicket:
		var v Ticket
		if err := decodeJSON(t, value, &v); err != nil {
			return err
		}
		if c.reading.onTicket != nil {
			c.reading.onTicket(v)
		}
		return nil
	case capsuleNotice:
		v := new(Error)
		if err := decodeJSON(t, value, v); err != nil {
			return err
		}
		c.reading.notice = v.Bounded()
		return nil
	case capsuleError:
		v := new(Error)
		if err := decodeJSON(t, value, v); err != nil {
			return err
		}
		if !c.dialling {
			v.Remedy = "" // an agent cannot know what a gateway's operator should do
		}
		return errRemote{v.Bounded()}
	case capsuleOpen:
		err = decodeJSON(t, value, &c.openIn)
		if n := len(c.openIn.Target); err == nil && n > MaxTarget {
			err = &Error{Code: CodeTarget, Message: fmt.Sprintf("target address of %d bytes exceeds the limit of %d", n, MaxTarget)}
		}
	case capsuleOpened:
		err = decodeJSON(t, value, &c.answer)
		c.answer.Gateway = printable.Text(c.answer.Gateway, exchange.MaxWord)
	}
	if err != nil {
		return err
	}
	theirs := c.openIn.Version
	if c.dialling {
		theirs = c.answer.Version
	}
	if err := checkVersion(theirs); err != nil {
		return err
	}
	close(c.opened)
	return nil
}

// decodeJSON decodes the value of a JSON capsule. encoding/json repeats parts of the value in its
// errors, so they are made printable.
func decodeJSON(t capsuleType, value []byte, v any) error {
	if err := json.Unmarshal(value, v); err != nil {
		return exchange.ProtocolError("decode %s: %s", t, printable.Text(err.Error(), printable.Sentence))
	}
	return nil
}

// readFailed turns the error of a step into the error of Read, and ends the stream if it has to.
// After a timeout the stream goes on.
func (c *Conn) readFailed(err error) error {
	if cause := c.endCause(); cause != nil {
		c.reading.err = cause
		return cause
	}
	if exchange.IsTimeout(err) {
		return os.ErrDeadlineExceeded
	}
	switch e := err.(type) {
	case errRemote:
		c.ending.gotError.Store(true)
		c.reading.err = e.err
		c.end(e.err)
		c.x.Abort()
	case *Error:
		c.reading.err = e
		c.reset(e, e)
	case *exchange.Refused:
		c.reading.err = e.Err
		c.end(e.Err)
		c.x.Abort()
	default:
		if err == errFinal {
			c.reading.err = io.EOF
			c.reading.final.Store(true)
			break
		}
		c.reading.err = cut(err)
		c.ending.cut.Store(true)
	}
	return c.reading.err
}

// Opened waits for the gateway's answer to OPEN, and sends OPEN if no Write has. Reads may run at
// the same time, and the end of ctx does not harm the stream.
func (c *Conn) Opened(ctx context.Context) (Opened, error) {
	if c.isOpened() {
		return c.answer, nil
	}
	if ctx.Err() != nil {
		return Opened{}, context.Cause(ctx)
	}
	select {
	case <-c.opened:
		return c.answer, nil
	case <-ctx.Done():
		return Opened{}, context.Cause(ctx)
	case c.reading.lock <- struct{}{}:
	}
	defer c.unlockRead()
	stop := context.AfterFunc(ctx, func() { c.x.SetReadDeadline(aLongTimeAgo) })
	err := c.sendOpen()
	if err == nil {
		err = c.awaitOpened(nil)
	}
	if !stop() {
		c.SetReadDeadline(c.userReadDeadline())
	}
	switch {
	case err == nil:
		return c.answer, nil
	case ctx.Err() != nil && exchange.IsTimeout(err):
		return Opened{}, context.Cause(ctx)
	}
	return Opened{}, err
}

// awaitOpened reads until OPEN or OPENED has arrived. It calls onKeepalive, unless that is nil, for
// each KEEPALIVE that arrives before. The caller holds reading.lock.
func (c *Conn) awaitOpened(onKeepalive func()) error {
	scratch := make([]byte, 256)
	c.reading.waiting.Store(exchange.Clock())
	defer c.reading.waiting.Store(0)
	for !c.isOpened() {
		if err := c.readable(); err != nil {
			return err
		}
		if _, err := c.step(scratch); err != nil {
			return c.readFailed(err)
		}
		if onKeepalive != nil && c.reading.dec.typ == capsuleKeepalive && !c.reading.dec.inValue {
			onKeepalive()
		}
	}
	return nil
}
