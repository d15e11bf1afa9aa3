package tunnel

import (
	"os"
	"time"
)

// Write passes on p, and blocks as long as the peer does not read. The dialling end's first Write takes OPEN along.
func (c *Conn) Write(p []byte) (n int, err error) {
	c.wlock <- struct{}{}
	defer c.unlockWrite()
	for n < len(p) {
		chunk := p[n:min(n+chunkSize, len(p))]
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
	<-c.wlock
	if c.x.Dirty() {
		c.tickNow()
	}
}

// CloseWrite sends FINAL_DATA: the peer reads io.EOF behind the bytes written so far. The other direction goes on.
func (c *Conn) CloseWrite() error {
	c.wlock <- struct{}{}
	defer c.unlockWrite()
	accepted, err := c.writeCapsule(capsuleFinalData, nil)
	if accepted {
		c.finalSent.Store(true)
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
	c.wlock <- struct{}{}
	defer c.unlockWrite()
	_, err = c.writeCapsule(t, value)
	return err
}

// sendOpen makes sure that OPEN is on its way.
func (c *Conn) sendOpen() error {
	if c.openSent.Load() {
		return nil
	}
	c.wlock <- struct{}{}
	defer c.unlockWrite()
	if c.openSent.Load() {
		return nil
	}
	_, err := c.writeCapsule(noCapsule, nil)
	return err
}

// noCapsule makes writeCapsule send nothing but OPEN.
const noCapsule capsuleType = 0

// writeCapsule sends one capsule, with OPEN before it if that is due. The caller holds wlock. The capsule is accepted, and needs not be
// written again, even if err is a timeout that came while it was being sent.
func (c *Conn) writeCapsule(t capsuleType, value []byte) (accepted bool, err error) {
	if err := c.writable(); err != nil {
		return false, err
	}
	if err := c.x.Flush(); err != nil {
		return false, c.writeFailed(err)
	}
	if err := c.writeFrame(t, value); err != nil {
		return isTimeout(err), c.writeFailed(err)
	}
	return true, nil
}

// writable reports why nothing can be written any more, or just now.
func (c *Conn) writable() error {
	if c.ended.Load() {
		return c.endCause()
	}
	if c.writeErr != nil {
		return c.writeErr
	}
	if c.finalSent.Load() {
		return errWriteClosed
	}
	if by := c.writeBy.Load(); by != 0 && time.Now().UnixNano() >= by {
		return os.ErrDeadlineExceeded
	}
	return nil
}

func (c *Conn) writeFrame(t capsuleType, value []byte) error {
	pool := &framePool
	if headroom+len(c.openOut)+maxCapsuleHeader+len(value) <= smallSize {
		pool = &smallPool
	}
	f := pool.Get().(*[]byte)
	defer pool.Put(f)
	b := (*f)[:headroom]
	if c.openOut != nil {
		b = append(b, c.openOut...)
		c.openOut = nil
		c.openSent.Store(true)
	}
	if t != noCapsule {
		b = appendCapsule(b, t, value)
	}
	err := c.x.Write(b)
	c.lastWrite.Store(clock())
	return err
}

func (c *Conn) writeFailed(err error) error {
	if cause := c.endCause(); cause != nil {
		return cause
	}
	if isTimeout(err) {
		return os.ErrDeadlineExceeded
	}
	if e, ok := err.(*refused); ok {
		c.writeErr = e.err
		return e.err
	}
	c.writeErr = cut(err)
	c.wasCut.Store(true)
	return c.writeErr
}
