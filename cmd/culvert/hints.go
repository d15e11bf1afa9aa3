package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"syscall"

	"github.com/culvert-proxy/culvert/proxy/hints"
)

// usageError is about how culvert was called or configured. It ends the process with exitUsage.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// wrong makes a usageError: the text names the flag and its value, the hint is a question or a
// command. If a wrapped error has a hint, that one counts, because it is about the value.
func wrong(hint, format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	if hints.Of(err, flagOf) != nil {
		return usageError{err}
	}
	return usageError{&hints.Error{Err: err, Remedy: hint}}
}

// badFile turns an error about a file that a setting names into a usageError. Its text names the
// setting already.
func badFile(err error) error { return wrong("", "%w", err) }

// flagOf is how a user of this program writes a setting, for all packages that name one: as a flag
// with the setting's words.
func flagOf(s hints.Setting) string {
	return "--" + strings.ReplaceAll(strings.ToLower(string(s)), " ", "-")
}

// listenError says that a listener could not be opened. It is not about usage: the same setting
// works once the port is free.
type listenError struct {
	address string
	cause   error
	flag    string // the setting that chooses another address
}

// listenFailed turns package net's error of a listener into a listenError, whose text has the
// address once. nil stays nil.
func listenFailed(err error, address, flag string) error {
	if err == nil {
		return nil
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		err = op.Err
	}
	if sys, ok := errors.AsType[*os.SyscallError](err); ok {
		err = sys.Err
	}
	return &listenError{address, err, flag}
}

func (e *listenError) Error() string { return fmt.Sprintf("listen on %s: %v", e.address, e.cause) }
func (e *listenError) Unwrap() error { return e.cause }

// Hint depends on the cause; "" where we know of nothing to do.
func (e *listenError) Hint() string {
	switch {
	case errors.Is(e.cause, syscall.EADDRINUSE):
		return fmt.Sprintf("choose another address with %s, or find out what uses the port: %s", e.flag, showListeners(e.address))
	case errors.Is(e.cause, syscall.EACCES):
		return fmt.Sprintf("ports below 1024 may be reserved: choose a higher one with %s", e.flag)
	case errors.Is(e.cause, syscall.EADDRNOTAVAIL):
		return fmt.Sprintf("this machine does not have that address: choose one that it has with %s", e.flag)
	}
	return ""
}

// showListeners is this system's command that shows which process listens on the port of address.
func showListeners(address string) string {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		port = address
	}
	switch runtime.GOOS {
	case "windows":
		return "netstat -ano | findstr :" + port
	case "darwin":
		return "lsof -nP -iTCP:" + port + " -sTCP:LISTEN"
	}
	return "ss -ltnp 'sport = :" + port + "'"
}
