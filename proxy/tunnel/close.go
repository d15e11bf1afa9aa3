package tunnel

import (
	"fmt"
	"math"
	"net"
	"time"
)

// Reset ends the stream with an ERROR, which the peer reads after all bytes written so far. It
// blocks for timing.reset at most; if the peer has not taken the ERROR by then, the exchange is
// aborted and the peer reads ErrCut.
func (c *Conn) Reset(e *Error) error { return c.reset(e, net.ErrClosed) }

// reset is Reset. cause is what calls at this end return from now on.
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
	go c.linger(c.t.reset, c.t.reset)
	return nil
}

// writeError sends ERROR. If OPEN was never sent it sends nothing, because the peer does not know
// the stream.
func (c *Conn) writeError(e *Error) error {
	value, err := encodeJSON(capsuleError, e.Bounded())
	if err != nil {
		return err
	}
	waitUnlocked(c.writing.lock)
	if !c.writing.openSent.Load() {
		return nil // the peer does not know this stream
	}
	if err := c.x.Flush(); err != nil {
		return err
	}
	return c.writeFrame(capsuleError, value)
}

// Close frees what the stream holds. After CloseWrite the peer still receives everything; otherwise
// the stream is cut. A second Close returns net.ErrClosed.
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
		go c.linger(c.t.dead, lingerMost)
	default:
		c.over()
	}
	return nil
}

// lingerMost bounds how long a stream is kept behind its last byte for a peer that shows signs of
// life and has not finished. A client that reads slowly may need minutes for what is on the way.
const lingerMost = 10 * time.Minute

// linger makes sure that the peer receives what was written last. If a TCP connection is closed
// while bytes from the peer are arriving, even just a KEEPALIVE, the kernel resets it and the
// peer's kernel discards what its process has not read yet. So this end finishes writing, and then
// reads and discards until the peer has finished too, for patience after each byte and for most in
// all.
//
// If both ends have sent FINAL_DATA, the agent's end finishes first and the gateway's end follows.
// Each waits as long as the peer shows signs of life, because the peer may be a client that reads
// slowly. If only this end has finished, or has sent ERROR, it finishes first.
func (c *Conn) linger(patience, most time.Duration) {
	defer c.over()
	both := c.reading.final.Load()
	if both {
		most = math.MaxInt64
	}
	if both && !c.dialling {
		c.discard(patience, most)
		c.finishWriting()
		return
	}
	if c.finishWriting() {
		c.discard(patience, most)
	}
}

// discard reads until the peer has finished or an error occurs, for at most patience, which starts
// again with each byte, and for most in all.
func (c *Conn) discard(patience, most time.Duration) {
	waitUnlocked(c.reading.lock)
	scratch := make([]byte, 1024)
	for start := time.Now(); ; {
		c.x.SetReadDeadline(time.Now().Add(min(patience, most-time.Since(start))))
		if _, err := c.x.Read(scratch); err != nil {
			return
		}
	}
}

// finishWriting flushes the exchange and ends its writing direction. It reports whether that
// worked.
func (c *Conn) finishWriting() bool {
	waitUnlocked(c.writing.lock)
	return c.x.Flush() == nil && c.x.CloseWrite() == nil
}

// waitUnlocked waits until nobody is in a call that holds lock. After the end of a stream later
// callers return without using the exchange, so the caller then has it to itself and blocks nobody.
func waitUnlocked(lock chan struct{}) {
	lock <- struct{}{}
	<-lock
}

// over ends the exchange and calls done, once.
func (c *Conn) over() {
	c.x.Abort()
	c.ending.once.Do(c.done)
}
