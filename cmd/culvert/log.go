package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/printable"
)

// The values of --log-format.
const (
	formatText = "text"
	formatJSON = "json"
)

// commonFlags are those of every command.
type commonFlags struct {
	HelpFlag  helpFlag `name:"help" short:"h" group:"Common" help:"Show this text."`
	ConfigYML string   `name:"config" group:"Common" placeholder:"FILE" help:"YAML file of settings: the names of the flags, without the dashes, at the top level."`
	LogLevel  string   `group:"Common" default:"info" placeholder:"LEVEL" help:"debug, info, warn or error."`
	LogFormat string   `group:"Common" placeholder:"FORMAT" help:"text or json; unset: text on a terminal, else json. Asked for, json is all that stderr gets, the lines with ready and with errors among it."`
}

// logger writes to w, which is stderr.
func (c *commonFlags) logger(w io.Writer) (*slog.Logger, error) {
	options := slog.HandlerOptions{ReplaceAttr: spell}
	switch level := strings.ToLower(c.LogLevel); level {
	case "debug", "info", "warn", "error":
		var l slog.Level
		if err := l.UnmarshalText([]byte(level)); err != nil {
			return nil, err
		}
		options.Level = l
	default:
		return nil, wrong("it is one of debug, info, warn, error", "--log-level %s: no such level", c.LogLevel)
	}
	switch {
	case c.LogFormat == formatText, c.LogFormat == "" && isTerminal(w):
		return slog.New(slog.NewTextHandler(w, &options)), nil
	case c.LogFormat == formatJSON, c.LogFormat == "":
		return slog.New(slog.NewJSONHandler(w, &options)), nil
	}
	return nil, wrong("it is one of text, json", "--log-format %s: no such format", c.LogFormat)
}

// allJSON reports whether whoever reads stderr was promised JSON. Where the
// command line could not be parsed, the words for it are looked for.
func (a *app) allJSON(args []string, c *commonFlags) bool {
	if c.LogFormat != "" {
		return c.LogFormat == formatJSON
	}
	for i, arg := range args {
		if value, ok := strings.CutPrefix(arg, "--log-format="); ok {
			return value == formatJSON
		}
		if arg == "--log-format" && i+1 < len(args) {
			return args[i+1] == formatJSON
		}
	}
	if value, set := os.LookupEnv(envName("log-format")); set {
		return value == formatJSON
	}
	return a.sources.keys["log-format"] == formatJSON
}

// maxSaid is the most bytes of a line for people: it may list every address of
// this process.
const maxSaid = 64 << 10

// say writes one line for people, or the record that stands for it, whatever
// the log's level.
func (a *app) say(level slog.Level, line string, attrs ...slog.Attr) {
	if !a.json {
		fmt.Fprintln(a.stderr, printable.Text(line, maxSaid))
		return
	}
	r := slog.NewRecord(time.Now(), level, line, 0)
	r.AddAttrs(attrs...)
	slog.NewJSONHandler(a.stderr, &slog.HandlerOptions{ReplaceAttr: spell}).Handle(context.Background(), r)
}

// spell makes every message and every attribute printable, whoever said it, for
// the handlers quote less than that: JSON lets pass what turns a line around. It
// writes addresses as they are written elsewhere, and puts beside an error what
// can be done about it.
func spell(_ []string, a slog.Attr) slog.Attr {
	switch a.Value.Kind() {
	case slog.KindString:
		return spellString(a)
	case slog.KindAny:
		return spellAny(a)
	}
	return a
}

func spellString(a slog.Attr) slog.Attr {
	switch a.Key {
	case slog.MessageKey: // the line of say, among others
		return slog.String(a.Key, printable.Text(a.Value.String(), maxSaid))
	case stackKey:
		return a // of our own making, and of many lines
	}
	return slog.String(a.Key, printable.Text(a.Value.String(), printable.Record))
}

// stackKey is the attribute with the stack of a goroutine that panicked.
const stackKey = "stack"

func spellAny(a slog.Attr) slog.Attr {
	switch v := a.Value.Any().(type) {
	case nil, slog.Level:
		return a
	case error:
		said := slog.String(a.Key, sentence(v))
		found := hints.Of(v)
		if found == nil {
			return said
		}
		return slog.Group("", said, slog.String("hint", shown(strings.Join(found, "; "))))
	default: // of an address, what its String says
		return slog.String(a.Key, printable.Text(fmt.Sprint(v), printable.Record))
	}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
