package proxy

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// unsent returns how many bytes the peer of a TCP socket has not acknowledged yet.
func unsent(c syscall.RawConn) (n int, known bool) {
	c.Control(func(fd uintptr) {
		var err error
		n, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
		known = err == nil
	})
	return n, known
}
