package test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvert-proxy/culvert/test/cache"
	"github.com/culvert-proxy/culvert/test/inside"
	"github.com/culvert-proxy/culvert/test/kafka"
	"github.com/culvert-proxy/culvert/test/leak"
	"github.com/culvert-proxy/culvert/test/proc"
)

// transports are those that every client must work over.
var transports = []string{"ws", "h3"}

// world is a cluster and one gateway beside it.
type world struct {
	dir          string
	cluster      *kafka.Cluster
	binary       string // culvert
	url          string // of the gateway
	gateway      *proc.Process
	gatewayAdmin string           // its admin listener
	paths        map[string]*path // by transport
}

// path is one way into the world: an agent over one transport, and the leak
// detector in front of it.
type path struct {
	*world
	transport string
	bootstrap string // what a client is given; it leads through the detector
	base      int    // the agent's broker port base
	agent     *proc.Process
	admin     string // the agent's admin listener
	relay     *leak.Relay
}

// shared is the world of most tests: a cluster takes seconds to start.
var shared struct {
	once  sync.Once
	world *world
	err   error
}

// theWorld returns the shared world and starts it for the first test.
func theWorld(t *testing.T) *world {
	t.Helper()
	needReal(t)
	shared.once.Do(func() {
		if shared.world, shared.err = newSharedWorld(); shared.err != nil {
			t.Log(shared.err)
		}
	})
	if shared.err != nil {
		t.Fatal("the shared world did not start")
	}
	return shared.world
}

func newSharedWorld() (*world, error) {
	dir, err := os.MkdirTemp("", "culvert-test-")
	if err != nil {
		return nil, err
	}
	w, err := newWorld(context.Background(), dir, kafka.Config{}, (*kafka.Cluster).Bootstrap, transports...)
	if err != nil {
		os.RemoveAll(dir)
	}
	return w, err
}

// closeShared ends the shared world if a test has started it.
func closeShared() {
	if w := shared.world; w != nil {
		w.close()
		os.RemoveAll(w.dir)
	}
}

// eachTransport runs a test once per transport, side by side, and fails it if
// a broker's name has reached a client, if nothing came through the agent, or if
// the agent has refused anything.
func eachTransport(t *testing.T, test func(*testing.T, *path)) {
	w := theWorld(t)
	for _, transport := range transports {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			p := w.paths[transport]
			p.relay.Check(t)
			sent, refused := p.relay.Sent(), scrape(t, p.admin).sum("culvert_refused_total")
			test(t, p)
			p.relay.Check(t)
			if p.relay.Sent() == sent {
				t.Error("nothing came through the agent")
			}
			if n := scrape(t, p.admin).sum("culvert_refused_total") - refused; n > 0 {
				t.Errorf("the agent has refused something %v times", n)
			}
			w.logIfFailed(t)
		})
	}
}

// newWorld starts a cluster, a gateway that is given the addresses of one of
// its listeners, and a path per transport.
func newWorld(ctx context.Context, dir string, cfg kafka.Config, listener func(*kafka.Cluster) string, transports ...string) (_ *world, err error) {
	w := &world{dir: dir, paths: make(map[string]*path)}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	if w.binary, err = build(); err != nil {
		return nil, err
	}
	if w.cluster, err = kafka.New(ctx, dir, cfg); err != nil {
		return nil, err
	}
	if err := writeCredentials(dir); err != nil {
		return nil, err
	}
	if err := w.startGateway(ctx, listener(w.cluster)); err != nil {
		return nil, err
	}
	for _, transport := range transports {
		p := &path{world: w, transport: transport}
		w.paths[transport] = p
		if err := p.start(ctx); err != nil {
			return nil, fmt.Errorf("path over %s: %w", transport, err)
		}
	}
	return w, nil
}

func (w *world) close() {
	for _, p := range w.paths {
		p.close()
	}
	if w.gateway != nil {
		w.gateway.Kill()
	}
	if w.cluster != nil {
		w.cluster.Close()
	}
}

