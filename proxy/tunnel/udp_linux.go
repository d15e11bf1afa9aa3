package tunnel

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// bufferSizes returns the sizes of a socket's buffers in bytes of payload. Linux reports twice
// that, which includes its own overhead.
func bufferSizes(c syscall.RawConn) (receive, send int, ok bool) {
	c.Control(func(f uintptr) {
		fd := int(f)
		var err1, err2 error
		receive, err1 = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
		send, err2 = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF)
		ok = err1 == nil && err2 == nil
	})
	return receive / 2, send / 2, ok
}

// canSegment says that quic-go may give the system several packets at once, which the system or the
// network card then splits (GSO).
const canSegment = true

// segmented reports whether the control messages of a write ask for that.
func segmented(oob []byte) bool {
	for len(oob) > 0 {
		h, _, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return false
		}
		if h.Level == unix.IPPROTO_UDP && h.Type == unix.UDP_SEGMENT {
			return true
		}
		oob = rest
	}
	return false
}
