package tunnel

import (
	"os"
	"time"

	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/exchange"
)

// Write sends p. It blocks while the peer does not read (back-pressure). At the agent's end the
// first Write sends OPEN along with p.
func (c *Conn) Write(p []byte) (n int, err error) {
	c.writing.lock <- struct{}{}
	defer c.unlockWrite()
	c.flow.begin(&c.flow.up, len(p) >= bulk)
	defer c.flow.end(&c.flow.up)
	for n < len(p) {
		chunk := p[n:min(n+exchange.ChunkSize, len(p))]
		accepted, err := c.writeCapsule(capsuleData, chunk)
		if accepted {
			n += len(chunk)
			c.flow.add(&c.flow.up, len(chunk))
			c.writing.bytes.Add(int64(len(chunk)))
		}
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// A Bulk is a large buffer whose bytes WriteBulk sends without a copy: see [exchange.Bulk].
type Bulk = exchange.Bulk

// NewBulk returns a Bulk, or false if there are enough of them: 64 in the process. The caller
// releases it.
func NewBulk() (Bulk, bool) { return exchange.NewBulk() }

// WriteBulk is a Write of the first n bytes of b. It may overwrite all of b.
func (c *Conn) WriteBulk(b Bulk, n int) (int, error) {
	c.writing.lock <- struct{}{}
	defer c.unlockWrite()
	c.flow.begin(&c.flow.up, true)
	defer c.flow.end(&c.flow.up)
	if c.writing.open != nil || c.timesWith(capsuleData, 0) { // they have no room in b
		if _, err := c.writeCapsule(noCapsule, nil); err != nil {
			return 0, err
		}
	}
	accepted, err := c.writeWith(func() error {
		var head [exchange.MaxTypeLength]byte
		return c.send(b.Frame(exchange.AppendTypeLength(head[:0], uint64(capsuleData), uint64(n)), n))
	})
	if !accepted {
		return 0, err
	}
	c.flow.add(&c.flow.up, n)
	c.writing.bytes.Add(int64(n))
	return n, err
}

// unlockWrite releases writing.lock. If the exchange has something left to flush, a tick sends it,
// because this caller is done.
func (c *Conn) unlockWrite() {
	<-c.writing.lock
	if c.x.Dirty() {
		c.tickNow()
	}
}

// CloseWrite sends FINAL_DATA: the peer reads io.EOF after the bytes written so far. The other
// direction continues.
func (c *Conn) CloseWrite() error {
	c.writing.lock <- struct{}{}
	defer c.unlockWrite()
	accepted, err := c.writeCapsule(capsuleFinalData, nil)
	if accepted {
		c.writing.final.Store(true)
	}
	return err
}

// SendTicket sends a ticket to the agent, ahead of anything written later.
func (c *Conn) SendTicket(t Ticket) error { return c.writeJSON(capsuleTicket, t) }

// SendNotice tells the agent why CloseWrite follows. Agents that do not know it skip it.
func (c *Conn) SendNotice(why *Error) error { return c.writeJSON(capsuleNotice, why.Bounded()) }

// writeJSON sends a JSON capsule.
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

// sendOpen sends OPEN if nothing has sent it yet.
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

// noCapsule makes writeFrame send only what goes ahead of a capsule.
const noCapsule capsuleType = 0

// writeCapsule sends one capsule, preceded by OPEN if that has not been sent. The caller holds
// writing.lock. accepted means that the capsule will be sent and must not be written again; that
// can be so even if err is a timeout, because the exchange keeps what it could not send.
func (c *Conn) writeCapsule(t capsuleType, value []byte) (accepted bool, err error) {
	return c.writeWith(func() error { return c.writeFrame(t, value) })
}

// writeWith is writeCapsule of the capsule that write sends.
func (c *Conn) writeWith(write func() error) (accepted bool, err error) {
	if err := c.writable(); err != nil {
		return false, err
	}
	if err := c.x.Flush(); err != nil {
		return false, c.writeFailed(err)
	}
	if err := write(); err != nil {
		return exchange.IsTimeout(err), c.writeFailed(err)
	}
	return true, nil
}

// writable returns the error that ended writing, a timeout if the deadline has passed, or nil.
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

// writeFrame sends OPEN and TIMES, if they are due, and the capsule in one write of the exchange, so
// that they travel in one packet where possible.
func (c *Conn) writeFrame(t capsuleType, value []byte) error {
	size := exchange.Headroom + len(c.writing.open) + exchange.MaxTypeLength + len(value)
	times := c.timesWith(t, len(value))
	if times {
		size += timesRoom
	}
	f := exchange.Buffer(size)
	defer exchange.Release(f)
	b := (*f)[:exchange.Headroom]
	if c.writing.open != nil {
		b = append(b, c.writing.open...)
		c.writing.open = nil
		c.writing.openSent.Store(true)
	}
	if times {
		b = c.times.take(b)
	}
	if t != noCapsule {
		b = appendCapsule(b, t, value)
	}
	return c.send(b)
}

// send passes a frame to the exchange.
func (c *Conn) send(frame []byte) error {
	err := c.x.Write(frame)
	c.writing.last.Store(exchange.Clock())
	return err
}

// writeFailed turns an error of the exchange into the error of Write, and remembers it unless it is
// a timeout.
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
