package snowflake

import (
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/culvert-proxy/culvert/proxy/hints"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// flags names settings as the command line does.
func flags(s hints.Setting) string {
	return "--" + strings.ReplaceAll(strings.ToLower(string(s)), " ", "-")
}

// hintOf is the remedy beside an error.
func hintOf(err error) string { return strings.Join(hints.Of(err, flags), "; ") }
