// Package events remembers what a process has logged that went wrong, and the end of it, for the
// status document.
package events

import (
	"slices"
	"sync"
	"time"

	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/status/document"
)

// Log remembers the last events. Its [Log.Handler] records lines of the log, at level WARN and
// above, and ends what has ended: see ends.go. It holds up to document.MaxEvents events, each of a
// few KiB at most. The zero value is ready. It may be used concurrently.
type Log struct {
	Names hints.Names // of settings, in remedies

	mu     sync.Mutex
	events []*event // the most recent first
}

// event is an event, and what tells what ends it.
type event struct {
	document.Event
	attrs map[string]string
}

// Events returns the events, the most recent first.
func (l *Log) Events() []document.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make([]document.Event, 0, len(l.events))
	for _, e := range l.events {
		all = append(all, e.Event)
	}
	return all
}

// Note records a line that is not in the log, at level INFO: it may end events.
func (l *Log) Note(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end(line{at: time.Now(), text: text})
}

// record records a line of the log.
func (l *Log) record(said line) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end(said)
	if said.level == "" { // below WARN
		return
	}
	about, lasting := said.about(), said.lasts()
	i := slices.IndexFunc(l.events, func(e *event) bool {
		return e.Text == said.text && e.About == about && e.Lasting == lasting && e.Over.IsZero()
	})
	if i < 0 {
		l.add(&event{attrs: said.attrs, Event: document.Event{
			Time: said.at, Count: 1, Level: said.level, Text: said.text, About: about, Error: said.err, Remedy: said.remedy, Lasting: lasting,
		}})
		return
	}
	e := l.events[i]
	e.Last, e.Level, e.Error, e.Remedy, e.attrs = said.at, said.level, said.err, said.remedy, said.attrs
	e.Count++
	copy(l.events[1:], l.events[:i])
	l.events[0] = e
}

// add adds an event. If there are too many, it forgets one. The caller holds mu.
func (l *Log) add(e *event) {
	if len(l.events) >= document.MaxEvents {
		l.forget()
	}
	l.events = slices.Insert(l.events, 0, e)
}

// forget forgets the oldest event that is over, or the oldest of all. The caller holds mu.
func (l *Log) forget() {
	oldest := len(l.events) - 1
	for i := oldest; i >= 0; i-- {
		if !l.events[i].Open() {
			oldest = i
			break
		}
	}
	l.events = slices.Delete(l.events, oldest, oldest+1)
}

// end ends the open events of which a line says that they are over. The caller holds mu.
func (l *Log) end(said line) {
	for _, e := range l.events {
		if e.Open() && said.ends(e) {
			e.Over, e.Ended = said.at, said.text
		}
	}
}
