//go:build !linux

package tunnel

import "syscall"

// tuneSocket sets nothing: these options are Linux's.
func tuneSocket(syscall.RawConn, string, int) (inForce string) { return "the system's" }

// tcpTraffic returns what is known already: only Linux is asked.
func tcpTraffic(_ syscall.RawConn, before traffic) traffic { return before }
