package proxy

import (
	"strings"

	"github.com/culvert-proxy/culvert/proxy/hints"
)

// failures are the errors of several tries. Unlike those of [errors.Join] they print on one line:
// log messages and errors to the other end have only one.
type failures []error

func (f failures) Error() string {
	var all []string
	for _, err := range f {
		all = append(all, err.Error())
	}
	return strings.Join(all, "; ")
}

func (f failures) Unwrap() []error { return f }

// hintOf returns the hints of err in one line.
func hintOf(err error, names hints.Names) string { return strings.Join(hints.Of(err, names), "; ") }
