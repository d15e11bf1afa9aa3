package proxy

import (
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// exit is the end of what we send to one side of a connection. Only the goroutine that writes there
// calls finish, behind its last byte: so a FIN never overtakes a byte. From then on nothing resets
// the side, because a reset would throw away what the peer has not received yet. Everybody may call
// the other methods.
type exit struct {
	conn *source

	mu    sync.Mutex
	state exitState
}

// exitState says how a side has ended.
type exitState uint8

const (
	open      exitState = iota
	finishing           // the FIN is being written, which may block while the peer does not read
	finished            // by a FIN, behind the last byte
	wasReset
)

// finish ends the side with a FIN, unless it has ended.
func (x *exit) finish() error {
	x.mu.Lock()
	was := x.state
	if was == open {
		x.state = finishing
	}
	x.mu.Unlock()
	if was != open {
		return net.ErrClosed
	}
	err := closeWrite(x.conn.Conn)
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.state == finishing {
		x.state = finished
	}
	return err
}

// reset ends the side with a reset, unless finish has ended it. A tunnel stream carries why to the
// other end; it may be nil. When reset returns, nothing can end the side with a FIN.
func (x *exit) reset(why *tunnel.Error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.state == open || x.state == finishing {
		x.state = wasReset
		reset(x.conn.Conn, why)
	}
}

// close frees the connection. Neither direction uses it any more. A side that was not finished is
// reset: what its peer has received is incomplete.
func (x *exit) close() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.state == open || x.state == finishing {
		x.state = wasReset
		discardUnsent(x.conn.Conn)
	}
	x.conn.Close()
}

// has reports whether the side is in a state.
func (x *exit) has(state exitState) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.state == state
}

const (
	// lingerTimeout bounds how long we wait for a broker to read what a client sent before it
	// disconnected. The client does not wait for it, but the two connections and their buffers stay
	// meanwhile.
	lingerTimeout = 5 * time.Second
	// deliverTimeout bounds how long we wait for a client to take the end of the last response.
	deliverTimeout = 30 * time.Second
	// deliverFirst and deliverMost are the first and the longest time between two looks whether it
	// has. Thousands of clients may be waited for at the same time.
	deliverFirst = 20 * time.Millisecond
	deliverMost  = 500 * time.Millisecond
	// quietTimeout is how long we wait for more from a client if the system does not say what it
	// has taken.
	quietTimeout = 500 * time.Millisecond
)

// deliver waits, after finish, until the peer has received everything, has closed, or over returns
// true. It reads and drops what the peer still sends: if a TCP socket is closed while unread bytes
// are in it, or if bytes arrive later, the kernel resets the connection and drops what it has not
// delivered. A tunnel stream sees to that itself.
func (x *exit) deliver(over func() bool) {
	if _, ok := x.conn.Conn.(*tunnel.Conn); ok || !x.has(finished) {
		return
	}
	scratch := make([]byte, 4<<10)
	quiet := time.Now().Add(quietTimeout)
	until := time.Now().Add(deliverTimeout)
	for pause := deliverFirst; time.Now().Before(until) && !over(); pause = min(2*pause, deliverMost) {
		if n, known := undelivered(x.conn.Conn); known && n == 0 || !known && time.Now().After(quiet) {
			return
		}
		x.conn.limitReads(time.Now().Add(pause))
		n, err := x.conn.Read(scratch)
		if err != nil && !tunnel.IsTimeout(err) {
			return
		}
		if n > 0 {
			quiet = time.Now().Add(quietTimeout)
		}
	}
}

// undelivered returns how many bytes the peer of a TCP or TLS connection has not received yet, if
// the system says so.
func undelivered(c net.Conn) (n int, known bool) {
	if t, ok := c.(interface{ NetConn() net.Conn }); ok {
		c = t.NetConn()
	}
	s, ok := c.(syscall.Conn)
	if !ok {
		return 0, false
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return 0, false
	}
	return unsent(raw)
}

// closeWriter is a connection that can be closed for writing only: TCP, TLS and tunnel streams.
type closeWriter interface{ CloseWrite() error }

// closeWrite sends a FIN. Bytes can still arrive. A connection without a half-close is closed.
func closeWrite(c net.Conn) error {
	if cw, ok := c.(closeWriter); ok {
		return cw.CloseWrite()
	}
	return c.Close()
}

// reset ends a connection so that its peer sees a reset, not the end of the stream: what the peer
// has received may be incomplete. A tunnel stream carries why to the other end; it may be nil.
func reset(c net.Conn, why *tunnel.Error) {
	if t, ok := c.(*tunnel.Conn); ok {
		t.Reset(why)
		return
	}
	discardUnsent(c)
}

// discardUnsent closes a connection so that its peer sees a reset. A tunnel stream is cut.
func discardUnsent(c net.Conn) {
	switch c := c.(type) {
	case interface{ NetConn() net.Conn }: // TLS
		discardUnsent(c.NetConn()) // closing TLS would send a close_notify alert, which is a clean end
	case interface{ SetLinger(seconds int) error }: // TCP
		c.SetLinger(0)
		c.(net.Conn).Close()
	default:
		c.Close()
	}
}
