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
	at, length, value, ok := controlMessage(oob, unix.UDP_SEGMENT)
	if !ok || len(value) < 2 {
		return 0, oob
	}
	return int(binary.NativeEndian.Uint16(value)), slices.Concat(oob[:at], oob[at+length:])
}
