//go:build !linux

package tunnel

import "syscall"

// tuneSocket leaves the options of sockets as they are.
func tuneSocket(syscall.RawConn, string, int) (inForce string) { return "the system's" }
