package tunnel

import (
	"fmt"
	"time"

	"github.com/culvert-proxy/culvert/proxy/tunnel/exchange"
)

// tick is what a timer does for a stream now and then, so that no stream needs a goroutine: it sends a KEEPALIVE when this direction is idle,
// it ends the stream when the other one is dead, and it sends what the exchange has to say by itself. It may run several times at once.
func (c *Conn) tick() {
	wake, alive := c.nextTick()
	if !alive {
		c.ending.cut.Store(true)
		c.end(fmt.Errorf("%w: nothing came for %v, not even a KEEPALIVE", ErrCut, c.t.dead))
		c.x.Abort()
		return
	}
	c.setTimer(wake)
	select {
	case c.writing.lock <- struct{}{}:
		c.keepAlive()
		<-c.writing.lock
	default: // a Write is in progress, and looks after what is due when it ends
	}
}

// nextTick is when tick has something to do next. alive is false when it has to end the stream now.
func (c *Conn) nextTick() (wake time.Duration, alive bool) {
	now := exchange.Clock()
	wake = c.t.keepalive - time.Duration(now-c.writing.last.Load())
	if wake <= 0 {
		wake = c.t.keepalive
	}
	waiting := c.reading.waiting.Load()
	if waiting == 0 {
		return wake, true
	}
	left := c.t.dead - time.Duration(now-max(waiting, c.x.LastByte()))
	return min(wake, left), left > 0
}

// keepAlive sends what is due. The caller holds writing.lock. What it cannot send stays for the next write, and an error is the next Write's too.
func (c *Conn) keepAlive() {
	if c.ending.over.Load() || c.x.Flush() != nil || c.writing.open != nil {
		return
	}
	if time.Duration(exchange.Clock()-c.writing.last.Load()) >= c.t.keepalive {
		c.writeFrame(capsuleKeepalive, nil)
	}
}

// tickNow makes tick run soon, on a goroutine of its own.
func (c *Conn) tickNow() { c.setTimer(atOnce) }

func (c *Conn) setTimer(d time.Duration) {
	c.ending.mu.Lock()
	defer c.ending.mu.Unlock()
	if c.ending.cause == nil {
		c.ending.timer.Reset(d)
	}
}
