package main

import (
	"context"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"github.com/culvert-proxy/culvert/proxy/status/document"
	"github.com/culvert-proxy/culvert/proxy/status/terminal"
)

// statusCmd is culvert status.
type statusCmd struct {
	adminFlags
	JSON bool `name:"json" group:"Main settings" help:"Print the status document as the process sent it."`
}

func (*statusCmd) Help() string {
	return `It asks a running agent or gateway, and shows: whether it is ready; the path
from the clients to the brokers, with the transport, its round trip, and why it
was chosen; for each Kafka API the rate and how long responses take here, at the
gateway and in the tunnel; the nodes; credentials that end soon; limits that are
near; the last failure, what to do about it, and whether it is over.

The exit code is 0 if the process is ready for clients. It is 1 if the process
is not ready, or could not be asked. There are colours on a terminal, unless
NO_COLOR is set. docs/operating.md explains the page.

Example:
  culvert status
  culvert status --admin 127.0.0.1:9465 --json | jq .nodes`
}

// Run prints one page.
func (c *statusCmd) Run(ctx context.Context, a *app) error {
	r, err := c.reader()
	if err != nil {
		return err
	}
	raw, d, err := r.read(ctx)
	if c.JSON && raw != nil {
		if _, werr := io.WriteString(a.stdout, visibleJSON(raw)); werr != nil {
			return werr
		}
	} else if err == nil {
		if _, err := io.WriteString(a.stdout, terminalOf(a.stdout).Status(d)); err != nil {
			return err
		}
	}
	if err != nil {
		return err
	}
	if d.State.Name != document.Ready {
		return errVerdict
	}
	return nil
}

// plainWidth is the width of a page that is not printed on a terminal.
const plainWidth = 80

// terminalOf is what w can show: a file or a pipe gets plain text.
func terminalOf(w io.Writer) terminal.Terminal {
	t := terminal.Terminal{Width: plainWidth, Unicode: unicodeLocale(os.Getenv)}
	f, ok := w.(*os.File)
	if !ok || !isTerminal(f) {
		return t
	}
	if width, height, err := term.GetSize(int(f.Fd())); err == nil && width > 0 {
		t.Width, t.Height = width, height
	}
	switch {
	case os.Getenv("TERM") == "dumb" || !obeysEscapes(f):
	case os.Getenv("NO_COLOR") != "":
		t.Styles = terminal.Mono
	default:
		t.Styles = terminal.Colors
	}
	return t
}

// unicodeLocale reports whether the locale's encoding is UTF-8. The variables are looked at as the C
// library does. Without any of them, as in most containers, the terminal is somewhere else, and
// UTF-8 is what nearly all use.
func unicodeLocale(getenv func(string) string) bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if value := strings.ToLower(getenv(name)); value != "" {
			return strings.Contains(value, "utf-8") || strings.Contains(value, "utf8")
		}
	}
	return true
}
