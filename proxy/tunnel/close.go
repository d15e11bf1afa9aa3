package tunnel

import (
	"fmt"
	"net"
	"time"
)

// Reset ends the stream with an ERROR, which the peer reads behind all bytes written so far. It takes some seconds at most; if the peer has
// not taken it by then, the exchange is aborted and the peer reads ErrCut.
func (c *Conn) Reset(e *Error) error { return c.reset(e, net.ErrClosed) }

// reset is Reset; cause is what calls of this end return from now on.
func (c *Conn) reset(e *Error, cause error) error {
	c.ending.mu.Lock()
	if c.ending.cause != nil {
		c.ending.mu.Unlock()
		return c.endCause()
	}
	c.endLocked(cause)
	c.ending.lingering = true
	c.ending.mu.Unlock()
	c.x.SetReadDeadline(aLongTimeAgo)
	c.x.SetWriteDeadline(time.Now().Add(c.t.reset))
	if err := c.writeError(e); err != nil {
		c.over()
		return fmt.Errorf("reset stream: %w", err)
	}
	go c.linger(c.t.reset)
	return nil
}

func (c *Conn) writeError(e *Error) error {
	value, err := encodeJSON(capsuleError, e.Bounded())
	if err != nil {
		return err
	}
	outlast(c.writing.lock)
	if !c.writing.openSent.Load() {
		return nil // the peer knows nothing of this stream
	}
	if err := c.x.Flush(); err != nil {
		return err
	}
	return c.writeFrame(capsuleError, value)
}

// Close frees what the stream holds. Behind a CloseWrite the peer still gets everything; otherwise the stream is cut.
func (c *Conn) Close() error {
	c.ending.mu.Lock()
	if c.ending.closed {
		c.ending.mu.Unlock()
		return net.ErrClosed
	}
	c.ending.closed = true
	complete := c.ending.cause == nil && c.writing.final.Load()
	c.endLocked(net.ErrClosed)
	lingering := c.ending.lingering
	c.ending.lingering = lingering || complete
	c.ending.mu.Unlock()
	switch {
	case lingering:
	case complete:
		c.x.SetReadDeadline(aLongTimeAgo)
		c.x.SetWriteDeadline(time.Time{})
		go c.linger(c.t.dead)
	default:
		c.over()
	}
	return nil
}

// linger sees to it that the peer gets what was written last. To close a TCP connection while bytes of the peer come in, if only a KEEPALIVE,
// would make the kernel reset it, and the peer's kernel throw away what its process has not read. So this end says that it is done, and reads,
// to discard, until the peer is done too.
//
// When both ends have sent FINAL_DATA, the dialling end says so first and the gateway's end answers; they wait as long as the peer shows
// life, for it may be a client that reads slowly. When this end alone has finished, or has sent ERROR, it speaks first and waits for no
// longer than patience: the peer may have its own reasons not to finish.
func (c *Conn) linger(patience time.Duration) {
	defer c.over()
	both := c.reading.final.Load()
	if both && !c.dialling {
		c.discard(patience, true)
		c.lastWords()
		return
	}
	if c.lastWords() {
		c.discard(patience, both)
	}
}

// discard reads until the peer has finished, or until nothing came for patience, or, without renew, until patience is over.
func (c *Conn) discard(patience time.Duration, renew bool) {
	outlast(c.reading.lock)
	scratch := make([]byte, 1024)
	c.x.SetReadDeadline(time.Now().Add(patience))
	for {
		if _, err := c.x.Read(scratch); err != nil {
			return
		}
		if renew {
			c.x.SetReadDeadline(time.Now().Add(patience))
		}
	}
}

func (c *Conn) lastWords() bool {
	outlast(c.writing.lock)
	return c.x.Flush() == nil && c.x.CloseWrite() == nil
}

// outlast waits until nobody is in a call that holds lock. After the end of the stream nobody gets further than to see that, so that the
// exchange is then the caller's; and nobody has to wait for the caller.
func outlast(lock chan struct{}) {
	lock <- struct{}{}
	<-lock
}

// over ends the exchange.
func (c *Conn) over() {
	c.x.Abort()
	c.ending.once.Do(c.done)
}

// end settles why the stream is over, unless that is settled.
func (c *Conn) end(cause error) {
	c.ending.mu.Lock()
	defer c.ending.mu.Unlock()
	c.endLocked(cause)
}

func (c *Conn) endLocked(cause error) {
	if c.ending.cause == nil {
		c.ending.cause = cause
		c.ending.over.Store(true)
		c.ending.timer.Stop()
	}
}

func (c *Conn) endCause() error {
	c.ending.mu.Lock()
	defer c.ending.mu.Unlock()
	return c.ending.cause
}
