package main

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// cubic makes a socket use CUBIC. Connections that a listener accepts inherit it.
func cubic(_, _ string, c syscall.RawConn) (err error) {
	if e := c.Control(func(fd uintptr) {
		err = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, "cubic")
	}); e != nil {
		return e
	}
	return err
}

// cpu returns the user and system time that a process has taken.
func cpu(pid int) (time.Duration, error) {
	clock := int32(^pid<<3 | 2) // clock_getcpuclockid(3)
	var t unix.Timespec
	err := unix.ClockGettime(clock, &t)
	return time.Duration(t.Nano()), err
}

// allowFiles lets this process, and those that it starts, have n files and connections, or as many
// as it may. It returns how many they may have.
func allowFiles(n uint64) uint64 {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil {
		return n
	}
	for _, more := range []uint64{max(n, limit.Max), limit.Max} {
		if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: more, Max: more}) == nil {
			return more
		}
	}
	return limit.Cur
}
