package main

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/culvert-proxy/culvert/proxy/hints"
)

// A duration is one in every format: slog's JSON would write nanoseconds.
func TestDurationsAreWrittenAsDurations(t *testing.T) {
	for _, tt := range []struct {
		took time.Duration
		want string
	}{
		{40*time.Second + 123456789, "40s"}, {90*time.Second + 1, "1m30s"}, {1234567890, "1.23s"}, {-1234567890, "-1.23s"},
		{234567890, "235ms"}, {1234567, "1.23ms"}, {12345, "12µs"}, {0, "0s"}, {25 * time.Second, "25s"},
	} {
		for format, want := range map[string]string{
			formatText: `after=` + tt.want + ` times.longest=` + tt.want,
			formatJSON: `"after":"` + tt.want + `","times":{"longest":"` + tt.want + `"}`,
		} {
			var b bytes.Buffer
			log, err := (&commonFlags{LogLevel: "info", LogFormat: format}).logger(&b, &b)
			if err != nil {
				t.Fatal(err)
			}
			log.Info("over", "after", tt.took, slog.Group("times", "longest", tt.took))
			stderr := &queuedWriter{w: &b}
			(&app{stderr: stderr, json: true}).recorder().Info("over", "after", tt.took)
			stderr.flush()
			if lines := strings.Split(b.String(), "\n"); !strings.Contains(lines[0], want) || !strings.Contains(lines[1], `"after":"`+tt.want+`"`) {
				t.Errorf("%s: %q, want %s", format, lines, want)
			}
		}
	}
}

// What to do stands before what happened, which may be long.
func TestTheHintStandsBeforeTheError(t *testing.T) {
	for _, format := range []string{formatText, formatJSON} {
		var b bytes.Buffer
		log, err := (&commonFlags{LogLevel: "info", LogFormat: format}).logger(&b, &b)
		if err != nil {
			t.Fatal(err)
		}
		log.Warn("it failed", "err", hints.New(errors.New(strings.Repeat("reason ", 50)), "set %s", hints.GatewayURL))
		hint, reason := strings.Index(b.String(), "set --gateway-url"), strings.Index(b.String(), "reason ")
		if hint < 0 || reason < hint {
			t.Errorf("%s: the hint is at %d and the error at %d of %s", format, hint, reason, &b)
		}
	}
}
