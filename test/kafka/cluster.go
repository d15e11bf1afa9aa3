// Package kafka installs Apache Kafka and starts clusters of it for the tests. They are KRaft
// brokers on loopback ports. Their client listener advertises names that do not resolve, as in a
// platform that can be reached only by HTTPS.
//
// Each broker has two listeners. CLIENT is for culvert; it advertises
// broker-N.kafka.internal.invalid and its own port. INTERNAL advertises the address that it is
// bound to. It carries the replication, and tests use it to prepare and to compare. The
// controllers' listener advertises controller-N.kafka.internal.invalid.
package kafka

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvert-proxy/culvert/test/proc"
)

// Domain is the suffix of every name that a cluster advertises to clients. It must never reach a
// client. Names below .invalid resolve nowhere (RFC 6761).
const Domain = "kafka.internal.invalid"

// ClusterID is the default id of a cluster.
const ClusterID = "4L6g3nShT-eMCtK--X86sw"

// Config configures a cluster. The zero value is three brokers of Version. The first is also the
// controller, so the others can be killed without losing the quorum.
type Config struct {
	IDs        []int32  // node ids; nil: 0, 1, 2
	Voters     int      // number of controllers among the nodes; 0: one
	Version    string   // "": Version
	ClusterID  string   // 22 characters of base64url; "": ClusterID
	SASL       bool     // a third listener, see Cluster.SASL
	DirectSASL bool     // the third listener advertises the address it is bound to, for control runs
	KeyStore   string   // PEM file of a certificate and its key: the third listener uses TLS and requires client certificates
	TrustStore string   // PEM file of the CA of client certificates
	Properties []string // more lines for each node's properties
}

// Cluster is a running cluster.
type Cluster struct {
	dist  *distribution
	tools *distribution
	dir   string
	cfg   Config
	nodes []*node
	names atomic.Int64 // for Unique
}

// Start starts a cluster that ends with the test.
func Start(t testing.TB, cfg Config) *Cluster {
	t.Helper()
	c, err := New(t.Context(), t.TempDir(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		if t.Failed() {
			t.Logf("broker logs:\n%s", c.Log())
		}
	})
	return c
}

// New starts a cluster whose files are in dir and returns when every broker knows of every other.
func New(ctx context.Context, dir string, cfg Config) (*Cluster, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 10*time.Minute, errors.New("no cluster within ten minutes"))
	defer cancel()
	if cfg.Version == "" {
		cfg.Version = Version
	}
	dist, err := install(ctx, cfg.Version)
	if err != nil {
		return nil, err
	}
	c, err := newCluster(dist, dir, cfg)
	if err != nil {
		return nil, err
	}
	if c.tools, err = install(ctx, Version); err != nil {
		return nil, err
	}
	if err := c.launch(ctx); err != nil {
		c.Close()
		return nil, fmt.Errorf("start Apache Kafka %s: %w\n%s", cfg.Version, err, c.Log())
	}
	return c, nil
}

func (c *Cluster) launch(ctx context.Context) error {
	if err := c.format(ctx); err != nil {
		return err
	}
	for _, n := range c.nodes {
		if err := n.start(); err != nil {
			return err
		}
	}
	return c.WaitReady(ctx)
}

