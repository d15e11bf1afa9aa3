package doctor

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/culvert-proxy/culvert/proxy"
	"github.com/culvert-proxy/culvert/proxy/hints"
)

// lookupTimeout bounds how long the names of brokers are looked up.
const lookupTimeout = 5 * time.Second

// nodeNames examines the names by which an agent's clients reach nodes, each of them once: whether
// the certificate is for them, and whether this machine resolves them. The first call examines the
// bootstrap name too.
func (d *Doctor) nodeNames(ctx context.Context, ids []int32) {
	const hop = "node names"
	var names []string
	certificate, err := proxy.CertificateOf(d.Agent.ListenTLS)
	if err != nil {
		d.report(Finding{Hop: hop, Result: Fail, Text: err.Error(), brief: "have no certificate"})
		return
	}
	if d.ports.nodes == nil {
		d.ports.nodes = map[int32]bool{}
		bootstrap := d.Agent.BrokerNames.Bootstrap(d.Agent.Listens, certificate)
		if len(bootstrap) == 0 {
			d.report(Finding{
				Hop: "bootstrap", Result: Fail, Text: "no name leads to the bootstrap brokers: the bootstrap address has no host name, and the certificate lists none", brief: "has no name",
				Remedy: d.Names.Sprintf("add the name that clients have in bootstrap.servers: %s 0.0.0.0:9092=kafka.example.com", hints.Listen),
			})
		}
		names = append(names, bootstrap[:min(len(bootstrap), 1)]...)
	}
	var uncovered error
	for _, id := range slices.Sorted(maps.Keys(set(ids))) {
		if d.ports.nodes[id] || len(d.ports.nodes) >= maxNodes {
			continue
		}
		d.ports.nodes[id] = true
		names = append(names, d.Agent.BrokerNames.Of(id))
		if err := d.Agent.BrokerNames.Uncovered(certificate, []int32{id}); err != nil && uncovered == nil {
			uncovered = err
		}
	}
	if uncovered != nil {
		d.report(Finding{
			Hop: hop, Result: Warn, Text: uncovered.Error() + "; clients that check it do not connect",
			Remedy: d.Names.Sprintf("give %s a certificate with the name of each broker, or with a wildcard for them", hints.ListenTLSCertFile),
		})
	}
	if len(names) > 0 {
		d.hop(ctx, hop, func(ctx context.Context) Finding { return d.resolve(ctx, names) })
	}
}

// resolve looks names up. Clients may have another name server than this machine.
func (d *Doctor) resolve(ctx context.Context, names []string) Finding {
	lookup := d.lookup
	if lookup == nil {
		lookup = net.DefaultResolver.LookupHost
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	var found []string
	for _, name := range names {
		addresses, err := lookup(ctx, name)
		if err != nil || len(addresses) == 0 {
			return Finding{
				Result: Warn, Text: fmt.Sprintf("%s does not resolve here: %v", name, err),
				Remedy: "clients need a DNS record for each name, or a wildcard record, that leads to this agent or to the load balancer in front of it",
			}
		}
		found = append(found, fmt.Sprintf("%s at %s", name, strings.Join(addresses[:1], "")))
	}
	return ok("clients find %s", listed(found))
}

// clientNames are the names under which clients reach an agent: those of its bootstrap addresses and,
// if brokers have names, that of a broker.
func (d *Doctor) clientNames() (names []string) {
	if d.Agent.BrokerNames.IsZero() {
		for _, l := range d.Agent.Listens {
			names = append(names, hostOf(l))
		}
		return names
	}
	if certificate, err := proxy.CertificateOf(d.Agent.ListenTLS); err == nil {
		bootstrap := d.Agent.BrokerNames.Bootstrap(d.Agent.Listens, certificate)
		names = append(names, bootstrap[:min(len(bootstrap), 1)]...)
	}
	return append(names, d.Agent.BrokerNames.Of(append(slices.Clone(d.Agent.ExpectNodes), 0)[0]))
}
