package main

import (
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
)

// commonFlags are those of every command.
type commonFlags struct {
	HelpFlag  helpFlag `name:"help" short:"h" group:"Common" help:"Show this text."`
	ConfigYML string   `name:"config" group:"Common" placeholder:"FILE" help:"YAML file of settings: the names of the flags, without the dashes, at the top level."`
	LogLevel  string   `group:"Common" default:"info" placeholder:"LEVEL" help:"debug, info, warn or error."`
	LogFormat string   `group:"Common" placeholder:"FORMAT" help:"text or json; unset: text on a terminal, else json."`
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
	case c.LogFormat == "text", c.LogFormat == "" && isTerminal(w):
		return slog.New(slog.NewTextHandler(w, &options)), nil
	case c.LogFormat == "json", c.LogFormat == "":
		return slog.New(slog.NewJSONHandler(w, &options)), nil
	}
	return nil, wrong("it is one of text, json", "--log-format %s: no such format", c.LogFormat)
}

// spell writes addresses as they are written elsewhere, and puts beside an error
// what can be done about it.
func spell(_ []string, a slog.Attr) slog.Attr {
	switch v := a.Value.Any().(type) {
	case net.Addr:
		return slog.String(a.Key, v.String())
	case error:
		said := slog.String(a.Key, sentence(v))
		found := hints(v)
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
