package doctor

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/culvert-proxy/culvert/proxy"
	"github.com/culvert-proxy/culvert/proxy/hints"
)

// forwardPort examines the address at which clients reach a forward.
func (d *Doctor) forwardPort(f proxy.Forward) Finding {
	h, err := d.tryPort(f.Address)
	switch {
	case err == nil:
		return ok("%s is free for an agent", f.Address)
	case h.pid != 0 && (h.pid == d.ports.agent.pid || d.same(h)):
		return ok("the agent that runs with these settings (process %d) listens on %s", h.pid, f.Address)
	case h.pid == 0 && errors.Is(err, syscall.EADDRINUSE):
		return Finding{Result: Warn, Text: fmt.Sprintf("%s is taken; %s", f.Address, h.untold), Remedy: "is it an agent with these settings? See " + showListener(f.Address)}
	}
	return d.taken(f.Address, h, err).or(d.Names.Sprintf("end that program, or choose another address with %s", hints.Forward))
}

// forwards has the gateway connect to what each forward leads to.
func (g *gateway) forwards(ctx context.Context, up proxy.Upstream) {
	if g.Agent == nil {
		return
	}
	var hops []string
	for _, f := range g.Agent.Forwards {
		hops = append(hops, "forward "+f.Name)
	}
	g.atOnce(ctx, hops, func(ctx context.Context, i int) Finding {
		f := g.Agent.Forwards[i]
		if err := proxy.TryForward(ctx, up, f.Name); err != nil {
			return g.failure(ctx, err)
		}
		return ok("the gateway reaches it")
	}, func(_ int, f Finding) { g.report(f) })
}
