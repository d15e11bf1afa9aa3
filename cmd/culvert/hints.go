package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"regexp"
	"runtime"
	"strings"
	"syscall"

	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/printable"
)

// errShown ends with exit code 2 where help has already been printed.
var errShown = errors.New("help was shown")

// usageError is about how culvert was called or configured.
type usageError struct {
	err  error
	hint string
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }
func (e *usageError) Hint() string  { return e.hint }

// wrong makes a usageError. The hint is a way out: a question or a command.
func wrong(hint, format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...), hint}
}

// report prints err and returns the exit code.
func (a *app) report(err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errShown):
		return 2
	}
	if a.json {
		a.say(slog.LevelError, "culvert failed", slog.Any("err", err))
	} else {
		fmt.Fprintf(a.stderr, "culvert: error: %s\n", sentence(err))
		for _, hint := range hints.Of(err) {
			fmt.Fprintf(a.stderr, "culvert: hint: %s\n", shown(hint))
		}
	}
	if _, ok := errors.AsType[*usageError](err); ok {
		return 2
	}
	return 1
}

// sentence is the text of err on one line, as shown.
func sentence(err error) string { return shown(strings.ReplaceAll(err.Error(), "\n", "; ")) }

// shown is what may hold words of strangers and passwords of ours, fit for a
// terminal and a log.
func shown(s string) string { return printable.Text(redact(s), printable.Record) }

// userinfo is what stands before the host in a URL, up to the last at sign:
// also in what is no URL any more, such as one with a space in the password.
var userinfo = regexp.MustCompile(`://[^\s,"]*@|://[^,"]*@`)

// secretForm is a token or a key where the name of its file was wanted, and no
// sentence that says how a key begins.
var secretForm = regexp.MustCompile(`eyJ[A-Za-z0-9_.-]{10,}|(?s)-----BEGIN [A-Z0-9 ]*-----[\s;]*[A-Za-z0-9+/]{16}.*`)

// redact hides passwords in URLs, other than the one that stands for one, and
// tokens and keys as Snowflake has them.
func redact(s string) string {
	s = secretForm.ReplaceAllString(s, "xxxxx")
	return userinfo.ReplaceAllStringFunc(s, func(found string) string {
		if found == "://USER:PASSWORD@" {
			return found
		}
		return "://xxxxx@"
	})
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
