// Package doctor finds out, hop by hop, why Kafka does not come through: from the name of a gateway
// to every broker behind it. Each hop gets one [Finding], with a remedy if there is one.
//
// It walks the way that an agent takes, with the agent's own parts, and changes nothing: brokers
// get ApiVersions, which needs no login, and Metadata.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/printable"
)

// Result is how a hop did.
type Result string

// The results, from good to bad.
const (
	OK   Result = "ok"
	Info Result = "info" // does not work, but clients can do without it
	Warn Result = "warn" // works, but not for long or not for everybody
	Fail Result = "fail" // does not work, and clients need it
)

// A Finding is what was found at one hop.
type Finding struct {
	Hop    string        `json:"hop"`
	Result Result        `json:"result"`
	Text   string        `json:"text"`             // one printable sentence, without secrets
	Remedy string        `json:"remedy,omitempty"` // what to do, printable too
	Took   time.Duration `json:"took_ns"`
}

// A Doctor examines ways to brokers. Its methods are called one after the other.
type Doctor struct {
	// Report is told each finding, in the order of the hops.
	Report func(Finding)
	// Idle is how long a connection is left alone at the end, to see whether something on the way
	// cuts it; 0 leaves that out. Only KEEPALIVEs pass meanwhile, as on an idle connection of a
	// client.
	Idle time.Duration

	// Names are those of settings, in remedies.
	Names hints.Names

	failed int
}

// Failed is how many findings were failures.
func (d *Doctor) Failed() int { return d.failed }

// hopTimeout bounds each hop.
const hopTimeout = 15 * time.Second

// report passes on a finding, with the words of other programs made printable.
func (d *Doctor) report(f Finding) {
	f.Text, f.Remedy = printable.Text(f.Text, printable.Record), printable.Text(f.Remedy, printable.Record)
	if f.Result == Fail {
		d.failed++
	}
	d.Report(f)
}

// hop examines one hop, and reports whether it is worth going on.
func (d *Doctor) hop(ctx context.Context, name string, examine func(context.Context) Finding) bool {
	f := timed(ctx, name, examine)
	d.report(f)
	return f.Result != Fail
}

// timed examines one hop within hopTimeout.
func timed(ctx context.Context, name string, examine func(context.Context) Finding) Finding {
	ctx, cancel := context.WithTimeoutCause(ctx, hopTimeout, fmt.Errorf("no answer within %v", hopTimeout))
	defer cancel()
	start := time.Now()
	f := examine(ctx)
	f.Hop = name
	f.Took = time.Since(start)
	return f
}

// atOnce examines n hops side by side, a few at a time, and returns the findings in the order of
// the hops.
func (d *Doctor) atOnce(n int, examine func(i int) Finding) []Finding {
	const few = 8
	findings := make([]Finding, n)
	turns := make(chan struct{}, few)
	var all sync.WaitGroup
	for i := range n {
		turns <- struct{}{}
		all.Go(func() {
			defer func() { <-turns }()
			findings[i] = examine(i)
		})
	}
	all.Wait()
	return findings
}

func ok(format string, args ...any) Finding {
	return Finding{Result: OK, Text: fmt.Sprintf(format, args...)}
}

// failure is a finding of err, with the remedies of all errors in it.
func (d *Doctor) failure(ctx context.Context, err error) Finding {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w: %w", err, cause)
	}
	return Finding{Result: Fail, Text: strings.ReplaceAll(err.Error(), "\n", "; "), Remedy: strings.Join(hints.Of(err, d.Names), "; ")}
}

// millis is a duration for people.
func millis(d time.Duration) string { return d.Round(time.Millisecond / 10).String() }