// newCluster picks the ports and writes the nodes' settings.
func newCluster(d *distribution, dir string, cfg Config) (*Cluster, error) {
	if cfg.IDs == nil {
		cfg.IDs = []int32{0, 1, 2}
	}
	if cfg.ClusterID == "" {
		cfg.ClusterID = ClusterID
	}
	cfg.Voters = max(cfg.Voters, 1)
	c := &Cluster{dist: d, tools: d, dir: dir, cfg: cfg}
	for i, id := range cfg.IDs {
		n, err := newNode(c, id, i < cfg.Voters)
		if err != nil {
			return nil, err
		}
		c.nodes = append(c.nodes, n)
	}
	if err := os.WriteFile(c.hostsFile(), []byte(c.controllerHosts()), 0o644); err != nil {
		return nil, err
	}
	for _, n := range c.nodes {
		if err := os.WriteFile(n.propertiesFile(), []byte(n.properties()), 0o644); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (c *Cluster) hostsFile() string { return filepath.Join(c.dir, "controller-hosts") }

// controllerHosts is the hosts file of the brokers' JVMs, which must resolve the controllers'
// names. Nothing else on the machine resolves them.
func (c *Cluster) controllerHosts() string {
	var b strings.Builder
	b.WriteString("127.0.0.1 localhost\n")
	if host, err := os.Hostname(); err == nil {
		fmt.Fprintf(&b, "127.0.0.1 %s\n", host)
	}
	for _, n := range c.nodes {
		if n.controller {
			fmt.Fprintf(&b, "127.0.0.1 %s\n", n.controllerHost())
		}
	}
	return b.String()
}

func (c *Cluster) voters() string {
	var voters []string
	for _, n := range c.nodes {
		if n.controller {
			voters = append(voters, fmt.Sprintf("%d@%s:%d", n.id, n.controllerHost(), n.ports.controller))
		}
	}
	return strings.Join(voters, ",")
}

// Bootstrap returns the addresses that the client listeners are bound to, for a gateway beside the
// brokers: 127.0.0.1:port, comma separated.
func (c *Cluster) Bootstrap() string { return c.addresses(func(p ports) int { return p.client }) }

// SASL returns the addresses of the third listener, which requires authentication: alice with
// alice-secret by PLAIN, bob with bob-secret by SCRAM-SHA-256 and SCRAM-SHA-512, any user by
// unsecured OAUTHBEARER.
func (c *Cluster) SASL() string { return c.addresses(func(p ports) int { return p.sasl }) }

// Internal returns the addresses of the listeners that a test may use directly.
func (c *Cluster) Internal() string { return c.addresses(func(p ports) int { return p.internal }) }

func (c *Cluster) addresses(port func(ports) int) string {
	var all []string
	for _, n := range c.nodes {
		all = append(all, loopback(port(n.ports)))
	}
	return strings.Join(all, ",")
}

// IDs returns the node ids.
func (c *Cluster) IDs() []int32 { return c.cfg.IDs }

// Hosts maps the names that the brokers advertise to their real addresses, like a name server
// inside the platform.
func (c *Cluster) Hosts() map[string]string {
	hosts := make(map[string]string)
	for _, n := range c.nodes {
		hosts[n.host()] = "127.0.0.1"
	}
	return hosts
}

// Kill kills a broker, as a crash does (SIGKILL).
func (c *Cluster) Kill(id int32) { c.node(id).process.Kill() }

// Stop stops a broker gracefully (SIGTERM). It first transfers its leaderships.
func (c *Cluster) Stop(id int32) {
	_ = c.node(id).process.Terminate(30 * time.Second) // the JVM's exit status is 143
}

// Restart starts a stopped broker again, at the same ports. It returns when the cluster is
// complete.
func (c *Cluster) Restart(ctx context.Context, id int32) error {
	if err := c.node(id).start(); err != nil {
		return err
	}
	return c.WaitReady(ctx)
}

func (c *Cluster) node(id int32) *node {
	for _, n := range c.nodes {
		if n.id == id {
			return n
		}
	}
	panic(fmt.Sprintf("no node %d in this cluster", id))
}

// Close kills all nodes.
func (c *Cluster) Close() {
	for _, n := range c.nodes {
		if n.process != nil {
			n.process.Kill()
		}
	}
}

// Log returns the end of each node's output.
func (c *Cluster) Log() string {
	var b strings.Builder
	for _, n := range c.nodes {
		if n.process != nil {
			fmt.Fprintf(&b, "node %d:\n%s\n", n.id, n.log())
		}
	}
	return b.String()
}

// Tool runs one of Kafka's command-line tools, or another class of its jars, with stdin. It returns
// the standard output.
func (c *Cluster) Tool(ctx context.Context, class, stdin string, args ...string) (string, error) {
	cmd := c.ToolCommand(class, args...)
	cmd.Stdin = strings.NewReader(stdin)
	return proc.Run(ctx, cmd)
}

// ToolCommand returns the command that Tool would run.
func (c *Cluster) ToolCommand(class string, args ...string) *exec.Cmd {
	return c.tools.java([]string{"-Xmx192m"}, class, args...)
}

func loopback(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// FreePorts returns n different free ports of 127.0.0.1. This process gets no port twice, since it
// binds them later. They are below those that the system uses for outgoing connections, which could
// otherwise take the port of a broker that is down for a moment.
func FreePorts(n int) ([]int, error) {
	var found []int
	for range 100 * n {
		port := 10000 + rand.IntN(10000)
		l, err := net.Listen("tcp", loopback(port))
		if err != nil {
			continue
		}
		l.Close()
		if _, given := givenPorts.LoadOrStore(port, nil); given {
			continue
		}
		if found = append(found, port); len(found) == n {
			return found, nil
		}
	}
	return nil, errors.New("no free ports between 10000 and 20000")
}

var givenPorts sync.Map // by port

// Command returns the command that runs a class of Version's jars without a cluster. It installs
// the jars if needed.
func Command(ctx context.Context, jvm []string, class string, args ...string) (*exec.Cmd, error) {
	d, err := install(ctx, Version)
	if err != nil {
		return nil, err
	}
	return d.java(jvm, class, args...), nil
}
