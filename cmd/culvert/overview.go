package main

import (
	"log/slog"
	"runtime"
	"time"

	"github.com/culvert-proxy/culvert/proxy/status/document"
	"github.com/culvert-proxy/culvert/proxy/status/events"
)

// overview completes the status document of an agent or a gateway with what only a command knows.
type overview struct {
	of      func() document.Document // what the agent or the gateway knows
	started time.Time
	admin   *admin // nil before it listens
	events  events.Log
	files   []credentialFile
	expires map[string]func() time.Time               // when the certificates among them expire, by flag
	logins  func(now time.Time) []document.Credential // nil: there are none
}

// newOverview returns an overview, and a logger that logs as log does and whose warnings become its
// events.
func newOverview(log *slog.Logger) (*overview, *slog.Logger) {
	o := &overview{started: time.Now(), events: events.Log{Names: flagOf}}
	return o, slog.New(o.events.Handler(log.Handler()))
}

// document returns the document of now.
func (o *overview) document() document.Document {
	d := o.of()
	d.Build = document.Build{Version: version(), GoVersion: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	d.Started, d.Uptime = o.started.UTC(), time.Since(o.started).Seconds()
	if d.State.Since.IsZero() {
		d.State.Since = d.Started
	}
	if o.admin != nil {
		d.Listeners = append(d.Listeners, document.Listener{Name: "admin", Address: o.admin.ln.Addr().String(), Protocols: "http"})
	}
	for _, f := range o.files {
		d.Credentials = append(d.Credentials, f.show(d.Time, o.expires[f.flag]))
	}
	if o.logins != nil {
		d.Credentials = append(d.Credentials, o.logins(d.Time)...)
	}
	d.Events = o.events.Events()
	return d
}
