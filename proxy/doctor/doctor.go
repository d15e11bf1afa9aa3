// Package doctor finds out, hop by hop, why Kafka does not come through: from the ports of an agent
// and the name of a gateway to every broker behind it. Each hop gets one [Finding], with a remedy
// if there is one, and the last finding is the verdict.
//
// It walks the way that an agent takes, with the agent's own parts, and does with each broker what a
// client does: it logs in, if it is given a client's settings, and asks for Metadata. It changes
// nothing unless it is asked to write a record.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-proxy/culvert/proxy"
	"github.com/culvert-proxy/culvert/proxy/clientconfig"
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
	Skip Result = "skip" // not examined, and clients need it
	Fail Result = "fail" // does not work, and clients need it
)

// A Finding is what was found at one hop.
type Finding struct {
	Hop    string        `json:"hop"`
	Result Result        `json:"result"`
	Text   string        `json:"text"`             // one printable sentence, without secrets
	Remedy string        `json:"remedy,omitempty"` // what to do, printable too
	Took   time.Duration `json:"took_ns"`

	brief       string // what the verdict says of a hop that failed or was not examined
	unreachable bool   // a broker advertises an address that cannot be reached, without culvert
}

// A Doctor examines ways to brokers. Its methods are called one after the other.
type Doctor struct {
	// Report is told each finding, in the order of the hops and as soon as it is known.
	Report func(Finding)
	// Examining is told the hop whose finding is awaited now, by the same goroutine that calls
	// Report. nil: nobody wants to know.
	Examining func(hop string)
	// Client is how a client connects. If it is nil, nothing is examined that needs a login.
	Client *clientconfig.Config
	// Produce is a topic to write a record to, and to read it from; "" is none.
	Produce string
	// Idle is how long a connection is left alone at the end, to see whether something on the way
	// cuts it; 0 leaves that out. Only KEEPALIVEs pass meanwhile, as on an idle connection of a
	// client.
	Idle time.Duration

	// Agent has the settings of the agent whose ports are examined. It is not run. nil: none are.
	Agent *proxy.Agent
	// SameAgent reports whether a process is a running agent with the settings of Agent. It is
	// given the process's arguments, environment and working directory. nil: no process is.
	SameAgent func(args, environ []string, dir string) bool

	// Names are those of settings, in remedies.
	Names hints.Names

	// For tests.
	listens func(network, address string) (net.Listener, error) // nil: net.Listen
	blind   bool                                                // who has a port is not known
	lookup  func(ctx context.Context, host string) ([]string, error)

	tally tally
	ports ports
}

// hopTimeout bounds each hop.
const hopTimeout = 15 * time.Second

// report passes on a finding, with the words of other programs made printable.
func (d *Doctor) report(f Finding) {
	f.Text, f.Remedy = printable.Text(f.Text, printable.Record), printable.Text(f.Remedy, printable.Record)
	d.tally.add(f)
	d.Report(f)
}

// examining says which hop is being examined.
func (d *Doctor) examining(hop string) {
	if d.Examining != nil {
		d.Examining(hop)
	}
}

// hop examines one hop, and reports whether it is worth going on.
func (d *Doctor) hop(ctx context.Context, name string, examine func(context.Context) Finding) bool {
	d.examining(name)
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

// atOnce examines hops side by side, a few at a time. found gets the findings in the order of the
// hops, each as soon as those before it are there.
func (d *Doctor) atOnce(ctx context.Context, hops []string, examine func(ctx context.Context, i int) Finding, found func(i int, f Finding)) {
	const few = 8
	findings := make([]chan Finding, len(hops))
	for i := range findings {
		findings[i] = make(chan Finding, 1)
	}
	var next atomic.Int64
	var all sync.WaitGroup
	for range min(few, len(hops)) {
		all.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(hops); i = int(next.Add(1)) - 1 {
				findings[i] <- timed(ctx, hops[i], func(ctx context.Context) Finding { return examine(ctx, i) })
			}
		})
	}
	for i, hop := range hops {
		d.examining(hop)
		found(i, <-findings[i])
	}
	all.Wait()
}

func ok(format string, args ...any) Finding {
	return Finding{Result: OK, Text: fmt.Sprintf(format, args...)}
}

// skipped is a finding of something that clients need and that could not be examined. brief is what
// the verdict says.
func skipped(brief, text, remedy string) Finding {
	return Finding{Result: Skip, Text: "not examined: " + text, Remedy: remedy, brief: brief}
}

// failure is a finding of err, with the remedies of all errors in it.
func (d *Doctor) failure(ctx context.Context, err error) Finding {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w: %w", err, cause)
	}
	return Finding{
		Result: Fail, Text: strings.ReplaceAll(err.Error(), "\n", "; "), Remedy: strings.Join(hints.Of(err, d.Names), "; "),
		brief: briefly(err),
	}
}

// or sets the remedy of a failure that has none.
func (f Finding) or(remedy string) Finding {
	if f.Result == Fail && f.Remedy == "" {
		f.Remedy = remedy
	}
	return f
}

// millis is a duration for people.
func millis(d time.Duration) string { return d.Round(time.Millisecond / 10).String() }
