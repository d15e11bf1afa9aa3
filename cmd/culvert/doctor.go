package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/culvert-proxy/culvert/proxy"
	"github.com/culvert-proxy/culvert/proxy/clientconfig"
	"github.com/culvert-proxy/culvert/proxy/doctor"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// doctorCmd is culvert doctor. It takes the agent's flags, so that a command line that does not
// work needs one word changed.
type doctorCmd struct {
	JSON         bool          `name:"json" group:"The doctor" help:"Print each finding as a line of JSON."`
	ClientConfig string        `group:"The doctor" placeholder:"FILE" help:"Properties file of a Kafka client in Java: log in to every broker as that client does, and check its TLS. bootstrap.servers in it is ignored."`
	Produce      string        `group:"The doctor" placeholder:"TOPIC" help:"Write one record to this topic, and read it again."`
	Bootstrap    []string      `group:"The doctor" placeholder:"HOST:PORT" help:"Examine Kafka at this address without culvert: which addresses the brokers advertise, and which of them can be reached from here. May be repeated. The agent's settings are not used then."`
	Idle         time.Duration `group:"The doctor" placeholder:"TIME" help:"Keep a connection without requests for this long, to see whether something on the path cuts it. 100s is longer than most ingresses allow."`

	agentFlags
}

func (*doctorCmd) Help() string {
	return `It changes nothing unless --produce is given. It binds the agent's ports for a
moment if they are free. It can run beside an agent. The last line is the
verdict. The exit code is 0 if clients would get through, and 1 if they would
not or if that is not known, as when brokers want a login and --client-config
is missing.

Example:
  culvert doctor --gateway-url https://kafka.example.com --token-file token.txt

Example without culvert:
  culvert doctor --bootstrap kafka-0.example.com:9092`
}

// Run examines each gateway, or the brokers if there is none. Findings are printed as they come.
func (c *doctorCmd) Run(ctx context.Context, a *app) error {
	if c.Idle < 0 {
		return wrong("0 skips that check", "--idle %v: must not be negative", c.Idle)
	}
	ctx, stop := a.untilSignal(ctx)
	defer stop()
	out, done := a.progress()
	defer done()
	d := &doctor.Doctor{Names: flagOf, Idle: c.Idle, Produce: c.Produce, Report: func(f doctor.Finding) { c.print(out, f) }}
	if !c.JSON {
		d.Examining = func(hop string) { out.show(fmt.Sprintf("%-5s %-12s", "...", hop)) }
	}
	if c.ClientConfig != "" {
		var err error
		if d.Client, err = clientconfig.Read(c.ClientConfig); err != nil {
			return wrong("", "--client-config: %w", err)
		}
	}
	if err := c.examine(ctx, d, a.log); err != nil {
		return err
	}
	if through := d.Verdict(ctx); ctx.Err() != nil {
		return context.Cause(ctx)
	} else if !through {
		return errVerdict
	}
	return nil
}

// examine has d examine Kafka without culvert, or the path of an agent.
func (c *doctorCmd) examine(ctx context.Context, d *doctor.Doctor, log *slog.Logger) error {
	if bootstrap := nonBlank(c.Bootstrap); len(bootstrap) > 0 {
		if len(nonBlank(c.GatewayURL)) > 0 {
			return wrong("remove one of them", "--bootstrap and --gateway-url: the first examines Kafka without culvert, the second through it")
		}
		d.Plain(ctx, bootstrap)
		return nil
	}
	plan, err := c.check()
	if err != nil {
		return err
	}
	defer plan.close()
	return c.examinePath(ctx, d, plan, unlessDebug(ctx, log, silent)) // what the parts would warn of is a finding here
}

// examinePath reads the files that an agent would read, and has d examine this machine, then each
// gateway or, without one, the brokers.
func (c *doctorCmd) examinePath(ctx context.Context, d *doctor.Doctor, p *agentPlan, log *slog.Logger) (err error) {
	d.SameAgent = c.runsAs
	d.Agent = &proxy.Agent{Listens: p.listens, BrokerPortBase: c.BrokerPortBase, NodeAddresses: p.nodes, BrokerNames: p.names, ExpectNodes: p.expect, Forwards: p.forwards}
	if d.Agent.ListenTLS, err = c.listenTLS(log); err != nil {
		return err
	}
	if d.Agent.StateFile, err = c.stateFile(log); err != nil {
		return err
	}
	if len(p.gateways) == 0 {
		brokers, err := c.brokerFlags.build(p.brokers, nil, log)
		if err != nil {
			return err
		}
		d.Agent.Upstream = proxy.NewDirect(brokers)
		d.Local(ctx)
		d.Brokers(ctx, d.Agent.Upstream, nil)
		return nil
	}
	dialers, err := c.dialers(p, nil, log)
	if err != nil {
		return err
	}
	d.Agent.Upstream = proxy.NewTunnel(dialers...)
	d.Local(ctx)
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

// runsAs reports whether a process with these arguments, environment and working directory is an
// agent that leads clients where one with our settings would.
func (c *doctorCmd) runsAs(args, environ []string, dir string) bool {
	if len(args) < 2 {
		return false
	}
	var other cli
	s := &sources{environ: append([]string{}, environ...), dir: dir} // nil would be our own
	parser, err := kong.New(&other, kong.NoDefaultHelp(), kong.Resolvers(s), kong.Bind(s))
	if err != nil {
		return false
	}
	command, err := parser.Parse(args[1:])
	if err != nil || !strings.HasPrefix(command.Command(), "agent") {
		return false
	}
	f := other.Agent.agentFlags
	return slices.Equal(f.GatewayURL, c.GatewayURL) && slices.Equal(f.Listen, c.Listen) &&
		f.BrokerPortBase == c.BrokerPortBase && f.BrokerNames == c.BrokerNames && slices.Equal(f.NodeAddress, c.NodeAddress)
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

// resultColors are the colours of results on a terminal. What has none is of no concern.
var resultColors = map[doctor.Result]string{doctor.OK: green, doctor.Warn: yellow, doctor.Skip: yellow, doctor.Fail: red}

// print writes one finding: a line of JSON, or columns with the hint below. Texts may hold what a
// peer sent.
func (c *doctorCmd) print(out *progress, f doctor.Finding) {
	f.Text, f.Remedy = sanitize(f.Text), sanitize(f.Remedy)
	if c.JSON {
		json.NewEncoder(out).Encode(f)
		return
	}
	const indent = 19 // the columns before the text: five, a space, twelve, a space
	text := wrap(f.Text, fmt.Sprintf("%*s", indent, ""))
	fmt.Fprintf(out, "%s %-12s %s", out.paint(resultColors[f.Result], fmt.Sprintf("%-5s", f.Result)), f.Hop, text[indent:])
	if f.Remedy != "" {
		fmt.Fprint(out, wrap("hint: "+f.Remedy, fmt.Sprintf("%*s", indent, "")))
	}
}
