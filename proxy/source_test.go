package proxy

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
)

// A deadConn is a TCP connection whose peer has vanished: the kernel says so once, and then an end
// in good order.
type deadConn struct {
	net.Conn
	said bool
}

func (c *deadConn) Read([]byte) (int, error) {
	if c.said {
		return 0, io.EOF
	}
	c.said = true
	return 0, &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ETIMEDOUT)}
}

func TestAPeerThatVanishedIsNoEndInGoodOrder(t *testing.T) {
	s := &source{Conn: &deadConn{}}
	if _, err := s.Read(make([]byte, 1)); !errors.Is(err, syscall.ETIMEDOUT) {
		t.Errorf("Read = %v, want ETIMEDOUT", err)
	}
}
