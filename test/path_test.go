package test

import (
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

// The agent listens on one loopback address and writes another into responses, where the leak
// detector listens at the same ports.
const (
	agentHost  = "127.0.0.2"
	clientHost = "127.0.0.1"
)

// path is one way to the brokers: an agent, and the leak detector in front of it.
type path struct {
	*testbed
	at        *netns.Namespace // nil: where the test is
	gateway   *gateway
	url       string   // of the gateway, or of what stands before it
	env       []string // of the agent, more than the test's own
	transport string   // or direct, or snowflake

	standIn     *standIn     // that it leads to, or nil
	credentials []string     // for that, as flags
	ends        func() error // ends what belongs to the path alone; nil: nothing does

	port      int    // of the bootstrap address; node N has the one behind it plus N
	bootstrap string // what a client is given; it leads through the detector
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

// newPathAt is newPath for clients on a side of a network, agent and detector included.
func (b *testbed) newPathAt(ctx context.Context, at *netns.Namespace, g *gateway, transport string) (*path, error) {
	return b.openPath(ctx, path{at: at, gateway: g, url: "https://" + g.listen, transport: transport})
}

// newPathTo is newPath for an agent that reaches the gateway at another URL.
func (b *testbed) newPathTo(ctx context.Context, g *gateway, url, transport string, env ...string) (*path, error) {
	return b.openPath(ctx, path{gateway: g, url: url, transport: transport, env: env})
}

// openPath fills in what is the same for every path, and starts it.
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

// watch has the detector listen. A port that was free a moment ago may be held for another: a
// program that is being started has copies of all our sockets until it is that program.
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

// start also starts an agent again that was ended, at the same ports.
func (p *path) start(ctx context.Context) (err error) {
	flags := []string{
		"--listen", address(agentHost, p.port) + "=" + clientHost,
		"--broker-port-base", strconv.Itoa(p.port + 1),
		"--drain-timeout", "2s",
		"--admin-listen", p.admin,
		"--state-file", p.file(fmt.Sprintf("state-%d.json", p.port))}
	cmd := p.command("agent", append(flags, p.toClients...)...)
	cmd.Env = append(cmd.Environ(), p.env...)
	p.agent, err = startCulvert(ctx, p.at.Enter(cmd))
	return err
}

// command is one of culvert's that is given the way to the gateway, where the agent runs.
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
	args = append(args, "--gateway-url", p.url, "--transport", transport, "--gateway-ca-file", p.file("ca.pem"), "--token-file", p.file("token"))
	if p.standIn == nil {
		return exec.Command(p.binary, args...)
	}
	return hostsfile.Command(p.standIn.file("hosts"), p.binary, append(args, p.credentials...)...)
}

// close ends the agent in good order.
func (p *path) close() error {
	p.relay.Close()
	err := stopCulvert(p.agent)
	if p.ends != nil {
		err = errors.Join(err, p.ends())
	}
	return err
}

// nodeAddress is what a client must be told about a node.
func (p *path) nodeAddress(id int) string { return address(clientHost, p.port+1+id) }
