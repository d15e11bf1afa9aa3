package test

import (
	"context"

	"github.com/culvert-proxy/culvert/test/hostsfile"
	"github.com/culvert-proxy/culvert/test/kafka"
	"github.com/culvert-proxy/culvert/test/netns"
	"github.com/culvert-proxy/culvert/test/proc"
)

// gateway is a culvert gateway beside the brokers.
type gateway struct {
	*testbed
	at      *netns.Namespace // nil: the test's own network
	listen  string
	admin   string
	plain   bool     // HTTP without TLS, behind an ingress
	flags   []string // in addition to those of every gateway
	process *proc.Process
}

// newGateway starts a gateway where the brokers' names resolve.
func (b *testbed) newGateway(ctx context.Context, flags ...string) (*gateway, error) {
	return b.newGatewayAt(ctx, nil, clientHost, flags...)
}

// newGatewayAt is newGateway on one side of a network.
func (b *testbed) newGatewayAt(ctx context.Context, at *netns.Namespace, host string, flags ...string) (*gateway, error) {
	ports, err := kafka.FreePorts(2)
	if err != nil {
		return nil, err
	}
	g := &gateway{testbed: b, at: at, listen: address(host, ports[0]), admin: address(clientHost, ports[1]), flags: flags}
	return g, g.start(ctx)
}

// newPlainGateway starts a gateway without a certificate, for an ingress that terminates TLS.
func (b *testbed) newPlainGateway(ctx context.Context, flags ...string) (*gateway, error) {
	ports, err := kafka.FreePorts(2)
	if err != nil {
		return nil, err
	}
	g := &gateway{testbed: b, listen: address(clientHost, ports[0]), admin: address(clientHost, ports[1]), plain: true, flags: flags}
	return g, g.start(ctx)
}

// close stops the gateway gracefully.
func (g *gateway) close() error { return stopCulvert(g.process) }

// start also restarts a gateway that was stopped, at the same address.
func (g *gateway) start(ctx context.Context) (err error) {
	flags := []string{"gateway",
		"--listen", g.listen,
		"--bootstrap", g.brokers,
		"--token-file", g.file("token"),
		"--drain-timeout", "2s",
		"--admin-listen", g.admin}
	if !g.plain {
		flags = append(flags, "--tls-cert-file", g.file("gateway.pem"), "--tls-key-file", g.file("gateway-key.pem"))
	}
	flags = append(flags, g.toBrokers...)
	g.process, err = startCulvert(ctx, g.at.Enter(hostsfile.Command(g.file("brokers-hosts"), g.binary, append(flags, g.flags...)...)))
	return err
}
