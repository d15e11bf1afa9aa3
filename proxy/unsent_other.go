//go:build !linux

package proxy

import "syscall"

// unsent is not known here.
func unsent(syscall.RawConn) (n int, known bool) { return 0, false }
