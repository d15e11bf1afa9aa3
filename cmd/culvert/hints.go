package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"syscall"

	"github.com/culvert-proxy/culvert/proxy/hints"
)

// usageError is about how culvert was called or configured. It ends the process with exitUsage.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// wrong makes a usageError. The hint says what to do: a question or a command; "" where err has a hint of its own.
func wrong(hint, format string, args ...any) error {
	return usageError{&hints.Error{Err: fmt.Errorf(format, args...), Remedy: hint}}
}

// listenError is net's error of a listener that could not be opened, in our
// words and with a way out.
type listenError struct {
	address string
	cause   error
	flag    string // which setting chooses another address
}

// sayListen replaces what package net says of a listener.
func sayListen(err error, address, flag string) error {
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

func (e *listenError) Hint() string {
	switch {
	case errors.Is(e.cause, syscall.EADDRINUSE):
		return fmt.Sprintf("choose another address with %s, or see who has the port: %s", e.flag, whoHas(e.address))
	case errors.Is(e.cause, syscall.EACCES):
		return fmt.Sprintf("ports below 1024 may be reserved: choose a higher one with %s", e.flag)
	case errors.Is(e.cause, syscall.EADDRNOTAVAIL):
		return fmt.Sprintf("this machine does not have that address: choose one of its own with %s", e.flag)
	}
	return ""
}

// whoHas is the command that shows who listens on the port of address.
func whoHas(address string) string {
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

// badFile is an error about the content of a file that a setting names.
func badFile(err error) error { return wrong("", "%w", err) }
