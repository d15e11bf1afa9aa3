package tunnel

import (
	"math"
	"syscall"
	"time"

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

// tcpTraffic returns what the kernel has counted on a connection; before is the last answer. The
// kernel's counters have 32 bits and begin again at 0.
func tcpTraffic(c syscall.RawConn, before traffic) traffic {
	t := before
	c.Control(func(fd uintptr) {
		if i, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			if t.rtt = time.Duration(i.Min_rtt) * time.Microsecond; i.Min_rtt == math.MaxUint32 { // nothing was measured yet
				t.rtt = 0
			}
			t.sent += uint64(i.Segs_out - uint32(before.sent))
			t.lost += uint64(i.Total_retrans - uint32(before.lost))
		}
	})
	return t
}
