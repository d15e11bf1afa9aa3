package test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"github.com/culvert-proxy/culvert/test/hostsfile"
	"github.com/culvert-proxy/culvert/test/kafka"
	"github.com/culvert-proxy/culvert/test/leak"
	"github.com/culvert-proxy/culvert/test/netns"
	"github.com/culvert-proxy/culvert/test/proc"
)

// The agent listens on one loopback address and writes another into responses. The leak detector
// listens on that one, at the same ports.
const (
	agentHost  = "127.0.0.2"
	clientHost = "127.0.0.1"
)

// path is one way to the brokers: an agent with a leak detector in front of it.
type path struct {
	*testbed
	at        *netns.Namespace // nil: the test's own network
	gateway   *gateway
	url       string   // of the gateway, or of an ingress or proxy in front of it
	env       []string // of the agent, in addition to the test's own
	flags     []string // of the agent, in addition to those of every agent
	ca        string   // PEM file of the CA that the agent trusts; "": the gateway's
	hosts     string   // the agent's /etc/hosts; "" is the test's own
	transport string   // or direct, or snowflake

	standIn     *standIn     // where it ends, or nil
	credentials []string     // flags for the stand-in
	ends        func() error // stops what only this path uses; may be nil

	port      int    // of the bootstrap address; node N has port+1+N
	bootstrap string // for clients, through the detector
	admin     string
	agent     *proc.Process
	relay     *leak.Relay
}

// newPath starts an agent and the detector in front of it.
func (b *testbed) newPath(ctx context.Context, g *gateway, transport string) (*path, error) {
	if transport == snowflake {
		return b.newSnowflakePath(ctx)
	}
	return b.newPathAt(ctx, nil, g, transport)
}

// newPathAt is newPath for clients on one side of a network. The agent and the detector run there
// too.
func (b *testbed) newPathAt(ctx context.Context, at *netns.Namespace, g *gateway, transport string) (*path, error) {
	return b.openPath(ctx, path{at: at, gateway: g, url: "https://" + g.listen, transport: transport})
}

// newPathTo is newPath for an agent that reaches the gateway at another URL.
func (b *testbed) newPathTo(ctx context.Context, g *gateway, url, transport string, env ...string) (*path, error) {
	return b.openPath(ctx, path{gateway: g, url: url, transport: transport, env: env})
}

// openPath sets what all paths have in common, and starts the path.
func (b *testbed) openPath(ctx context.Context, way path) (_ *path, err error) {
	p := &way
	p.testbed, p.relay = b, leak.New(kafka.Domain)
	p.relay.From, p.relay.To = p.at, p.at
	offsets := []int{0}
	for _, id := range b.cluster.IDs() {
		offsets = append(offsets, 1+int(id))
	}
	if p.port, err = freeBase(offsets); err != nil {
		return nil, err
	}
	p.bootstrap = address(clientHost, p.port)
	for _, offset := range offsets {
		if err := p.watch(p.port + offset); err != nil {
			return nil, err
		}
	}
	admin, err := kafka.FreePorts(1)
	if err != nil {
		return nil, err
	}
	p.admin = address(clientHost, admin[0])
	if err := p.start(ctx); err != nil {
		p.relay.Close()
		return nil, fmt.Errorf("path over %s: %w", p.transport, err)
	}
	return p, nil
}

// watch makes the detector listen. A port that was free a moment ago may still be held: a process
// that is being forked has copies of all our sockets until it executes its program.
func (p *path) watch(port int) error {
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for deadline := time.Now().Add(5 * time.Second); ; <-again.C {
		err := p.relay.Listen(address(clientHost, port), address(agentHost, port))
		if !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(deadline) {
			return err
		}
	}
}

// start also restarts an agent that was stopped, at the same ports.
func (p *path) start(ctx context.Context) (err error) {
	cmd := p.command("agent", append(p.agentFlags(), p.flags...)...)
	cmd.Env = append(cmd.Environ(), p.env...)
	p.agent, err = startCulvert(ctx, p.at.Enter(cmd))
	return err
}

// agentFlags are the flags of the agent that concern this machine.
func (p *path) agentFlags() []string {
	return append([]string{
		"--listen", address(agentHost, p.port) + "=" + clientHost,
		"--broker-port-base", strconv.Itoa(p.port + 1),
		"--drain-timeout", "2s",
		"--admin-listen", p.admin,
		"--state-file", p.file(fmt.Sprintf("state-%d.json", p.port)),
	}, p.toClients...)
}

// command returns a culvert command with the flags of this path, to run where the agent runs.
func (p *path) command(name string, flags ...string) *exec.Cmd {
	args := append([]string{name}, flags...)
	if p.transport == direct {
		args = append(append(args, p.toBrokers...), "--gateway-url", "tcp://"+p.brokers)
		return hostsfile.Command(p.file("brokers-hosts"), p.binary, args...)
	}
	transport := p.transport
	if transport == snowflake {
		transport = "auto"
	}
	args = append(args, "--gateway-url", p.url, "--transport", transport, "--gateway-ca-file", cmp.Or(p.ca, p.file("ca.pem")), "--token-file", p.file("token"))
	if p.standIn == nil && p.hosts == "" {
		return exec.Command(p.binary, args...)
	}
	if p.standIn == nil {
		return hostsfile.Command(p.hosts, p.binary, args...)
	}
	return hostsfile.Command(p.standIn.ownFile("hosts"), p.binary, append(args, p.credentials...)...)
}

// close stops the agent gracefully.
func (p *path) close() error {
	p.relay.Close()
	err := stopCulvert(p.agent)
	if p.ends != nil {
		err = errors.Join(err, p.ends())
	}
	return err
}

// nodeAddress returns the address that a client must get for a node.
func (p *path) nodeAddress(id int) string { return address(clientHost, p.port+1+id) }
