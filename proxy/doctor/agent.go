package doctor

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"slices"

	"github.com/culvert-proxy/culvert/proxy"
	"github.com/culvert-proxy/culvert/proxy/hints"
)

// runningAgents asks what has the bootstrap addresses for Metadata, as clients do. It must be an
// agent that leads to the same cluster. Where a program's name is not known, that tells whether it
// is the agent.
func (c *cluster) runningAgents(ctx context.Context) {
	for _, l := range c.ports.taken {
		if c.id == "" || c.Agent.ListenTLS != nil && (c.Client == nil || c.Client.TLS == nil) {
			if c.ports.agent.pid == 0 {
				f := skipped("what listens on "+l.Bind, "whether what listens on "+l.Bind+" is an agent with these settings", "see "+showListener(l.Bind))
				f.Hop = "agent"
				c.report(f)
			}
			continue
		}
		c.hop(ctx, "agent", func(ctx context.Context) Finding { return c.runningAgent(ctx, l) })
	}
	c.nodePorts(ctx, c.ports.later)
}

func (c *cluster) runningAgent(ctx context.Context, l proxy.Listen) Finding {
	what := c.Names.Sprintf("end the program that listens there, or choose another address with %s", hints.Listen)
	conn, err := c.connectAgent(ctx, l)
	if err != nil {
		return c.failure(ctx, fmt.Errorf("connect to %s: %w", l.Bind, err)).or(what)
	}
	defer conn.Close()
	m, err := c.metadataOver(ctx, conn)
	if err != nil {
		return c.clientFailure(ctx, fmt.Errorf("ask what listens on %s for Metadata: %w", l.Bind, err)).or(what)
	}
	if id := clusterID(m); id != c.id {
		return Finding{Result: Fail, Text: fmt.Sprintf("what listens on %s leads to another cluster: %s", l.Bind, id), Remedy: what, brief: "leads to another cluster"}
	}
	c.ports.given = map[int32]int32{}
	var names []string
	for _, b := range m.Brokers {
		c.ports.given[b.NodeID] = b.Port
		names = append(names, fmt.Sprintf("%d at %s", b.NodeID, addressOf(b)))
	}
	slices.Sort(names)
	return ok("the agent on %s leads to the same cluster, brokers %s", l.Bind, listed(names))
}

// connectAgent connects to an agent as a client does.
func (c *cluster) connectAgent(ctx context.Context, l proxy.Listen) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", l.Bind)
	if err != nil || c.Agent.ListenTLS == nil {
		return conn, err
	}
	config := c.Client.TLS.Clone()
	if config.ServerName = hostOf(l); !c.Agent.BrokerNames.IsZero() {
		config.ServerName = c.clientNames()[0]
	}
	secure := tls.Client(conn, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return secure, nil
}
