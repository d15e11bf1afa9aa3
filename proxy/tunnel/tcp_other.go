//go:build !linux

package tunnel

import "syscall"

// tuneSocket sets nothing: these options are Linux's.
func tuneSocket(syscall.RawConn, string, int) (inForce string) { return "the system's" }
