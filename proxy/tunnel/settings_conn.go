package tunnel

import (
	"net"
	"sync"
)

// A settingsConn is an HTTP/2 connection whose peer's SETTINGS are awaited. They are the first frame
// (RFC 9113 §3.4) and say how many streams the peer grants; net/http assumes a hundred before, and
// does not tell when it knows.
type settingsConn struct {
	net.Conn
	settled chan struct{} // closed when net/http knows the SETTINGS, or will not learn them

	// Owned by the reader.
	head []byte // of the frame: its length
	got  int    // bytes read
	over sync.Once
}

func newSettingsConn(c net.Conn) *settingsConn {
	return &settingsConn{Conn: c, settled: make(chan struct{})}
}

// isSettled reports whether settled is closed.
func (c *settingsConn) isSettled() bool {
	select {
	case <-c.settled:
		return true
	default:
		return false
	}
}

// Read is called by one goroutine of net/http, which handles each frame before it reads on.
func (c *settingsConn) Read(p []byte) (int, error) {
	if c.isSettled() {
		return c.Conn.Read(p)
	}
	const lengthSize, headerSize = 3, 9
	if len(c.head) == lengthSize && c.got >= headerSize+int(c.head[0])<<16+int(c.head[1])<<8+int(c.head[2]) {
		c.settle()
	}
	n, err := c.Conn.Read(p)
	c.head = append(c.head, p[:min(n, lengthSize-len(c.head))]...)
	c.got += n
	if err != nil {
		c.settle()
	}
	return n, err
}

// Close ends the wait, too.
func (c *settingsConn) Close() error {
	c.settle()
	return c.Conn.Close()
}

func (c *settingsConn) settle() { c.over.Do(func() { close(c.settled) }) }
