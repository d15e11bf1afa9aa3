// Package memnet has in-memory network connections for tests. They buffer like TCP connections and
// can be half-closed and cut. They block only in sync.Cond and timers, so that time passes in a
// testing/synctest bubble.
package memnet

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// BufferSize is how many bytes each direction of a connection buffers before a writer blocks.
const BufferSize = 64 << 10

// Pipe makes a connection with the addresses a and b, and returns its two ends.
func Pipe(a, b net.Addr) (*Conn, *Conn) {
	ab, ba := newHalf(), newHalf()
	return &Conn{in: ba, out: ab, local: a, remote: b}, &Conn{in: ab, out: ba, local: b, remote: a}
}

// A Conn is one end of a connection. Its methods may be called concurrently.
type Conn struct {
	in, out       *half
	local, remote net.Addr
	discards      atomic.Bool // Close is a reset: see SetLinger
}

var _ net.Conn = (*Conn)(nil)

// Read returns what the other end has written, io.EOF after it closed, and ECONNRESET after it was
// cut.
func (c *Conn) Read(p []byte) (int, error) { return c.in.read(p) }

// Write blocks while the buffer is full. After the other end has closed it returns EPIPE, and
// whatever that end has written is lost: it answers with a reset.
func (c *Conn) Write(p []byte) (int, error) {
	n, err := c.out.write(p)
	if errors.Is(err, syscall.EPIPE) {
		c.Cut()
	}
	return n, err
}

// CloseWrite makes the other end read io.EOF after what was written.
func (c *Conn) CloseWrite() error {
	c.out.finish()
	return nil
}

// SetLinger is as [net.TCPConn.SetLinger], but knows only one value: with 0, Close is a reset.
func (c *Conn) SetLinger(seconds int) error {
	c.discards.Store(seconds == 0)
	return nil
}

// Close closes both directions. The other end can still read what was written. As with TCP, Close
// is a reset if bytes that have arrived were not read.
func (c *Conn) Close() error {
	if unread := c.in.abandon(); unread || c.discards.Load() {
		c.Cut()
	}
	c.out.finish()
	return nil
}

// Cut ends both directions at both ends at once, like a TCP reset: bytes in flight are lost.
func (c *Conn) Cut() {
	c.in.cut()
	c.out.cut()
}

// LocalAddr returns the address given to Pipe.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr returns the address given to Pipe.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline sets the read and the write deadline.
func (c *Conn) SetDeadline(t time.Time) error {
	c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

// SetReadDeadline bounds current and later Reads.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.in.setDeadline(&c.in.reader, t) }

// SetWriteDeadline bounds current and later Writes.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.out.setDeadline(&c.out.writer, t) }

// A half is one direction of a connection.
type half struct {
	mu             sync.Mutex
	change         sync.Cond
	buf            []byte
	finished       bool // the writer has closed: EOF follows
	abandoned      bool // the reader has closed
	broken         bool // cut, by either end
	reader, writer deadline
}

func newHalf() *half {
	h := new(half)
	h.change.L = &h.mu
	return h
}

// A deadline is the read or the write deadline of a half, which half.mu guards.
type deadline struct {
	passed bool
	timer  *time.Timer
}

// read blocks until there are bytes, an end, or a deadline.
func (h *half) read(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.abandoned:
			return 0, net.ErrClosed
		case h.broken:
			return 0, &net.OpError{Op: "read", Net: "mem", Err: syscall.ECONNRESET}
		case h.reader.passed:
			return 0, os.ErrDeadlineExceeded
		case len(h.buf) > 0:
			n := copy(p, h.buf)
			h.buf = append(h.buf[:0], h.buf[n:]...)
			h.change.Broadcast()
			return n, nil
		case h.finished:
			return 0, io.EOF
		case len(p) == 0:
			return 0, nil
		}
		h.change.Wait()
	}
}

// write blocks until the buffer has taken all of p, or the connection has ended, or the deadline
// has passed.
func (h *half) write(p []byte) (n int, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.finished:
			return n, net.ErrClosed
		case h.abandoned, h.broken:
			return n, &net.OpError{Op: "write", Net: "mem", Err: syscall.EPIPE}
		case h.writer.passed:
			return n, os.ErrDeadlineExceeded
		case len(p) == n:
			return n, nil
		case len(h.buf) < BufferSize:
			k := min(BufferSize-len(h.buf), len(p)-n)
			h.buf = append(h.buf, p[n:n+k]...)
			n += k
			h.change.Broadcast()
			continue
		}
		h.change.Wait()
	}
}

// set sets a flag of the half and wakes both ends.
func (h *half) set(flag *bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	*flag = true
	h.change.Broadcast()
}

func (h *half) finish() { h.set(&h.finished) }
func (h *half) cut()    { h.set(&h.broken) }

// abandon says that the reader has closed. It reports whether bytes were left.
func (h *half) abandon() (unread bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.abandoned = true
	h.change.Broadcast()
	return len(h.buf) > 0
}

// setDeadline sets one of the half's deadlines. A timer that has been replaced does nothing.
func (h *half) setDeadline(d *deadline, t time.Time) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
	}
	d.timer, d.passed = nil, false
	wait := time.Until(t)
	switch {
	case t.IsZero():
	case wait <= 0:
		d.passed = true
		h.change.Broadcast()
	default:
		var timer *time.Timer
		timer = time.AfterFunc(wait, func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			if d.timer == timer {
				d.passed = true
				h.change.Broadcast()
			}
		})
		d.timer = timer
	}
	return nil
}

// Addr is an address of network "mem".
type Addr string

// Network is "mem".
func (Addr) Network() string  { return "mem" }
func (a Addr) String() string { return string(a) }

// A Listener accepts the connections that its Dial makes.
type Listener struct {
	addr  net.Addr
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

// Listen returns a listener with this address.
func Listen(addr string) *Listener {
	return &Listener{addr: Addr(addr), conns: make(chan net.Conn), done: make(chan struct{})}
}

var _ net.Listener = (*Listener)(nil)

// Accept blocks until somebody dials.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Dial blocks until the connection is accepted. After Close it returns ECONNREFUSED.
func (l *Listener) Dial(ctx context.Context) (*Conn, error) {
	a, b := Pipe(Addr("dialler"), l.addr)
	select {
	case l.conns <- b:
		return a, nil
	case <-l.done:
		return nil, &net.OpError{Op: "dial", Net: "mem", Addr: l.addr, Err: syscall.ECONNREFUSED}
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// DialContext is Dial with the signature of net.Dialer.DialContext. It ignores the address.
func (l *Listener) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	return l.Dial(ctx)
}

// Close makes current and later calls of Accept and Dial return errors.
func (l *Listener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

// Addr returns the address given to Listen.
func (l *Listener) Addr() net.Addr { return l.addr }
