package events

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/printable"
)

// Handler returns a handler that records lines before next handles them. The level of next does not
// matter for what is recorded.
func (l *Log) Handler(next slog.Handler) slog.Handler { return handler{next: next, log: l} }

var _ slog.Handler = handler{}

// handler is a [slog.Handler] that records.
type handler struct {
	next  slog.Handler
	log   *Log
	attrs []slog.Attr // of WithAttrs, outside of groups; next gets them with a record
	group bool        // later attributes are in a group, and nobody asks for those; next has all of them
}

func (h handler) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelInfo || h.next.Enabled(ctx, level)
}

func (h handler) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelWarn || r.Level >= slog.LevelInfo && isEnding(r.Message) {
		h.log.record(h.line(r))
	}
	if !h.next.Enabled(ctx, r.Level) {
		return nil
	}
	return h.withAttrs().Handle(ctx, r)
}

// withAttrs returns next with all attributes. Only a record needs it: most connections have a logger
// and log nothing, and the text of their attributes would be half of what it takes.
func (h handler) withAttrs() slog.Handler {
	if h.group || len(h.attrs) == 0 {
		return h.next
	}
	return h.next.WithAttrs(h.attrs)
}

func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	if h.group {
		h.next = h.next.WithAttrs(attrs)
	} else {
		h.attrs = append(slices.Clip(h.attrs), attrs...)
	}
	return h
}

func (h handler) WithGroup(name string) slog.Handler {
	if name != "" {
		h.next, h.group = h.withAttrs().WithGroup(name), true
	}
	return h
}

// isEnding reports whether a line with this text may end something.
func isEnding(text string) bool {
	for _, e := range endings {
		if e.line == text {
			return true
		}
	}
	return false
}

// line is a line of the log, printable and bounded.
type line struct {
	at          time.Time
	level       string // warn or error; "" below
	text        string
	err, remedy string
	attrs       map[string]string // those of subject and of endings
}

// line reads a record.
func (h handler) line(r slog.Record) line {
	said := line{at: r.Time.UTC(), text: printable.Text(r.Message, printable.Sentence), attrs: map[string]string{}}
	switch {
	case r.Level >= slog.LevelError:
		said.level = "error"
	case r.Level >= slog.LevelWarn:
		said.level = "warn"
	}
	for _, a := range h.attrs {
		said.take(a, h.log.Names)
	}
	if !h.group {
		r.Attrs(func(a slog.Attr) bool {
			said.take(a, h.log.Names)
			return true
		})
	}
	return said
}

// take reads an attribute.
func (l *line) take(a slog.Attr, names hints.Names) {
	switch {
	case a.Key == "err":
		err, _ := a.Value.Any().(error)
		l.err = printable.Text(strings.ReplaceAll(fmt.Sprint(a.Value.Any()), "\n", "; "), printable.Sentence)
		if found := hints.Of(err, names); err != nil && len(found) > 0 && l.remedy == "" {
			l.remedy = printable.Text(strings.Join(found, "; "), printable.Sentence)
		}
	case a.Key == "why": // of a transport that was left
		l.err = printable.Text(a.Value.String(), printable.Sentence)
	case a.Key == "hint":
		l.remedy = printable.Text(a.Value.String(), printable.Sentence)
	case kept[a.Key]:
		l.attrs[a.Key] = printable.Text(a.Value.String(), printable.Name)
	}
}

// kept are the attributes that say what a line is about, or what ends it.
var kept = func() map[string]bool {
	all := map[string]bool{"outage": true}
	for _, s := range subject {
		all[s.key] = true
	}
	for _, e := range endings {
		for _, key := range e.same {
			all[key] = true
		}
	}
	return all
}()

// subject are the attributes that say what a line is about, and how. A client's address is none of
// them: its port is another each time.
var subject = []struct{ key, format string }{
	{"node_id", "broker %s"},
	{"target", "broker at %s"},
	{"gateway", "gateway %s"},
	{"name", "%s"},
	{"from", "from %s"},
	{"to", "to %s"},
	{"transport", "over %s"},
	{"address", "address %s"},
	{"file", "%s"},
	{"listener", "listener %s"},
	{"cluster_id", "cluster %s"},
	{"identity", "agent %s"},
	{"host", "%s"},
	{"provider", "%s"},
}

// about returns what a line is about.
func (l line) about() string {
	var parts []string
	for _, s := range subject {
		value := l.attrs[s.key]
		switch {
		case value == "":
		case s.key == "node_id" && value == "-1":
			parts = append(parts, "a bootstrap broker")
		default:
			parts = append(parts, fmt.Sprintf(s.format, value))
		}
	}
	return printable.Text(strings.Join(parts, ", "), printable.Name)
}
