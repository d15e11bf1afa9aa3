package tunnel

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// tuneSocket sets the options that the kernel permits, and returns the congestion control in force.
func tuneSocket(c syscall.RawConn, congestion string, notSent int) (inForce string) {
	c.Control(func(f uintptr) {
		fd := int(f)
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, notSent)
		if congestion != "" {
			unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, congestion)
		}
		inForce, _ = unix.GetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION)
	})
	return inForce
}
