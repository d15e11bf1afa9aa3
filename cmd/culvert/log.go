package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/printable"
)

// The values of --log-format.
const (
	formatText = "text"
	formatJSON = "json"
)

// levels are the values of --log-level, in any case of letters.
var levels = map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}

// commonFlags are the flags of every command.
type commonFlags struct {
	HelpFlag  helpFlag `name:"help" short:"h" group:"Common" help:"Show this text."`
	ConfigYML string   `name:"config" group:"Common" placeholder:"FILE" help:"YAML file of settings, named as the flags without the dashes, all at the top level."`
	// info is the life of the process, about ten lines from start to ready. Steady traffic logs
	// nothing at it.
	LogLevel  string `group:"Common" default:"info" placeholder:"LEVEL" help:"debug, info, warn or error."`
	LogFormat string `group:"Common" placeholder:"FORMAT" help:"text or json. Unset: text on a terminal, else json. If json is set, everything on stderr is JSON, including errors and the lines with listening and ready."`
}

// logTo returns a logger for stderr, which also reports the lines that stderr did not take.
func (c *commonFlags) logTo(stderr *queuedWriter) (*slog.Logger, error) {
	now, err := c.logger(stderr.w, stderr.w)
	if err != nil {
		return nil, err
	}
	stderr.reportDropped(func(lines int) { now.Warn("log lines were dropped: stderr did not take them", "lines", lines) })
	return c.logger(stderr, stderr.w)
}

// logger writes to w, which leads to stderr. People read a terminal, so it gets text; a file or a
// pipe is read by a log collector.
func (c *commonFlags) logger(w, stderr io.Writer) (*slog.Logger, error) {
	level, known := levels[strings.ToLower(c.LogLevel)]
	if !known {
		return nil, wrong("use debug, info, warn or error", "--log-level %s: no such level", c.LogLevel)
	}
	options := slog.HandlerOptions{Level: level, ReplaceAttr: makePrintable}
	switch {
	case c.LogFormat == formatText, c.LogFormat == "" && isTerminal(stderr):
		return slog.New(slog.NewTextHandler(w, &options)), nil
	case c.LogFormat == formatJSON, c.LogFormat == "":
		return slog.New(slog.NewJSONHandler(w, &options)), nil
	}
	return nil, wrong("use text or json", "--log-format %s: no such format", c.LogFormat)
}

// makePrintable makes every message and every attribute printable, for text may come from a peer.
// The handlers quote less than that: JSON passes on characters that reverse the direction of a
// line. It writes addresses as they are written elsewhere, and adds to an error its hints.
func makePrintable(_ []string, a slog.Attr) slog.Attr {
	switch a.Value.Kind() {
	case slog.KindDuration: // the JSON handler would write nanoseconds
		return slog.String(a.Key, roundDuration(a.Value.Duration()).String())
	case slog.KindString:
		return printableString(a)
	case slog.KindAny:
		return printableAny(a)
	}
	return a
}

// roundDuration rounds to what a person reads: a second for minutes, and about three digits of what
// is shorter.
func roundDuration(d time.Duration) time.Duration {
	switch magnitude := d.Abs(); {
	case magnitude >= 10*time.Second:
		return d.Round(time.Second)
	case magnitude >= time.Second:
		return d.Round(10 * time.Millisecond)
	case magnitude >= 10*time.Millisecond:
		return d.Round(time.Millisecond)
	case magnitude >= time.Millisecond:
		return d.Round(10 * time.Microsecond)
	}
	return d.Round(time.Microsecond)
}

// printableString bounds messages and values: a peer must not fill a log with one line.
func printableString(a slog.Attr) slog.Attr {
	switch a.Key {
	case slog.MessageKey: // may be the line of say
		return slog.String(a.Key, printable.Text(a.Value.String(), maxMessage))
	case stackKey:
		return a // made by us, and of many lines
	}
	return slog.String(a.Key, printable.Text(a.Value.String(), printable.Record))
}

// stackKey is the attribute with the stack of a goroutine that panicked.
const stackKey = "stack"

// printableAny turns errors and other values into text here, for the handlers would do so after
// ReplaceAttr, unsanitized.
func printableAny(a slog.Attr) slog.Attr {
	switch v := a.Value.Any().(type) {
	case nil, slog.Level:
		return a
	case error:
		said := slog.String(a.Key, oneLine(v))
		found := hints.Of(v, flagOf)
		if found == nil {
			return said
		}
		// The hint first: it would be lost behind a long error.
		return slog.Group("", slog.String("hint", sanitize(strings.Join(found, "; "))), said)
	default: // addresses, by their String method
		return slog.String(a.Key, printable.Text(fmt.Sprint(v), printable.Record))
	}
}

// isTerminal reports whether w is a terminal.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// catchOtherLogs makes a debug record of each line that a library writes with package log or the
// default slog logger.
func catchOtherLogs(log *slog.Logger) {
	slog.SetLogLoggerLevel(slog.LevelDebug)
	slog.SetDefault(log)
}

// silent is above every level in use: see unlessDebug.
const silent = slog.LevelError + 1

// unlessDebug returns log itself if it shows debug records, otherwise one that drops what is below
// least.
func unlessDebug(ctx context.Context, log *slog.Logger, least slog.Level) *slog.Logger {
	if log.Enabled(ctx, slog.LevelDebug) {
		return log
	}
	return slog.New(leveled{log.Handler(), least})
}

// leveled drops records below a level.
type leveled struct {
	slog.Handler
	least slog.Level
}

func (h leveled) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= h.least && h.Handler.Enabled(ctx, l)
}

func (h leveled) WithAttrs(attrs []slog.Attr) slog.Handler {
	return leveled{h.Handler.WithAttrs(attrs), h.least}
}

func (h leveled) WithGroup(name string) slog.Handler {
	return leveled{h.Handler.WithGroup(name), h.least}
}
