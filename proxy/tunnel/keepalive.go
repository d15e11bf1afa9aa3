package tunnel

import (
	"fmt"
	"time"
)

// tick is what a timer does for a stream now and then, so that no stream needs a goroutine: it sends a KEEPALIVE when this direction is idle,
// it ends the stream when the other one is dead, and it sends what the exchange has to say by itself. It may run several times at once.
func (c *Conn) tick() {
	wake, alive := c.nextTick()
	if !alive {
		c.wasCut.Store(true)
		c.end(fmt.Errorf("%w: nothing came for %v, not even a KEEPALIVE", ErrCut, c.t.dead))
		c.x.Abort()
		return
	}
	c.setTimer(wake)
	select {
	case c.wlock <- struct{}{}:
		c.keepAlive()
		<-c.wlock
	default: // a Write is in progress, and looks after what is due when it ends
	}
}

// nextTick is when tick has something to do next. alive is false when it has to end the stream now.
func (c *Conn) nextTick() (wake time.Duration, alive bool) {
	now := clock()
	wake = c.t.keepalive - time.Duration(now-c.lastWrite.Load())
	if wake <= 0 {
		wake = c.t.keepalive
	}
	waiting := c.waiting.Load()
	if waiting == 0 {
		return wake, true
	}
	left := c.t.dead - time.Duration(now-max(waiting, c.x.LastByte()))
	return min(wake, left), left > 0
}

// keepAlive sends what is due. The caller holds wlock. What it cannot send stays for the next write, and an error is the next Write's too.
func (c *Conn) keepAlive() {
	if c.ended.Load() || c.x.Flush() != nil || c.openOut != nil {
		return
	}
	if time.Duration(clock()-c.lastWrite.Load()) >= c.t.keepalive {
		c.writeFrame(capsuleKeepalive, nil)
	}
}

// tickNow makes tick run soon, on a goroutine of its own.
func (c *Conn) tickNow() { c.setTimer(atOnce) }

func (c *Conn) setTimer(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause == nil {
		c.timer.Reset(d)
	}
}
