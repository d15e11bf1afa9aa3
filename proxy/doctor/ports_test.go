package doctor

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/culvert-proxy/culvert/proxy"
	"github.com/culvert-proxy/culvert/proxy/fakekafka"
	"github.com/culvert-proxy/culvert/proxy/metrics"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// listenOn takes a free port of loopback until the test ends.
func listenOn(t *testing.T) (address string, port int) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln.Addr().String(), ln.Addr().(*net.TCPAddr).Port
}

// local examines an agent's ports.
func local(t *testing.T, a *proxy.Agent, same func(args, environ []string, dir string) bool) (by map[string]Finding, failed int) {
	t.Helper()
	a.Upstream = proxy.NewDirect(&proxy.Brokers{Bootstrap: []string{"kafka:9092"}})
	_, by, failed = found(t, func(d *Doctor) { d.Agent, d.SameAgent = a, same }, func(d *Doctor) { d.Local(t.Context()) })
	return by, failed
}

// A port that another program has is a failure, which names the program. Once the program is gone,
// the port is free.
func TestAPortThatIsTaken(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux tells which program has a port")
	}
	me, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	holder := fmt.Sprintf("%.15s, process %d", filepath.Base(me), os.Getpid())
	bootstrap, port := listenOn(t)
	large := 1 + 9973*min(9973, int32(65537-port)) // has the same port as node 1
	a := &proxy.Agent{Listens: []proxy.Listen{{Bind: bootstrap, Host: "kafka.example.com"}}, BrokerPortBase: port - 1, ExpectNodes: []int32{1, 1, large, -5}}
	by, failed := local(t, a, nil)
	for hop, want := range map[string]struct{ text, remedy string }{
		"listen":                           {bootstrap + " is taken by " + holder, "--listen"},
		"port node 1":                      {bootstrap + " is taken by " + holder, "--node-address 1="},
		fmt.Sprintf("port node %d", large): {"broker 1 has that port", fmt.Sprintf("--node-address %d=", large)},
		"port node -5":                     {"node id", "--node-address -5="},
	} {
		if f := by[hop]; f.Result != Fail || !strings.Contains(f.Text, want.text) || !strings.Contains(f.Remedy, want.remedy) {
			t.Errorf("%s: %+v, want %q", hop, f, want)
		}
	}
	if v := by["verdict"]; failed != 4 || !strings.Contains(v.Text, "the bootstrap port is taken by another program") || !strings.Contains(v.Text, "and 1 more") {
		t.Errorf("%d failures, verdict %+v", failed, v)
	}
}

// On loopback, the agent serves a node on a spare port while its own is taken: a warning.
func TestANodeOnASparePort(t *testing.T) {
	taken, port := listenOn(t)
	a := &proxy.Agent{Listens: []proxy.Listen{{Bind: "127.0.0.1:0"}}, BrokerPortBase: port - 1, ExpectNodes: []int32{1}}
	by, failed := local(t, a, nil)
	if f := by["port node 1"]; failed != 0 || f.Result != Warn || !strings.HasPrefix(f.Text, taken+" is taken") || !strings.Contains(f.Text, "another port for this node") {
		t.Errorf("port node 1: %+v, %d failures", f, failed)
	}
}

// The agent that runs with the same settings is no failure.
func TestPortsOfTheRunningAgent(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux tells which program has a port")
	}
	bootstrap, port := listenOn(t)
	a := &proxy.Agent{Listens: []proxy.Listen{{Bind: bootstrap}}, BrokerPortBase: port - 7, ExpectNodes: []int32{7}}
	by, failed := local(t, a, func(args, environ []string, dir string) bool {
		here, _ := os.Getwd()
		return len(args) > 0 && args[0] == os.Args[0] && environ != nil && dir == here
	})
	if f := by["listen"]; failed != 0 || f.Result != OK || !strings.Contains(f.Text, fmt.Sprintf("with these settings (process %d)", os.Getpid())) {
		t.Errorf("listen: %+v, %d failures", f, failed)
	}
	if f := by["node ports"]; f.Result != OK || !strings.Contains(f.Text, "running agent listens for: node 7 at "+bootstrap) {
		t.Errorf("node ports: %+v", f)
	}
}

// A port that this process may not bind, and one of which nobody knows who has it.
func TestPortsThatCannotBeBound(t *testing.T) {
	for cause, want := range map[error]struct {
		result Result
		text   string
	}{
		syscall.EACCES:     {Fail, "permission denied"},
		syscall.EADDRINUSE: {Fail, "is taken; "},
	} {
		d := &Doctor{Names: flags, blind: true, listens: func(_, address string) (net.Listener, error) {
			return nil, &net.OpError{Op: "listen", Err: os.NewSyscallError("bind", cause)}
		}}
		h, err := d.tryPort("127.0.0.1:1") // on which nobody listens
		f := d.taken("127.0.0.1:1", h, err)
		if f.Result != want.result || !strings.Contains(f.Text, want.text) || strings.Count(f.Text, "127.0.0.1:1") != 1 {
			t.Errorf("%v: %+v, want %+v", cause, f, want)
		}
	}
}