// logIfFailed adds what both ends said to the report of a test that has failed.
func (w *world) logIfFailed(t *testing.T) {
	if !t.Failed() {
		return
	}
	t.Logf("what the gateway said:\n%s", w.gateway.Output())
	for _, p := range w.paths {
		t.Logf("what the agent over %s said:\n%s", p.transport, p.agent.Output())
	}
}

func (w *world) file(name string) string { return filepath.Join(w.dir, name) }

// startGateway starts the gateway where the brokers' names resolve.
func (w *world) startGateway(ctx context.Context, bootstrap string) error {
	if err := inside.WriteHosts(w.file("gateway-hosts"), w.cluster.Hosts()); err != nil {
		return err
	}
	ports, err := kafka.FreePorts(2)
	if err != nil {
		return err
	}
	w.url = "https://" + address(clientHost, ports[0])
	w.gatewayAdmin = address(clientHost, ports[1])
	w.gateway, err = startCulvert(ctx, inside.Command(w.file("gateway-hosts"), w.binary, "gateway",
		"--listen", address(clientHost, ports[0]),
		"--tls-cert-file", w.file("gateway.pem"), "--tls-key-file", w.file("gateway-key.pem"),
		"--bootstrap", bootstrap,
		"--token-file", w.file("token"),
		"--admin-listen", w.gatewayAdmin))
	return err
}

// The agent listens on one loopback address and writes another into responses,
// where the leak detector listens at the same ports.
const (
	agentHost  = "127.0.0.2"
	clientHost = "127.0.0.1"
)

// start starts the agent and the detector in front of it.
func (p *path) start(ctx context.Context) error {
	port, err := freeRange(1 + len(p.cluster.Hosts()))
	if err != nil {
		return err
	}
	p.base = port + 1
	p.bootstrap = address(clientHost, port)
	p.relay = leak.New(kafka.Domain)
	for i := range 1 + len(p.cluster.Hosts()) {
		if err := p.relay.Listen(address(clientHost, port+i), address(agentHost, port+i)); err != nil {
			return err
		}
	}
	return p.startAgent(ctx)
}

func (p *path) startAgent(ctx context.Context) error {
	_, port, _ := strings.Cut(p.bootstrap, ":")
	admin, err := kafka.FreePorts(1)
	if err != nil {
		return err
	}
	p.admin = address(clientHost, admin[0])
	p.agent, err = startCulvert(ctx, exec.Command(p.binary, "agent",
		"--gateway-url", p.url,
		"--gateway-ca-file", p.file("ca.pem"),
		"--token-file", p.file("token"),
		"--listen", agentHost+":"+port+"="+clientHost,
		"--broker-port-base", strconv.Itoa(p.base),
		"--transport", p.transport,
		"--admin-listen", p.admin,
		"--state-file", p.file("state-"+p.transport+".json")))
	return err
}

func (p *path) close() {
	if p.relay != nil {
		p.relay.Close()
	}
	if p.agent != nil {
		p.agent.Kill()
	}
}

// startCulvert starts one of culvert's ends and returns when it says that
// clients may come.
func startCulvert(ctx context.Context, cmd *exec.Cmd) (*proc.Process, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	cmd.Env = slices.DeleteFunc(cmd.Env, func(s string) bool { return strings.HasPrefix(s, "CULVERT_") })
	p, err := proc.Start(cmd)
	if err != nil {
		return nil, err
	}
	if _, err := p.Output().WaitLine(ctx, "ready"); err != nil {
		p.Kill()
		return nil, fmt.Errorf("start culvert %s: %w", strings.Join(cmd.Args[1:], " "), err)
	}
	return p, nil
}

// build builds culvert once, with the race detector if CULVERT_TEST_RACE is set,
// and returns its path.
var build = sync.OnceValues(func() (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	root, err := cache.Root()
	if err != nil {
		return "", err
	}
	dir, err := cache.Dir()
	if err != nil {
		return "", err
	}
	args := []string{"build", "-o", filepath.Join(dir, "culvert")}
	if os.Getenv("CULVERT_TEST_RACE") != "" {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, "./cmd/culvert")...)
	cmd.Dir = root
	_, err = proc.Run(ctx, cmd)
	return filepath.Join(dir, "culvert"), err
})
