// Package hints attaches to an error what its reader can do about it. A hint names settings as the
// user of the program writes them, such as --token-file, so that packages that know no command line
// can still give precise advice.
package hints

import (
	"fmt"
	"slices"
	"strconv"
)

// Names returns how the user of a program writes a setting. A nil Names writes it in words, in
// quotes.
type Names func(Setting) string

// Of returns how the user writes a setting.
func (n Names) Of(s Setting) string {
	if n == nil {
		return strconv.Quote(string(s))
	}
	return n(s)
}

// Sprintf is fmt.Sprintf that writes each [Setting] among args as the user does.
func (n Names) Sprintf(format string, args ...any) string {
	written := slices.Clone(args)
	for i, arg := range args {
		if s, ok := arg.(Setting); ok {
			written[i] = n.Of(s)
		}
	}
	return fmt.Sprintf(format, written...)
}

// Error is an error with its remedy, which a command line prints on a line of its own.
type Error struct {
	Err    error
	Remedy string // a question or a command; a format if there are args
	args   []any
}

// New returns err with a remedy. The remedy is a format: whoever prints it writes each [Setting]
// among args as the user does.
func New(err error, remedy string, args ...any) error { return &Error{err, remedy, args} }

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Hint returns the remedy, with its settings in words.
func (e *Error) Hint() string { return e.HintFor(nil) }

// HintFor returns the remedy, with its settings as the user writes them.
func (e *Error) HintFor(n Names) string {
	if len(e.args) == 0 {
		return e.Remedy
	}
	return n.Sprintf(e.Remedy, e.args...)
}

// Of returns the hints of all errors in err's tree that have a method HintFor or Hint. Each appears
// once, with settings as the user writes them.
func Of(err error, n Names) []string {
	var found []string
	if hint := of(err, n); hint != "" {
		found = append(found, hint)
	}
	var inner []error
	switch e := err.(type) {
	case interface{ Unwrap() error }:
		inner = []error{e.Unwrap()}
	case interface{ Unwrap() []error }:
		inner = e.Unwrap()
	}
	for _, e := range inner {
		for _, hint := range Of(e, n) {
			if !slices.Contains(found, hint) {
				found = append(found, hint)
			}
		}
	}
	return found
}

// of returns the hint of err itself, without the errors that it wraps.
func of(err error, n Names) string {
	switch e := err.(type) {
	case interface{ HintFor(Names) string }:
		return e.HintFor(n)
	case interface{ Hint() string }:
		return e.Hint()
	}
	return ""
}
