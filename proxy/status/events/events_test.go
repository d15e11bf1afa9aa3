package events_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/status/document"
	"github.com/culvert-proxy/culvert/proxy/status/events"
)

func newLog() (*events.Log, *slog.Logger) {
	l := &events.Log{Names: func(s hints.Setting) string { return "--" + strings.ReplaceAll(string(s), " ", "-") }}
	return l, slog.New(l.Handler(slog.DiscardHandler))
}

func TestAFailureHasItsRemedyAndItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, log := newLog()
		began := time.Now().UTC()
		log = log.With("gateway", "gateway:443")
		err := hints.New(errors.New("401"), "is %s right?", hints.TokenFile)
		log.Warn("gateway not reached", "err", fmt.Errorf("dial: %w", err), "retry_in", time.Second)
		time.Sleep(time.Minute)
		log.Warn("gateway not reached", "err", errors.New("connection refused"))
		got := l.Events()
		want := document.Event{
			Time: began, Last: began.Add(time.Minute), Count: 2, Level: "warn", Text: "gateway not reached", About: "gateway gateway:443",
			Error: "connection refused", Lasting: true,
		}
		if len(got) != 1 || got[0] != want || !got[0].Open() {
			t.Fatalf("%+v, want one: %+v", got, want)
		}
		log.Info("gateway reached", "transport", "ws")
		want.Over, want.Ended = began.Add(time.Minute), "gateway reached"
		if got = l.Events(); len(got) != 1 || got[0] != want || got[0].Open() {
			t.Errorf("at the end: %+v, want %+v", got, want)
		}
		log.Warn("gateway not reached", "err", err)
		if got = l.Events(); len(got) != 2 || !got[0].Open() || got[0].Remedy != "is --token-file right?" || got[0].Count != 1 || got[1].Open() {
			t.Errorf("the next one: %+v, want one more", got)
		}
	})
}

// --log-level must not decide what the status document shows.
func TestTheLevelOfTheLogDoesNotMatter(t *testing.T) {
	var l events.Log
	var out strings.Builder
	log := slog.New(l.Handler(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelError})))
	log.Warn("accept failed, trying again", "listener", "127.0.0.1:9092")
	log.Info("connections are accepted again")
	log.Info("stopped")
	log.Debug("stream opened")
	if got := l.Events(); len(got) != 1 || got[0].Open() {
		t.Errorf("%+v, want one that is over", got)
	}
	if out.Len() > 0 {
		t.Errorf("logged below its level: %s", out.String())
	}
	log.Error("no listener for a broker, clients cannot reach it", "node_id", 2)
	if !strings.Contains(out.String(), "node_id=2") {
		t.Errorf("logged: %q", out.String())
	}
	if log.Enabled(context.Background(), slog.LevelDebug) {
		t.Error("debug is enabled")
	}
}

func TestOnlyTheFailureOfTheSameSubjectEnds(t *testing.T) {
	l, log := newLog()
	for node := range 3 {
		log.With("node_id", node).Warn("connection reset", "cause", "dial", "outage", true, "err", "connection refused")
	}
	log.Warn("connection reset", "node_id", 1, "cause", "tunnel_cut", "err", "cut") // about a moment
	log.Info("broker reached again", "node_id", 1)
	var open []string
	for _, e := range l.Events() {
		if e.Open() {
			open = append(open, e.About)
		}
	}
	if want := []string{"broker 2", "broker 0"}; !slices.Equal(open, want) {
		t.Errorf("open: %q, want %q", open, want)
	}
}

// While no broker answers, outages of single ones are forgotten: nothing logs that such a broker was
// reached again.
func TestTheEndOfAnOutageOfAllEndsThoseOfSingleBrokers(t *testing.T) {
	l, log := newLog()
	log.Warn("connection reset", "node_id", 2, "cause", "dial", "outage", true, "err", "connection refused")
	log.Warn("stream refused", "target", "broker-2:9092", "outage", true, "err", "connection refused")
	log.Warn("no broker answers", "err", "connection refused")
	log.Info("brokers answer again", "after", time.Minute)
	for _, e := range l.Events() {
		if e.Open() {
			t.Errorf("%q about %q goes on", e.Text, e.About)
		}
	}
}

func TestATransportThatIsBackEndsItsLoss(t *testing.T) {
	l, log := newLog()
	log = log.With("gateway", "g:443")
	open := func() (n int) {
		for _, e := range l.Events() {
			if e.Open() {
				n++
			}
		}
		return n
	}
	log.Warn("tunnel transport changed", "from", "h3", "to", "ws")
	log.Warn("tunnel transport changed", "from", "ws", "to", "h2", "why", "ws was cut twice")
	if e := l.Events()[0]; e.Error != "ws was cut twice" || e.About != "gateway g:443, from ws, to h2" {
		t.Errorf("%+v, want why, and what it is about", e)
	}
	if n := open(); n != 2 {
		t.Fatalf("%d open, want 2", n)
	}
	log.Info("tunnel transport changed for a better one", "from", "h2", "to", "ws")
	if n := open(); n != 1 {
		t.Errorf("ws is back: %d open, want 1", n)
	}
	log.Info("tunnel transport changed for a better one", "from", "ws", "to", "h3")
	if n := open(); n != 0 {
		t.Errorf("h3 is back: %d open, want 0", n)
	}
}

// What peers choose is printable and bounded, and so is how much there is of it. Failures that go on
// are kept longest.
func TestAHostilePeerFillsNothing(t *testing.T) {
	l, log := newLog()
	log.Error("no listener for a broker, clients cannot reach it", "node_id", 7)
	evil := "\x1b[2J\u202e" + strings.Repeat("<x>", 1<<20)
	for i := range 2000 {
		name := fmt.Sprint(i, evil[:100])
		if i%1000 == 0 {
			name += evil
		}
		log.With("target", name, "identity", name).Warn("stream refused", "err", errors.New(name), "hint", name, "client_addr", name)
		log.Warn(name)
	}
	got := l.Events()
	if len(got) != document.MaxEvents {
		t.Errorf("%d events, want %d", len(got), document.MaxEvents)
	}
	if last := got[len(got)-1]; !last.Open() || last.About != "broker 7" {
		t.Errorf("the failure that goes on was forgotten; the oldest is %+v", last)
	}
	for _, e := range got {
		whole := e.Text + e.About + e.Error + e.Remedy
		if len(e.Text) > 1<<10 || len(e.About) > 256 || len(e.Error) > 1<<10 || len(e.Remedy) > 1<<10 || strings.ContainsAny(whole, "\x1b\u202e\n") {
			t.Fatalf("%d %d %d %d bytes: %.300q", len(e.Text), len(e.About), len(e.Error), len(e.Remedy), whole)
		}
	}
}

// Attributes in a group are not about what the line is about, also not in a group within it.
func TestGroupsAreLeftOut(t *testing.T) {
	for name, grouped := range map[string]func(slog.Handler) slog.Handler{
		"a group":            func(h slog.Handler) slog.Handler { return h.WithGroup("g") },
		"one without a name": func(h slog.Handler) slog.Handler { return h.WithGroup("g").WithGroup("") },
	} {
		l, log := newLog()
		slog.New(grouped(log.Handler())).Warn("stream refused", "target", "broker:9092")
		if got := l.Events(); len(got) != 1 || got[0].About != "" {
			t.Errorf("%s: %+v", name, got)
		}
	}
}
