// Package hints puts what the reader of an error can do beside the error.
package hints

import "slices"

// Error is an error with the remedy beside it, for a command line to print on a line of its own.
type Error struct {
	Err    error
	Remedy string // a question or a command
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Hint returns the remedy.
func (e *Error) Hint() string { return e.Remedy }

// Of returns the hints of all errors in err's tree that have a method Hint, each once.
func Of(err error) []string {
	var found []string
	if h, ok := err.(interface{ Hint() string }); ok && h.Hint() != "" {
		found = append(found, h.Hint())
	}
	var inner []error
	switch e := err.(type) {
	case interface{ Unwrap() error }:
		inner = []error{e.Unwrap()}
	case interface{ Unwrap() []error }:
		inner = e.Unwrap()
	}
	for _, e := range inner {
		for _, hint := range Of(e) {
			if !slices.Contains(found, hint) {
				found = append(found, hint)
			}
		}
	}
	return found
}
