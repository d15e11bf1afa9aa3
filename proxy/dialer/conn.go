package dialer

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-proxy/culvert/proxy"
	"github.com/culvert-proxy/culvert/proxy/printable"
)

// conn is a stream as a TCP connection to its user: its errors are those of the package net, so that
// clients decide as for any other connection whether to try again.
type conn struct {
	stream *proxy.Stream
	dialer *Dialer
	remote addr
	closed atomic.Bool
	failed sync.Once // tells the stream

	writing sync.Mutex // held by each call that writes
}

var _ interface {
	net.Conn
	CloseWrite() error
} = (*conn)(nil)

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.stream.Read(p)
	if err == nil || err == io.EOF {
		return n, err
	}
	return n, c.err("read", err)
}

func (c *conn) Write(p []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	if c.closed.Load() {
		return 0, c.opError("write", net.ErrClosed)
	}
	n, err := c.stream.Write(p)
	return n, c.err("write", err)
}

// CloseWrite has the broker read the end behind what was written. Reads continue.
func (c *conn) CloseWrite() error {
	c.writing.Lock()
	defer c.writing.Unlock()
	if c.closed.Load() {
		return c.opError("close", net.ErrClosed)
	}
	return c.err("close", c.stream.CloseWrite())
}

// closeTimeout bounds how long the end of a closed connection waits for room behind what was written
// to a peer that does not read.
const closeTimeout = 5 * time.Second

// Close ends calls in progress at once. What was written is delivered in the background.
func (c *conn) Close() error {
	if c.closed.Swap(true) {
		return c.opError("close", net.ErrClosed)
	}
	c.stream.SetDeadline(time.Unix(1, 0))
	if !c.dialer.finish(c.finish) {
		c.stream.Close()
	}
	return nil
}

// finish writes the end, and closes the stream. A call that writes has ended first: with a new
// deadline, it would go on.
func (c *conn) finish() {
	defer c.stream.Close()
	c.writing.Lock()
	defer c.writing.Unlock()
	c.stream.SetWriteDeadline(time.Now().Add(closeTimeout))
	c.stream.CloseWrite()
}

func (c *conn) LocalAddr() net.Addr  { return c.stream.LocalAddr() }
func (c *conn) RemoteAddr() net.Addr { return c.remote }

func (c *conn) SetDeadline(t time.Time) error {
	return c.setDeadline(c.stream.SetDeadline, t)
}

func (c *conn) SetReadDeadline(t time.Time) error {
	return c.setDeadline(c.stream.SetReadDeadline, t)
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	return c.setDeadline(c.stream.SetWriteDeadline, t)
}

// setDeadline does not touch a connection that is closed: the deadline that ends its calls stays.
func (c *conn) setDeadline(set func(time.Time) error, t time.Time) error {
	if c.closed.Load() {
		return c.opError("set", net.ErrClosed)
	}
	return c.err("set", set(t))
}

// err makes an error of the stream one of the connection, and tells the stream why it has ended.
func (c *conn) err(op string, err error) error {
	switch {
	case err == nil:
		return nil
	case c.closed.Load():
		return c.opError(op, net.ErrClosed)
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, net.ErrClosed):
		return c.opError(op, err)
	}
	c.failed.Do(func() { c.stream.Failed(err) })
	return c.opError(op, newError(err))
}

func (c *conn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Addr: c.remote, Err: err}
}

// addr is the address of a broker, as the client has dialled it, or the name of a forward.
type addr struct{ dialled string }

func (addr) Network() string  { return "tcp" }
func (a addr) String() string { return printable.Text(a.dialled, printable.Name) }
