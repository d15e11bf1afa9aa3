package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"github.com/culvert-proxy/culvert/proxy"
	"github.com/culvert-proxy/culvert/proxy/doctor"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// doctorCmd is culvert doctor. It takes the agent's flags, so that a command line that does not
// work needs one word changed.
type doctorCmd struct {
	JSON bool          `name:"json" group:"The doctor" help:"Print each finding as a line of JSON."`
	Idle time.Duration `group:"The doctor" placeholder:"TIME" help:"Keep a connection without requests for this long, to see whether something on the path cuts it. 100s is longer than most ingresses allow."`

	agentFlags
}

func (*doctorCmd) Help() string {
	return `It changes nothing and opens no listener, so it can run beside an agent. The
exit code is 0 if clients would get through, else 1.

Example:
  culvert doctor --gateway-url https://kafka.example.com --token-file token.txt`
}

// Run examines each gateway, or the brokers if there is none. Findings are printed as they come;
// the error only counts those that failed.
func (c *doctorCmd) Run(ctx context.Context, a *app) error {
	plan, err := c.check()
	if err != nil {
		return err
	}
	if c.Idle < 0 {
		return wrong("0 skips that check", "--idle %v: must not be negative", c.Idle)
	}
	ctx, stop := a.untilSignal(ctx)
	defer stop()
	d := &doctor.Doctor{Names: flagOf, Idle: c.Idle, Report: func(f doctor.Finding) { c.print(a.stdout, f) }}
	defer plan.close()
	if err := c.examine(ctx, d, plan, a.log); err != nil {
		return err
	}
	switch n := d.Failed(); {
	case ctx.Err() != nil: // what was not examined has not failed
		return context.Cause(ctx)
	case n == 1:
		return fmt.Errorf("one hop failed")
	case n > 1:
		return fmt.Errorf("%d hops failed", n)
	}
	return nil
}

// examine reads the files that an agent would read, and has d examine each gateway or, without one,
// the brokers.
func (c *doctorCmd) examine(ctx context.Context, d *doctor.Doctor, p *agentPlan, log *slog.Logger) error {
	log = unlessDebug(ctx, log, silent) // what the parts would warn of is a finding here
	if len(p.gateways) == 0 {
		brokers, err := c.brokerFlags.build(p.brokers, nil, log)
		if err != nil {
			return err
		}
		d.Brokers(ctx, proxy.NewDirect(brokers), nil)
		return nil
	}
	dialers, err := c.dialers(p, nil, log)
	if err != nil {
		return err
	}
	for _, dialer := range dialers {
		if len(dialers) > 1 {
			d.Report(doctor.Finding{Hop: "url", Result: doctor.OK, Text: dialer.URL.String()})
		}
		// A dialer of its own for each transport: one with several would race them, and hide those
		// that lose.
		d.Gateway(ctx, func(transport string) *tunnel.Dialer {
			return &tunnel.Dialer{
				URL: dialer.URL, Transport: transport, TLS: dialer.TLS, Token: dialer.Token, Ingress: dialer.Ingress, Logger: log,
			}
		}, c.transports())
	}
	return nil
}

// transports are those to examine: the one that was asked for, otherwise all, with h3 last, since
// fewer networks let UDP through than anything else.
func (c *doctorCmd) transports() []string {
	if c.Transport != tunnel.TransportAuto {
		return []string{c.Transport}
	}
	others := slices.DeleteFunc(tunnel.Transports(), func(name string) bool { return name == tunnel.TransportH3 })
	return append(others, tunnel.TransportH3)
}

// print writes one finding: a line of JSON, or columns with the hint below. Texts may hold what a
// peer sent.
func (c *doctorCmd) print(w io.Writer, f doctor.Finding) {
	f.Text, f.Remedy = sanitize(f.Text), sanitize(f.Remedy)
	if c.JSON {
		json.NewEncoder(w).Encode(f)
		return
	}
	const indent = 19 // the columns before the text: five, a space, twelve, a space
	text := wrap(f.Text, fmt.Sprintf("%*s", indent, ""))
	fmt.Fprintf(w, "%-5s %-12s %s", f.Result, f.Hop, text[indent:])
	if f.Remedy != "" {
		fmt.Fprint(w, wrap("hint: "+f.Remedy, fmt.Sprintf("%*s", indent, "")))
	}
}
