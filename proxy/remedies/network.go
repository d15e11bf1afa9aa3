// Package remedies finds out what kind of error a network or a certificate has caused, and what to
// do about those kinds whose remedy is the same on every hop.
package remedies

import (
	"context"
	"errors"
	"net"
	"os"
	"runtime"
	"syscall"

	"github.com/culvert-proxy/culvert/proxy/hints"
)

// A Cause is why a dial, a name lookup or an accept failed, as far as remedies differ.
type Cause int

// The causes.
const (
	Other         Cause = iota
	NoDescriptors       // this process, or this machine, may open no more files
	NoSuchName          // DNS says that there is no such name
	NoNameServer        // DNS gives no answer
	Refused             // nothing listens at the port
	NoRoute             // the address cannot be reached from here
	Silence             // nothing has answered in time
)

// Descriptors is the remedy for [NoDescriptors], whatever the operation was.
const Descriptors = "every connection needs a file descriptor or two: raise the limit with ulimit -n or, in a systemd unit, with LimitNOFILE="

// CauseOf returns the cause of err. If several addresses failed for different reasons, it returns
// the one that comes first in the list above.
func CauseOf(err error) Cause {
	name, aboutName := errors.AsType[*net.DNSError](err)
	switch {
	case err == nil:
		return Other
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return NoDescriptors
	case aboutName && name.IsNotFound:
		return NoSuchName
	case aboutName:
		return NoNameServer
	case errors.Is(err, syscall.ECONNREFUSED), isWindows(err, 10061):
		return Refused
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH), isWindows(err, 10051), isWindows(err, 10065):
		return NoRoute
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT), timedOut(err):
		return Silence
	}
	return Other
}

// ExplainAccept adds to the error of an accept what to do about it.
func ExplainAccept(err error) error {
	if CauseOf(err) == NoDescriptors {
		return hints.New(err, Descriptors)
	}
	return err
}

// isWindows reports whether err is an error number of Winsock. Package syscall defines names such as
// ECONNREFUSED on Windows too, and gives them other numbers.
func isWindows(err error, number syscall.Errno) bool {
	return runtime.GOOS == "windows" && errors.Is(err, number)
}

func timedOut(err error) bool {
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout()
}
