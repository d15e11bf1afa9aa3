//go:build !linux

package tunnel

import "syscall"

// bufferSizes reports nothing: other systems count differently.
func bufferSizes(syscall.RawConn) (receive, send int, ok bool) { return 0, 0, false }

// canSegment is false: quic-go sends each packet in a system call of its own.
const canSegment = false

func segments(oob []byte) (size int, rest []byte) { return 0, oob }
