package test

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/culvert-proxy/culvert/proxy/audit"
	"github.com/culvert-proxy/culvert/test/ingress"
)

// auditLog is the audit log of a gateway.
type auditLog string

// read returns the lines that are complete.
func (l auditLog) read(t *testing.T) (all []audit.Record) {
	t.Helper()
	content, err := os.ReadFile(string(l))
	try(t, err)
	for line := range strings.Lines(string(content)) {
		if !strings.HasSuffix(line, "\n") {
			break
		}
		var r struct {
			audit.Record
			Duration float64 `json:"duration_seconds"`
		}
		try(t, json.Unmarshal([]byte(line), &r))
		all = append(all, r.Record)
	}
	return all
}

// TestALoadBalancerNamesClients has HAProxy balance TCP connections to a gateway, with the PROXY
// protocol: version 1 with TLS that passes through, and version 2 with TLS that ends at HAProxy. The
// audit log names each agent by its own address, and what passed it. A file that is renamed meanwhile
// is replaced by a new one.
func TestALoadBalancerNamesClients(t *testing.T) {
	bed := sharedTestbed(t)
	ingress.Need(t)
	const balancer = "127.0.0.77"
	for name, program := range map[string]ingress.HAProxy{
		"version 1, TLS passes through": {Balances: "send-proxy", Passes: true, Source: balancer},
		"version 2, TLS ends there":     {Balances: "send-proxy-v2", Source: balancer},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := auditLog(filepath.Join(t.TempDir(), "audit.log"))
			start := bed.newPlainGateway
			if program.Passes {
				start = bed.newGateway
			}
			g, err := start(t.Context(), "--proxy-protocol", balancer, "--audit-log", string(file))
			try(t, err)
			closeWith(t, g)
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("gateway log:\n%s", g.process.Output())
				}
			})
			i := ingress.Start(t, program, bed.ingressConfig(g))
			for _, transport := range []string{"ws", "h2"} {
				p := bed.pathThrough(t, g, i.URL, transport)
				roundTrip(t, p, transport)
				file.mustShow(t, transport, balancer)
				try(t, os.Rename(string(file), string(file)+"."+transport))
				client := p.connect(t)
				client.mustAnswer(t)
				client.Close()
				file.mustShow(t, transport, balancer)
			}
			if program.Passes { // HTTPS without HAProxy, by somebody who needs no header
				roundTrip(t, bed.pathThrough(t, g, "https://"+g.listen, "ws"), "ws")
				await(t, patience, "a stream without a load balancer", func() bool {
					for _, r := range file.read(t) {
						if r.ProxyAddr == "" && strings.HasPrefix(r.ClientAddr, clientHost+":") && r.Event == audit.StreamEnded {
							return true
						}
					}
					return false
				})
			}
		})
	}
}

// mustShow waits for a stream over a transport that came through the load balancer, and checks its
// line.
func (l auditLog) mustShow(t *testing.T, transport, balancer string) {
	t.Helper()
	var found audit.Record
	await(t, patience, "the line of a stream over "+transport, func() bool {
		if _, err := os.Stat(string(l)); err != nil {
			return false
		}
		for _, r := range l.read(t) {
			if r.Transport == transport && r.Event == audit.StreamEnded && r.FromClient > 0 && r.ToClient > 0 {
				found = r
				return true
			}
		}
		return false
	})
	client, err1 := netip.ParseAddrPort(found.ClientAddr)
	proxy, err2 := netip.ParseAddrPort(found.ProxyAddr)
	if err1 != nil || err2 != nil || client.Addr().String() != clientHost || proxy.Addr().String() != balancer || found.Identity == "" || found.Kind != audit.Broker {
		t.Errorf("the line of a stream is %+v", found)
	}
}
