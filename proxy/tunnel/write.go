package tunnel

import (
	"os"
	"time"

	"github.com/culvert-proxy/culvert/proxy/tunnel/exchange"
)

// Write passes on p, and blocks as long as the peer does not read. The dialling end's first Write takes OPEN along.
func (c *Conn) Write(p []byte) (n int, err error) {
	c.writing.lock <- struct{}{}
	defer c.unlockWrite()
	for n < len(p) {
		chunk := p[n:min(n+exchange.ChunkSize, len(p))]
		accepted, err := c.writeCapsule(capsuleData, chunk)
		if accepted {
			n += len(chunk)
		}
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

func (c *Conn) unlockWrite() {
	<-c.writing.lock
	if c.x.Dirty() {
		c.tickNow()
	}
}

// CloseWrite sends FINAL_DATA: the peer reads io.EOF behind the bytes written so far. The other direction goes on.
func (c *Conn) CloseWrite() error {
	c.writing.lock <- struct{}{}
	defer c.unlockWrite()
	accepted, err := c.writeCapsule(capsuleFinalData, nil)
	if accepted {
		c.writing.final.Store(true)
	}
	return err
}

// SendTicket gives the dialling end a ticket, before what is written after it.
func (c *Conn) SendTicket(t Ticket) error { return c.writeJSON(capsuleTicket, t) }

func (c *Conn) writeJSON(t capsuleType, v any) error {
	value, err := encodeJSON(t, v)
	if err != nil {
		return err
	}
	c.writing.lock <- struct{}{}
	defer c.unlockWrite()
	_, err = c.writeCapsule(t, value)
	return err
}

// sendOpen makes sure that OPEN is on its way.
func (c *Conn) sendOpen() error {
	if c.writing.openSent.Load() {
		return nil
	}
	c.writing.lock <- struct{}{}
	defer c.unlockWrite()
	if c.writing.openSent.Load() {
		return nil
	}
	_, err := c.writeCapsule(noCapsule, nil)
	return err
}

// noCapsule makes writeCapsule send nothing but OPEN.
const noCapsule capsuleType = 0

// writeCapsule sends one capsule, with OPEN before it if that is due. The caller holds writing.lock. The capsule is accepted, and needs not be
// written again, even if err is a timeout that came while it was being sent.
func (c *Conn) writeCapsule(t capsuleType, value []byte) (accepted bool, err error) {
	if err := c.writable(); err != nil {
		return false, err
	}
	if err := c.x.Flush(); err != nil {
		return false, c.writeFailed(err)
	}
	if err := c.writeFrame(t, value); err != nil {
		return exchange.IsTimeout(err), c.writeFailed(err)
	}
	return true, nil
}

// writable reports why nothing can be written any more, or just now.
func (c *Conn) writable() error {
	if c.ending.over.Load() {
		return c.endCause()
	}
	if c.writing.err != nil {
		return c.writing.err
	}
	if c.writing.final.Load() {
		return errWriteClosed
	}
	if by := c.writing.by.Load(); by != 0 && time.Now().UnixNano() >= by {
		return os.ErrDeadlineExceeded
	}
	return nil
}

func (c *Conn) writeFrame(t capsuleType, value []byte) error {
	f := exchange.Buffer(exchange.Headroom + len(c.writing.open) + exchange.MaxTypeLength + len(value))
	defer exchange.Release(f)
	b := (*f)[:exchange.Headroom]
	if c.writing.open != nil {
		b = append(b, c.writing.open...)
		c.writing.open = nil
		c.writing.openSent.Store(true)
	}
	if t != noCapsule {
		b = appendCapsule(b, t, value)
	}
	err := c.x.Write(b)
	c.writing.last.Store(exchange.Clock())
	return err
}

func (c *Conn) writeFailed(err error) error {
	if cause := c.endCause(); cause != nil {
		return cause
	}
	if exchange.IsTimeout(err) {
		return os.ErrDeadlineExceeded
	}
	if e, ok := err.(*exchange.Refused); ok {
		c.writing.err = e.Err
		return e.Err
	}
	c.writing.err = cut(err)
	c.ending.cut.Store(true)
	return c.writing.err
}
