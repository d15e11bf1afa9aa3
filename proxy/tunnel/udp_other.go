//go:build !linux

package tunnel

import (
	"net"
	"syscall"
)

// bufferSizes reports nothing: other systems count differently.
func bufferSizes(syscall.RawConn) (receive, send int, ok bool) { return 0, 0, false }

// canSegment is false: quic-go sends each packet in a system call of its own.
const canSegment = false

func segments(oob []byte) (size int, rest []byte) { return 0, oob }

// receiving returns c as it is: only Linux hands out several datagrams in one buffer.
func receiving(c tolerantUDP) net.PacketConn { return c }
