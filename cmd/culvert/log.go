package main

import (
	"io"
	"log/slog"
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
	var options slog.HandlerOptions
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

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
