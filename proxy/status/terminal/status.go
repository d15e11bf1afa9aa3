package terminal

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/culvert-proxy/culvert/proxy/status/document"
)

// Status returns the page of culvert status: each line ends in a newline, and none is wider than
// the terminal.
func (t Terminal) Status(d *document.Document) string {
	lines := append(t.newer(d), line{{"culvert " + d.End + " ", bold}, {build(d, "up "+long(d.Uptime)), 0}})
	lines = append(lines, t.state(d)...)
	lines = append(lines, nil)
	lines = append(lines, t.path(d)...)
	lines = append(lines, nil, line{{"requests, rates and times over the last " + long(d.Window), bold}})
	lines = append(lines, t.apiLines(d, order{}, false)...)
	lines = append(lines, nil, line{{"nodes", bold}})
	lines = append(lines, t.nodeLines(d, false)...)
	for _, section := range []struct {
		title string
		lines []line
	}{{"forwards", t.forwardLines(d)}, {"credentials", t.credentials(d)}, {"limits", t.limits(d)}} {
		if section.lines != nil {
			lines = append(lines, nil, line{{section.title, bold}})
			lines = append(lines, section.lines...)
		}
	}
	if failures := t.failures(d); failures != nil {
		lines = append(append(lines, nil), failures...)
	}
	var b strings.Builder
	for _, l := range lines {
		b.WriteString(t.draw(l))
		b.WriteByte('\n')
	}
	return b.String()
}

// newer says that a document is of a later version than this program.
func (t Terminal) newer(d *document.Document) []line {
	if d.Version <= document.Version {
		return nil
	}
	return t.wrapped(line{}, fmt.Sprintf("This status document has version %d, and this culvert reads version %d: some of what follows may be missing or mean something else.",
		d.Version, document.Version), yellow, maxText)
}

// build is the version of what runs, where, and what else is to be said of it.
func build(d *document.Document, more ...string) string {
	parts := append([]string{d.Build.Version, d.Build.Platform}, more...)
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), ", ")
}

// stateText is the state in words, with how long it has lasted, or what is missing although it is
// ready, and its colour. What is missing, or why, follows.
func stateText(d *document.Document) (text string, s style) {
	text, s = strings.ReplaceAll(d.State.Name, "_", " "), yellow
	switch d.State.Name {
	case document.Ready:
		s = green
	case document.NotReady:
		s = red
	}
	if d.State.Name == document.Ready && d.State.Missing != "" {
		text, s = text+", but", yellow
	}
	if ago := since(d.Time, d.State.Since); ago != "" {
		text += " for " + ago
	}
	return text, s
}

// state says whether clients get answers, and if not, why.
func (t Terminal) state(d *document.Document) []line {
	text, s := stateText(d)
	switch {
	case d.State.Name == document.Ready && d.State.Missing != "":
		text += ": " + d.State.Missing
	case d.State.Name != document.Ready && d.State.Why != "":
		text += ": " + d.State.Why
	}
	return t.wrapped(line{{"● ", s}}, text, s, maxText)
}

// Credentials and limits are shown when they soon need somebody.
const (
	certificateSoon = 7 * 24 * time.Hour // as in the log and the alert
	lifeLeft        = 0.1                // of a token that is replaced in time, this much should always be left
	limitNear       = 0.8                // of the maximum
)

// credentials are those that end soon, and those that could not be read.
func (t Terminal) credentials(d *document.Document) (lines []line) {
	for _, c := range d.Credentials {
		soon := c.Left < lifeLeft*(c.Age+c.Left)
		if c.Kind == "certificate" {
			soon = c.Left < certificateSoon.Seconds()
		}
		soon = soon && !c.Expires.IsZero()
		first := line{{fmt.Sprintf("%s, %s: ", c.Setting, c.Kind), 0}}
		switch {
		case c.Error != "":
			lines = append(lines, t.wrapped(first, c.Error, red, maxText)...)
		case soon && c.Left <= 0:
			lines = append(lines, t.wrapped(first, "ended "+long(-c.Left)+" ago", red, 1)...)
		case soon:
			lines = append(lines, t.wrapped(first, "ends in "+long(c.Left), yellow, 1)...)
		}
	}
	return lines
}