// Nodes of the last run are known from the state file, and those of Metadata are examined too.
func TestPortsOfNodesThatAreLearnt(t *testing.T) {
	c := startCluster(t)
	address, certificate := startGateway(t, c, c.Resolver())
	_, port := listenOn(t)
	a := &proxy.Agent{Listens: []proxy.Listen{{Bind: "127.0.0.1:0"}}, BrokerPortBase: port - 2, NodeAddresses: map[int32]proxy.NodeAddress{
		0: {Bind: "127.0.0.1:0"}, 1: {Bind: "127.0.0.1:0"},
	}}
	_, by, failed := examine(t, func(d *Doctor) { d.Agent = a }, dialTo(t, address, certificate, "right"))
	if f := by["port node 2"]; f.Result != Warn || !strings.Contains(f.Text, "is taken") || failed != 0 {
		t.Errorf("port node 2: %+v, %d failures", f, failed)
	}
	if f := by["node ports"]; f.Result != OK || !strings.Contains(f.Text, "free: node 0 at 127.0.0.1:0, node 1 at 127.0.0.1:0") {
		t.Errorf("node ports: %+v", f)
	}
}

// Where nobody knows which program has the ports, what it answers tells whether it is the agent.
func TestARunningAgentIsKnownByItsAnswers(t *testing.T) {
	c, other := startCluster(t), startCluster(t, kfake.ClusterID("another"))
	address, certificate := startGateway(t, c, c.Resolver())
	dial := dialTo(t, address, certificate, "right")
	for _, test := range []struct {
		behind *fakekafka.Cluster // the agent that runs; nil: no agent does
		agent  Result
		text   string
	}{
		{c, OK, "leads to the same cluster, brokers 0 at 127.0.0.1:"},
		{other, Fail, "leads to another cluster: cluster another"},
		{nil, Fail, "for Metadata"},
	} {
		bootstrap, nodes := runAgent(t, test.behind)
		a := &proxy.Agent{Listens: []proxy.Listen{{Bind: bootstrap}}, NodeAddresses: nodes, ExpectNodes: []int32{0, 1, 2}, Upstream: proxy.NewDirect(&proxy.Brokers{Bootstrap: []string{"kafka:9092"}})}
		_, by, failed := found(t, func(d *Doctor) { d.Agent, d.blind = a, true }, func(d *Doctor) {
			d.Local(t.Context())
			d.Gateway(t.Context(), dial, []string{tunnel.TransportWS})
		})
		if f := by["listen"]; f.Result != Warn || !strings.Contains(f.Text, "nobody knows") {
			t.Errorf("listen: %+v", f)
		}
		if f := by["agent"]; f.Result != test.agent || !strings.Contains(f.Text, test.text) {
			t.Errorf("agent: %+v, want %s, %q", f, test.agent, test.text)
		}
		if f := by["node ports"]; test.agent == OK && (failed != 0 || f.Result != OK || !strings.Contains(f.Text, "the running agent listens for: node 0")) {
			t.Errorf("node ports: %+v, %d failures", f, failed)
		}
	}
}

// runAgent runs an agent in front of a cluster, or, without one, a listener that closes
// connections. It returns the bootstrap address, and those of the nodes.
func runAgent(t *testing.T, c *fakekafka.Cluster) (bootstrap string, nodes map[int32]proxy.NodeAddress) {
	t.Helper()
	nodes = map[int32]proxy.NodeAddress{}
	var free []net.Listener
	for id := range int32(3) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		free = append(free, ln)
		nodes[id] = proxy.NodeAddress{Bind: ln.Addr().String()}
	}
	if c == nil {
		for _, ln := range free {
			t.Cleanup(func() { ln.Close() })
		}
		go closeAll(free[0])
		return free[0].Addr().String(), nil
	}
	for _, ln := range free {
		ln.Close()
	}
	return serveAgent(t, c, &proxy.Agent{Listens: []proxy.Listen{{Bind: "127.0.0.1:0"}}, NodeAddresses: nodes}), nodes
}

// serveAgent runs an agent in front of a cluster, and returns the bootstrap address.
func serveAgent(t *testing.T, c *fakekafka.Cluster, a *proxy.Agent) string {
	t.Helper()
	listening := make(chan string, 1)
	a.Metrics = metrics.New(prometheus.NewRegistry(), metrics.Agent, "test")
	a.Upstream = proxy.NewDirect(&proxy.Brokers{Bootstrap: c.Bootstrap(), Resolver: c.Resolver(), Metrics: a.Metrics})
	a.Listening = func(bootstrap []string) { listening <- bootstrap[0] }
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return <-listening
}

func closeAll(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		c.Close()
	}
}
