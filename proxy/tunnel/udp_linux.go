package tunnel

import (
	"encoding/binary"
	"slices"
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

// segments returns the length of each packet of a write, 0 if it is one packet, and the control
// messages without the one that says so.
func segments(oob []byte) (size int, rest []byte) {
	for at := 0; at < len(oob); {
		h, data, after, err := unix.ParseOneSocketControlMessage(oob[at:])
		if err != nil {
			return 0, oob
		}
		if h.Level == unix.IPPROTO_UDP && h.Type == unix.UDP_SEGMENT && len(data) >= 2 {
			return int(binary.NativeEndian.Uint16(data)), slices.Concat(oob[:at], after)
		}
		at = len(oob) - len(after)
	}
	return 0, oob
}
