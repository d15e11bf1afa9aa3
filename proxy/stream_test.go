package proxy

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
)

// A deadConn is a TCP connection whose peer has vanished: the kernel says so once, and then an end in good order.
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

func TestBytesThatAreThereAlreadyAreNotSentAgain(t *testing.T) {
	for _, sizes := range [][]int{{3, 4}, {5, 2}, {7}, {1, 1, 5}} {
		c := &writtenConn{}
		s := &source{Conn: c, sent: 5}
		all := []byte("0123456")
		for _, n := range sizes {
			if k, err := s.Write(all[:n]); k != n || err != nil {
				t.Errorf("Write(%d) = %d, %v", n, k, err)
			}
			all = all[n:]
		}
		if string(c.got) != "56" {
			t.Errorf("in pieces of %v: %q was written, want 56", sizes, c.got)
		}
	}
}

type writtenConn struct {
	net.Conn
	got []byte
}

func (c *writtenConn) Write(p []byte) (int, error) {
	c.got = append(c.got, p...)
	return len(p), nil
}
