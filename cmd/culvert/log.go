package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"github.com/culvert-proxy/culvert/proxy/tunnel"
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

// say writes one line for people, or the record that stands for it, whatever
// the log's level.
func (a *app) say(level slog.Level, line string, attrs ...slog.Attr) {
	if !a.json {
		fmt.Fprintln(a.stderr, line)
		return
	}
	r := slog.NewRecord(time.Now(), level, line, 0)
	r.AddAttrs(attrs...)
	slog.NewJSONHandler(a.stderr, &slog.HandlerOptions{ReplaceAttr: spell}).Handle(context.Background(), r)
}

// spell writes addresses as they are written elsewhere, and puts beside an error
// what can be done about it.
func spell(_ []string, a slog.Attr) slog.Attr {
	switch v := a.Value.Any().(type) {
	case net.Addr:
		return slog.String(a.Key, v.String())
	case error:
		said := slog.String(a.Key, sentence(v))
		found := tunnel.Hints(v)
		if found == nil {
			return said
		}
		return slog.Group("", said, slog.String("hint", redact(strings.Join(found, "; "))))
	}
	return a
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
