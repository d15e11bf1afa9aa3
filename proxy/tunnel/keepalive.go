package tunnel

import (
	"fmt"
	"time"

	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/exchange"
)

// tick runs on a timer, so that a stream needs no goroutine of its own. It sends a KEEPALIVE if
// this direction is idle, and TIMES if they are due, ends the stream if the peer is dead, and
// flushes what the exchange itself has to send. Several ticks may run at once.
func (c *Conn) tick() {
	c.ending.mu.Lock()
	wake, alive := c.nextTick()
	if alive {
		c.setTimerLocked(wake)
	}
	c.ending.mu.Unlock()
	if !alive {
		c.ending.cut.Store(true)
		c.end(fmt.Errorf("%w: nothing came for %v, not even a KEEPALIVE", ErrCut, c.t.dead))
		c.x.Abort()
		return
	}
	select {
	case c.writing.lock <- struct{}{}:
		c.keepAlive()
		<-c.writing.lock
	default: // the Write in progress flushes when it ends
	}
}

// nextTick returns the time until tick has something to do. alive is false if the peer is dead: a
// Read has waited timing.dead without a byte.
func (c *Conn) nextTick() (wake time.Duration, alive bool) {
	now := exchange.Clock()
	wake = c.t.keepalive - time.Duration(now-c.writing.last.Load())
	if wake <= 0 {
		wake = c.t.keepalive
	}
	if c.times.waiting.Load() {
		until := c.t.times - time.Duration(now-c.times.last.Load())
		if until <= 0 { // they are sent now, or when the Write in progress ends
			until = c.t.times
		}
		wake = min(wake, until)
	}
	waiting := c.reading.waiting.Load()
	if waiting == 0 {
		return wake, true
	}
	left := c.t.dead - time.Duration(now-max(waiting, c.x.LastByte()))
	return min(wake, left), left > 0
}

// keepAlive flushes, and sends a KEEPALIVE or TIMES if one is due. The caller holds writing.lock. It
// ignores errors: what was not sent stays with the exchange, and the next Write gets the error.
func (c *Conn) keepAlive() {
	if c.ending.over.Load() || c.x.Flush() != nil || c.writing.open != nil {
		return
	}
	switch {
	case time.Duration(exchange.Clock()-c.writing.last.Load()) >= c.t.keepalive:
		c.writeFrame(capsuleKeepalive, nil)
	case c.times.due(c.t.times):
		c.writeFrame(noCapsule, nil)
	}
}
