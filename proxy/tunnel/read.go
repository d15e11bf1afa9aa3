package tunnel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/culvert-proxy/culvert/proxy/printable"
)

// Read waits for one byte, and takes what else is there. The dialling end's first Read sends OPEN, if no Write has.
func (c *Conn) Read(p []byte) (int, error) {
	c.rlock <- struct{}{}
	defer c.unlockRead()
	if len(p) == 0 {
		return 0, nil
	}
	if err := c.sendOpen(); err != nil {
		return 0, err
	}
	return c.read(p)
}

func (c *Conn) unlockRead() { <-c.rlock }

// read fills p from as many capsules as are there. It waits for the first byte only.
func (c *Conn) read(p []byte) (n int, err error) {
	if err := c.readable(); err != nil {
		return 0, err
	}
	c.waiting.Store(clock())
	for n < len(p) {
		k, err := c.step(p[n:])
		if n == 0 && k > 0 {
			c.waiting.Store(0)
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
		c.waiting.Store(0)
		return 0, err
	}
	c.x.SetWait(true)
	return n, nil
}

// readable reports why nothing can be read any more.
func (c *Conn) readable() error {
	if c.readErr == nil && c.ended.Load() {
		c.readErr = c.endCause()
	}
	return c.readErr
}

// step takes one step through the capsules: a header, or some DATA into p, or a whole JSON value. It uses p as scratch.
func (c *Conn) step(p []byte) (n int, err error) {
	if !c.dec.inValue {
		if err := c.dec.header(c.x); err != nil {
			return 0, err
		}
		if err := c.expect(c.dec.typ); err != nil {
			return 0, err
		}
	}
	switch c.dec.typ {
	case capsuleData:
		n, _, err := c.dec.some(c.x, p)
		return n, err
	case capsuleFinalData:
		n, done, err := c.dec.some(c.x, p)
		if done {
			err = errFinal
		}
		return n, err
	case capsuleOpen, capsuleOpened, capsuleError:
		return 0, c.stepJSON()
	case capsuleTicket:
		if c.dialling {
			return 0, c.stepJSON()
		}
	}
	_, _, err = c.dec.some(c.x, p) // skip
	return 0, err
}

// expect reports as an *Error that a capsule may not come here.
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
			return protocolError("unexpected %s", t)
		}
		return nil
	case capsuleData, capsuleFinalData, capsuleTicket:
		if !c.isOpened() {
			return protocolError("%s before %s", t, first)
		}
		return nil
	}
	if t%2 == 0 {
		return nil
	}
	return protocolError("%s may not be ignored and is not known: this end speaks version %s of the tunnel, the other end %s", t, Version, c.theirVersion())
}

func protocolError(format string, a ...any) *Error {
	return &Error{CodeProtocol, fmt.Sprintf(format, a...)}
}

func (c *Conn) isOpened() bool {
	select {
	case <-c.opened:
		return true
	default:
		return false
	}
}

func (c *Conn) theirVersion() string {
	switch {
	case !c.isOpened():
		return "unknown"
	case c.dialling:
		return printable.Text(c.answer.Version, maxWord)
	default:
		return printable.Text(c.openIn.Version, maxWord)
	}
}

// errRemote is the peer's ERROR, as distinct from an *Error that this end finds.
type errRemote struct{ err *Error }

func (e errRemote) Error() string { return e.err.Error() }

func (c *Conn) stepJSON() error {
	value, err := c.dec.whole(c.x)
	if err != nil {
		return err
	}
	switch t := c.dec.typ; t {
	case capsuleTicket:
		var v Ticket
		if err := decodeJSON(t, value, &v); err != nil {
			return err
		}
		if c.onTicket != nil {
			c.onTicket(v)
		}
		return nil
	case capsuleError:
		v := new(Error)
		if err := decodeJSON(t, value, v); err != nil {
			return err
		}
		return errRemote{v.bounded()}
	case capsuleOpen:
		err = decodeJSON(t, value, &c.openIn)
		if n := len(c.openIn.Target); err == nil && n > MaxTarget {
			err = &Error{CodeTarget, fmt.Sprintf("an address of %d bytes: addresses of brokers have %d at most", n, MaxTarget)}
		}
	case capsuleOpened:
		err = decodeJSON(t, value, &c.answer)
		c.answer.Gateway = printable.Text(c.answer.Gateway, maxWord)
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

func decodeJSON(t capsuleType, value []byte, v any) error {
	if err := json.Unmarshal(value, v); err != nil {
		return protocolError("decode %s: %s", t, printable.Text(err.Error(), printable.Sentence))
	}
	return nil
}

// readFailed turns what ended a step into what Read returns, and draws the consequences for the stream.
func (c *Conn) readFailed(err error) error {
	if cause := c.endCause(); cause != nil {
		c.readErr = cause
		return cause
	}
	if isTimeout(err) {
		return os.ErrDeadlineExceeded
	}
	switch e := err.(type) {
	case errRemote:
		c.told.Store(true)
		c.readErr = e.err
		c.end(e.err)
		c.x.Abort()
	case *Error:
		c.readErr = e
		c.reset(e, e)
	case *refused:
		c.readErr = e.err
		c.end(e.err)
		c.x.Abort()
	default:
		if err == errFinal {
			c.readErr = io.EOF
			c.finalSeen.Store(true)
			break
		}
		c.readErr = cut(err)
		c.wasCut.Store(true)
	}
	return c.readErr
}

// isTimeout reports whether err is a deadline that passed. Not so every net.Error with a Timeout: ETIMEDOUT is the end of a TCP connection, behind
// which a read finds what looks like its end in good order.
func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// Opened waits for the gateway's answer to OPEN, which it sends if no Write has. Read waits by itself; both may be used at the same time.
// The end of ctx does no harm to the stream.
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
	case c.rlock <- struct{}{}:
	}
	defer c.unlockRead()
	stop := context.AfterFunc(ctx, func() { c.x.SetReadDeadline(aLongTimeAgo) })
	err := c.sendOpen()
	if err == nil {
		err = c.readOpened()
	}
	if !stop() {
		c.SetReadDeadline(c.userReadDeadline())
	}
	switch {
	case err == nil:
		return c.answer, nil
	case ctx.Err() != nil && isTimeout(err):
		return Opened{}, context.Cause(ctx)
	}
	return Opened{}, err
}

// readOpened reads as far as OPEN or OPENED. The caller holds rlock.
func (c *Conn) readOpened() error { return c.readSpare(func() {}) }

// readSpare is readOpened, and calls alive for each KEEPALIVE that comes before.
func (c *Conn) readSpare(alive func()) error {
	scratch := make([]byte, 256)
	c.waiting.Store(clock())
	defer c.waiting.Store(0)
	for !c.isOpened() {
		if err := c.readable(); err != nil {
			return err
		}
		if _, err := c.step(scratch); err != nil {
			return c.readFailed(err)
		}
		if c.dec.typ == capsuleKeepalive && !c.dec.inValue {
			alive()
		}
	}
	return nil
}