// limits are those that were reached, or nearly are.
func (t Terminal) limits(d *document.Document) (lines []line) {
	for _, l := range d.Limits {
		near := l.Max > 0 && float64(l.Used) >= limitNear*float64(l.Max)
		if !near && l.Refused == 0 {
			continue
		}
		show, s := count, yellow
		if l.Unit == "bytes" {
			show = memory
		}
		text := fmt.Sprintf("%s of %s in use", show(l.Used), show(l.Max))
		if l.Max > 0 {
			text += fmt.Sprintf(" (%.0f%%)", 100*float64(l.Used)/float64(l.Max))
		}
		if l.Refused > 0 {
			times := " times"
			if l.Refused == 1 {
				times = " time"
			}
			what := "reached"
			if l.Name == "unauthenticated" { // it is also a time
				what = "closed"
			}
			text, s = text+", "+what+" "+count(l.Refused)+times, red
		}
		if l.Setting != "" {
			text += "; " + l.Setting + " raises it"
		}
		lines = append(lines, t.wrapped(line{{l.Name + ": ", 0}}, text, s, 2)...)
	}
	return lines
}

// maxFailures is how many open failures the page lists.
const maxFailures = 5

// failures are those that go on, or else the last one.
func (t Terminal) failures(d *document.Document) (lines []line) {
	if open := openFailures(d); open != nil {
		lines = []line{{{"failures that go on", bold}}}
		for _, e := range open[:min(len(open), maxFailures)] {
			lines = append(lines, t.event(d, e)...)
		}
		if more := len(open) - maxFailures; more > 0 {
			lines = append(lines, say("and %d more", more))
		}
		return lines
	}
	last := lastFailure(d)
	switch {
	case last != nil:
		return append([]line{{{lastTitle(*last), bold}}}, t.event(d, *last)...)
	case d.State.Name == document.Ready:
		return []line{{{"no failures", green}}}
	}
	return nil
}

// lastTitle says whether the last failure is over.
func lastTitle(e document.Event) string {
	if e.Lasting {
		return "last failure, over"
	}
	return "last warning"
}

// openFailures are the failures that go on, the newest first.
func openFailures(d *document.Document) (open []document.Event) {
	for _, e := range d.Events {
		if e.Open() {
			open = append(open, e)
		}
	}
	return open
}

// lastFailure is the newest event; nil if there is none.
func lastFailure(d *document.Document) *document.Event {
	if len(d.Events) == 0 {
		return nil
	}
	return &d.Events[0]
}

// event draws what happened, the remedy, and whether it is over.
func (t Terminal) event(d *document.Document, e document.Event) []line {
	mark, s := eventStyle(e)
	lines := t.wrapped(line{{mark + " ", s}}, eventTimes(d, e)+": "+eventText(e), s, maxText)
	if e.Remedy != "" && e.Over.IsZero() {
		lines = append(lines, t.wrapped(line{{"  hint: ", 0}}, e.Remedy, 0, maxText)...)
	}
	if e.Lasting && !e.Over.IsZero() {
		lines = append(lines, t.wrapped(line{{"  over: ", green}}, cmp.Or(e.Ended, "it has ended"), 0, maxText)...)
	}
	return lines
}

// eventStyle is how an event is marked: a failure that goes on stands out.
func eventStyle(e document.Event) (mark string, s style) {
	mark, s = "○", yellow
	if e.Level == "error" {
		s = red
	}
	switch {
	case e.Open():
		mark = "●"
	case e.Lasting:
		s = dim
	}
	return mark, s
}

// eventText is what happened, to what, and why.
func eventText(e document.Event) string {
	text := e.Text
	if e.About != "" {
		text += " (" + e.About + ")"
	}
	if e.Error != "" {
		text += ": " + e.Error
	}
	return text
}

// eventTimes is when an event happened, how often and for how long.
func eventTimes(d *document.Document, e document.Event) string {
	text := since(d.Time, e.Time)
	if e.Open() {
		text = "for " + text
	} else {
		text += " ago"
	}
	if !e.Over.IsZero() {
		text += ", for " + long(max(e.Over.Sub(e.Time).Seconds(), 0))
	}
	if e.Count > 1 {
		text += fmt.Sprintf(", %d times", e.Count)
	}
	return text
}
