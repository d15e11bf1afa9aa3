package main

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/culvert-proxy/culvert/proxy"
	"github.com/culvert-proxy/culvert/proxy/printable"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// listForwards is the value of an agent's --forward that asks what there is.
const listForwards = "list"

// parseForwards reads values of --forward: NAME=HOST:PORT. address checks what follows the name.
func parseForwards(values []string, form string, address func(proxy.Forward) error) (all []proxy.Forward, err error) {
	for _, s := range values {
		f := proxy.Forward{}
		var found bool
		if f.Name, f.Address, found = strings.Cut(s, "="); !found {
			return nil, wrong(form, "--forward %s: want a name, =, and an address", s)
		}
		if err := address(f); err != nil {
			return nil, wrong(form, "--forward %s: %w", s, err)
		}
		all = append(all, f)
	}
	if err := proxy.CheckForwards(all); err != nil {
		return nil, wrong(form, "--forward: %w", err)
	}
	return all, nil
}

// checkForwards parses --forward of an agent.
func (f *agentFlags) checkForwards(p *agentPlan) (err error) {
	values := nonBlank(f.Forward)
	if p.list = slices.Contains(values, listForwards); p.list {
		if len(values) > 1 {
			return wrong("give it alone: the agent prints what there is, and ends", "--forward %s with other forwards", listForwards)
		}
		return nil
	}
	p.forwards, err = parseForwards(values, "write it as --forward schema-registry=127.0.0.1:8081; --forward list prints which names the gateway offers",
		func(f proxy.Forward) error {
			_, _, err := splitAddress(f.Address, 1)
			return err
		})
	return err
}

// checkForwards parses --forward of a gateway. A broker is no target: clients would be told
// addresses that nobody has replaced.
func (f *gatewayFlags) checkForwards(p *gatewayPlan) (err error) {
	const form = "write it as --forward schema-registry=registry:8081"
	if p.forwards, err = parseForwards(nonBlank(f.Forward), form, proxy.Forward.CheckTarget); err != nil {
		return err
	}
	for _, forward := range p.forwards {
		if slices.Contains(p.bootstrap, forward.Address) {
			return wrong("remove it: clients reach Kafka at the agent's --listen, where addresses of brokers are replaced",
				"--forward %s=%s: that is a broker of --bootstrap", forward.Name, forward.Address)
		}
	}
	return nil
}

// namedForwards is what the line with "listening" says of forwards.
func namedForwards(all []proxy.Forward) string {
	var b strings.Builder
	for _, f := range all {
		fmt.Fprintf(&b, ", forward %s at %s", f.Name, f.Address)
	}
	return b.String()
}

// printForwards prints the names of the forwards that the gateways offer, sorted, one on each line.
// Where gateways differ, each name is followed by those that offer it.
func (f *agentFlags) printForwards(ctx context.Context, p *agentPlan, a *app, log *slog.Logger) error {
	ctx, stop := a.untilSignal(ctx)
	defer stop()
	dialers, err := f.dialers(p, nil, log)
	if err != nil {
		return err
	}
	offered := map[string][]string{} // by name: the hosts of gateways
	for _, d := range dialers {
		defer d.Close()
		names, err := offeredBy(ctx, d)
		if err != nil {
			return err
		}
		if len(names) == 0 {
			a.say("the gateway " + d.URL.Host + " offers no forwards")
		}
		for _, name := range names {
			name = printable.Text(name, printable.Name)
			offered[name] = append(offered[name], d.URL.Host)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(offered)) {
		line := name
		if by := offered[name]; len(by) < len(dialers) {
			line += " " + strings.Join(by, ",")
		}
		if _, err := fmt.Fprintln(a.stdout, line); err != nil {
			return err
		}
	}
	return nil
}

// helloTimeout bounds how long a gateway is waited for that is asked for its forwards.
const helloTimeout = 20 * time.Second

// offeredBy asks a gateway for its forwards.
func offeredBy(ctx context.Context, d *tunnel.Dialer) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	welcome, err := d.Hello(ctx)
	if err != nil {
		return nil, err
	}
	return proxy.OfferedForwards(welcome.Opened)
}
