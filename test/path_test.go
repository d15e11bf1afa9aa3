package test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"github.com/culvert-proxy/culvert/test/inside"
	"github.com/culvert-proxy/culvert/test/kafka"
	"github.com/culvert-proxy/culvert/test/leak"
	"github.com/culvert-proxy/culvert/test/netns"
	"github.com/culvert-proxy/culvert/test/proc"
)

// The agent listens on one loopback address and writes another into responses,
// where the leak detector listens at the same ports.
const (
	agentHost  = "127.0.0.2"
	clientHost = "127.0.0.1"
)

// path is one way into the world: an agent, and the leak detector in front of
// it.
type path struct {
	*world
	at        *netns.Namespace // nil: where the test is
	gateway   *gateway
	url       string   // of the gateway, or of what stands before it
	env       []string // of the agent, more than the test's own
	transport string   // or direct
	port      int      // of the bootstrap address; node N has the one behind it plus N
	bootstrap string   // what a client is given; it leads through the detector
	admin     string
	agent     *proc.Process
	relay     *leak.Relay
}

// newPath starts an agent and the detector in front of it.
func (w *world) newPath(ctx context.Context, g *gateway, transport string) (*path, error) {
	return w.newPathAt(ctx, nil, g, transport)
}

// newPathAt is newPath for clients on a side of a network, agent and detector
// included.
func (w *world) newPathAt(ctx context.Context, at *netns.Namespace, g *gateway, transport string) (*path, error) {
	return w.openPath(ctx, path{at: at, gateway: g, url: "https://" + g.listen, transport: transport})
}

// newPathTo is newPath for an agent that reaches the gateway at another URL.
func (w *world) newPathTo(ctx context.Context, g *gateway, url, transport string, env ...string) (*path, error) {
	return w.openPath(ctx, path{gateway: g, url: url, transport: transport, env: env})
}

// openPath fills in what is the same for every path, and starts it.
func (w *world) openPath(ctx context.Context, way path) (_ *path, err error) {
	p := &way
	p.world, p.relay = w, leak.New(kafka.Domain)
	p.relay.From, p.relay.To = p.at, p.at
	offsets := []int{0}
	for _, id := range w.cluster.IDs() {
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

// watch has the detector listen. A port that was free a moment ago may be held
// for another: a program that is being started has copies of all our sockets
// until it is that program.
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
	flags := []string{"agent",
		"--listen", address(agentHost, p.port) + "=" + clientHost,
		"--broker-port-base", strconv.Itoa(p.port + 1),
		"--drain-timeout", "2s",
		"--admin-listen", p.admin,
		"--state-file", p.file(fmt.Sprintf("state-%d.json", p.port))}
	flags = append(flags, p.toClients...)
	cmd := exec.Command(p.binary, append(flags, "--gateway-url", p.url, "--transport", p.transport,
		"--gateway-ca-file", p.file("ca.pem"), "--token-file", p.file("token"))...)
	if p.transport == direct {
		cmd = inside.Command(p.file("inside-hosts"), p.binary, append(append(flags, p.toBrokers...), "--gateway-url", "tcp://"+p.brokers)...)
	}
	if len(p.env) > 0 {
		cmd.Env = append(os.Environ(), p.env...)
	}
	p.agent, err = startCulvert(ctx, p.at.Enter(cmd))
	return err
}

// close ends the agent in good order.
func (p *path) close() error {
	p.relay.Close()
	return endCulvert(p.agent)
}

// nodeAddress is what a client must be told about a node.
func (p *path) nodeAddress(id int) string { return address(clientHost, p.port+1+id) }
