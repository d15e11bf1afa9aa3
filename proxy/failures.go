package proxy

import (
	"strings"

	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/internal/happyeyeballs"
)

// failures are the errors of several tries, on one line.
type failures = happyeyeballs.Failures

// hintOf returns the hints of err in one line.
func hintOf(err error, names hints.Names) string { return strings.Join(hints.Of(err, names), "; ") }
