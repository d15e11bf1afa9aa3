package proxy

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/culvert-proxy/culvert/rewrite"
)

// take listens at an address as another process would, until release or the end of the test.
func take(t *testing.T, address string) (release func()) {
	t.Helper()
	ln, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return func() { ln.Close() }
}

const (
	toldASpare   = "a broker's own port cannot be used, clients are told a spare one"
	noListener   = "no listener for a broker"
	hasItsPort   = "broker has its own port again"
	withoutPorts = "culvert_nodes_without_port"
)

// A node whose port another process has is served on a spare one, and on its own as soon as that is
// free. Clients are never sent to that process.
func TestNodeWithoutItsPortIsServedOnASpareOne(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		c := startCluster(t, 3)
		onePartitionEach(t, c, "t", 0, 1, 2)
		base := freePortBase(t)
		own := net.JoinHostPort("127.0.0.1", strconv.Itoa(base+1))
		release := take(t, own)
		log := &memoryLog{}
		var agent *Agent
		path := startPath(t, c, transport, func(a *Agent) { a.BrokerPortBase, a.Logger, agent = base, log.logger(), a })

		told := dialKafka(t, path.address).brokers(t)
		if told[0] != path.node(0) || told[1] == own || told[2] != path.node(2) {
			t.Errorf("clients are told %v, want all but node 1 at their own ports", told)
		}
		for id := range int32(3) {
			if err := dialKafka(t, told[id]).produce("t", id, fmt.Sprint(id)); err != nil {
				t.Errorf("produce to node %d at %s: %v", id, told[id], err)
			}
		}
		if n := strings.Count(log.String(), toldASpare); n != 1 || !strings.Contains(log.String(), "--node-address 1=127.0.0.1:PORT") {
			t.Errorf("the log says %d times that node 1 has a spare port, want once with its remedy:\n%s", n, log)
		}
		if n := gauge(t, path, withoutPorts); n != 1 {
			t.Errorf("%v nodes without their port, want 1", n)
		}
		if l := agent.NodeListeners(); len(l) != 3 || l[1].NodeID != 1 || l[1].Address != told[1] || l[1].DeadEnd || !errors.Is(l[1].Err, syscall.EADDRINUSE) || l[0].Err != nil {
			t.Errorf("listeners are %v", l)
		}

		release()
		waitFor(t, "node 1 to have its own port", func() bool { return dialKafka(t, path.address).brokers(t)[1] == own })
		for value, address := range map[string]string{"3": own, "4": told[1]} {
			if err := dialKafka(t, address).produce("t", 1, value); err != nil {
				t.Errorf("produce to node 1 at %s: %v", address, err)
			}
		}
		wantStored(t, c, "t", numbered(0, 5))
		if n := strings.Count(log.String(), hasItsPort); n != 1 {
			t.Errorf("the log says %d times that node 1 has its port again, want once", n)
		}
		if n := gauge(t, path, withoutPorts); n != 0 {
			t.Errorf("%v nodes without their port, want none", n)
		}
	})
}

// Where clients do not connect over loopback, something may map ports, and a spare port would lead
// nowhere. Clients are told an address of this agent that closes at once, until the port is free.
func TestNodeWithoutItsPortIsADeadEndWherePortsMayBeMapped(t *testing.T) {
	c := startCluster(t, 2)
	base := freePortBase(t)
	release := take(t, net.JoinHostPort("127.0.0.1", strconv.Itoa(base+1)))
	log := &memoryLog{}
	var agent *Agent
	path := startPath(t, c, "ws", func(a *Agent) {
		a.BrokerPortBase, a.Logger, agent = base, log.logger(), a
		a.Listens[0].Host = "agent.example"
	})
	own := net.JoinHostPort("agent.example", strconv.Itoa(base+1))
	told := dialKafka(t, path.address).brokers(t)[1]
	_, port, _ := net.SplitHostPort(told)
	if told == own || !closesAtOnce(net.JoinHostPort("127.0.0.1", port)) {
		t.Errorf("clients of node 1 are told %s, which does not close at once", told)
	}
	if l := agent.NodeListeners(); len(l) != 2 || !l[1].DeadEnd || l[1].Err == nil {
		t.Errorf("listeners are %v", l)
	}
	for _, said := range []string{noListener, "only clients on loopback addresses can be given a spare port", "--broker-port-base"} {
		if strings.Count(log.String(), said) != 1 {
			t.Errorf("the log does not say %q once:\n%s", said, log)
		}
	}
	release()
	waitFor(t, "node 1 to have its own port", func() bool { return dialKafka(t, path.address).brokers(t)[1] == own })
}

func TestWhereASparePortCanStandIn(t *testing.T) {
	for _, test := range []struct {
		bind, host, spare string
	}{
		{"127.0.0.1:9092", "", "127.0.0.1"},
		{"127.0.0.1:9092", "localhost", "127.0.0.1"},
		{"localhost:9092", "", "localhost"},
		{"[::1]:9092", "", "::1"},
		{"[::1]:9092", "localhost", "::1"},
		{"127.0.0.2:9092", "", "127.0.0.2"},
		{"127.0.0.2:9092", "127.0.0.1", ""},
		{"127.0.0.2:9092", "localhost", ""},
		{"127.0.0.1:9092", "agent.example", ""},
		{"0.0.0.0:9092", "127.0.0.1", ""},
		{"192.0.2.1:9092", "", ""},
		{":9092", "localhost", ""},
	} {
		bind, told, err := NodePorts{Listens: []Listen{{Bind: test.bind, Host: test.host}}, Base: 19092}.place(0, 1)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := spareHost(bind, told); ok != (test.spare != "") || ok && got != test.spare {
			t.Errorf("for clients of %s=%s: %q, %v, want %q", test.bind, test.host, got, ok, test.spare)
		}
	}
	if _, ok := spareHost("127.0.0.1:7000", endpoint{"127.0.0.1", 7001}); ok {
		t.Error("a spare port stands in where ports are mapped")
	}
}

// portsInMemory are listeners of which some addresses are taken.
type portsInMemory struct {
	taken    map[string]bool
	attempts []time.Duration // of taken addresses, since the start
	started  time.Time
}

func (p *portsInMemory) listen(network, address string) (net.Listener, error) {
	if p.taken[address] {
		p.attempts = append(p.attempts, time.Since(p.started))
		return nil, syscall.EADDRINUSE
	}
	return listenInMemory(network, address)
}

func TestAPortIsTriedAgainAfterOneSecondAndSeldomLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := tableInMemory()
		log := &memoryLog{}
		ports := &portsInMemory{taken: map[string]bool{"127.0.0.1:19093": true}, started: time.Now()}
		table.NodePorts.Listens[0].Host = "agent.example" // no spare ports, which are real sockets
		table.nodeListeners.listen, table.log = ports.listen, log.logger()
		table.placeholders[0] = endpoint{"agent.example", 1}
		go table.rebind(t.Context())
		synctest.Wait() // it waits for a port that is missing
		if err := table.expect([]int32{0, 1}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		for i, want := range []time.Duration{0, 1, 3, 7, 15, 31, 61, 91} {
			want *= time.Second
			if got := ports.attempts[i]; got > want || got < want*9/10 {
				t.Errorf("attempt %d after %v, want %v less up to a tenth", i, got, want)
			}
		}
		if n := len(ports.attempts); n < 23 || n > 26 {
			t.Errorf("%d attempts in 10 minutes, want 24", n)
		}
		table.nodeListeners.mu.Lock() // which listen is called with
		ports.taken = nil
		table.nodeListeners.mu.Unlock()
		time.Sleep(lastRebind)
		synctest.Wait()
		if e, _ := table.local(0, 1); e.port != 19093 {
			t.Errorf("node 1 is at port %d, want 19093", e.port)
		}
		if n := strings.Count(log.String(), hasItsPort); n != 1 || !strings.Contains(log.String(), "after=10m") {
			t.Errorf("the log does not say once that node 1 has its port again, and after how long:\n%s", log)
		}
	})
}

// onlyAnyPort is net.Listen where every port is taken that is asked for by number.
func onlyAnyPort(network, address string) (net.Listener, error) {
	if !strings.HasSuffix(address, ":0") {
		return nil, syscall.EADDRINUSE
	}
	return net.Listen(network, address)
}

// A broker can name as many nodes as it likes whose ports are taken.
func TestSparePortsAreBounded(t *testing.T) {
	table, log := newTable(t, func(n *nodes) { n.nodeListeners.listen = onlyAnyPort })
	var brokers []rewrite.Broker
	for id := range int32(2 * maxNodes) {
		brokers = append(brokers, rewrite.Broker{NodeID: id, Host: "broker", Port: 1})
	}
	if _, _, err := table.learn(table.epoch(), "c", brokers); err != nil {
		t.Fatal(err)
	}
	spares := 0
	for _, l := range table.all() {
		if l.Err == nil {
			t.Errorf("node %d has its own port", l.NodeID)
		}
		if !l.DeadEnd {
			spares++
		}
	}
	if spares != maxSparePorts || len(table.opened) > maxNodes {
		t.Errorf("%d spare ports of %d nodes, want %d", spares, len(table.opened), maxSparePorts)
	}
	if n := strings.Count(log.String(), "node_id="); n != maxLogged {
		t.Errorf("%d nodes are logged, want %d", n, maxLogged)
	}
}

// told returns where clients of the only bootstrap address reach each node.
func told(table *nodes) map[int32]string {
	told := map[int32]string{}
	for _, l := range table.all() {
		told[l.NodeID] = l.Address
	}
	return told
}

// Ids too large for the base share a few ports. Where two nodes have the same one, the log says
// which setting helps, and neither is led to the other.
func TestTwoNodesWithTheSamePort(t *testing.T) {
	const small, large = 7, 7 + 6*largeIDs // 59845
	brokers := func(ids ...int32) (all []rewrite.Broker) {
		for _, id := range ids {
			all = append(all, rewrite.Broker{NodeID: id, Host: "broker", Port: 1 + id%100})
		}
		return all
	}
	learn := func(t *testing.T, table *nodes, brokers []rewrite.Broker) {
		t.Helper()
		if _, _, err := table.learn(table.epoch(), "c", brokers); err != nil {
			t.Fatal(err)
		}
	}
	newTable := func(t *testing.T) (*nodes, *memoryLog) {
		return newTable(t, func(n *nodes) { n.nodeListeners.listen = listenInMemory })
	}
	own := func(table *nodes) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(table.Base+7)) }

	t.Run("order of a response", func(t *testing.T) {
		for _, ids := range [][]int32{{small, large}, {large, small}} {
			table, log := newTable(t)
			learn(t, table, brokers(ids...))
			at := told(table)
			if at[small] != own(table) || at[large] == own(table) {
				t.Errorf("nodes are at %v, want node %d at %s", at, small, own(table))
			}
			if !strings.Contains(log.String(), fmt.Sprintf("--node-address %d=127.0.0.1:PORT", large)) || strings.Contains(log.String(), "--broker-port-base") {
				t.Errorf("the log names another setting than the one that helps:\n%s", log)
			}
			if next := table.rebindDue(time.Now().Add(time.Hour)); !next.IsZero() {
				t.Errorf("the port is tried again at %v", next)
			}
		}
	})
	t.Run("first one keeps it", func(t *testing.T) {
		table, _ := newTable(t)
		learn(t, table, brokers(large))
		learn(t, table, brokers(small, large))
		restarted, _ := newTable(t)
		restarted.Base = table.Base
		cluster, saved := table.snapshot()
		if err := restarted.preload("a test", cluster, saved); err != nil {
			t.Fatal(err)
		}
		for when, table := range map[string]*nodes{"before": table, "after": restarted} {
			if at := told(table); at[large] != own(table) || at[small] == own(table) {
				t.Errorf("%s a restart, nodes are at %v, want node %d at %s", when, at, large, own(table))
			}
		}
	})
	t.Run("exception", func(t *testing.T) {
		table, _ := newTable(t)
		table.Exceptions = map[int32]NodeAddress{3: {Bind: own(table)}}
		learn(t, table, brokers(large))
		learn(t, table, brokers(3))
		if at := told(table); at[3] != own(table) || at[large] == own(table) {
			t.Errorf("nodes are at %v, want node 3 at %s", at, own(table))
		}
	})
	t.Run("found beforehand", func(t *testing.T) {
		ports := NodePorts{Listens: []Listen{{Bind: "127.0.0.1:9092"}}, Base: 19092, Exceptions: map[int32]NodeAddress{9: {Bind: "0.0.0.0:19093", Advertise: "x:1"}}}
		var got []string
		for _, c := range ports.Conflicts([]int32{large, 0, 1, 2, small, 9, small}) {
			got = append(got, c.Error())
		}
		want := []string{"listen on 127.0.0.1:19093 for broker 1: broker 9 has that port", "listen on 127.0.0.1:19099 for broker 59845: broker 7 has that port"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("conflicts (-want +got):\n%s", diff)
		}
		steps := []int32{1000001, 1000002, 2000001, 2000002, 3000001, 304017429}
		if c := ports.Conflicts(steps); len(c) > 0 {
			t.Errorf("nodes %v: %v", steps, c)
		}
	})
}

// A cluster may have ids that are too large for any port, as those of WarpStream.
func TestNodesWithLargeIDsHaveTheSamePortsOnEveryAgent(t *testing.T) {
	c := startCluster(t, 1)
	ids := []int32{304017429, 1547451680}
	for _, id := range ids {
		if err := c.Add(id); err != nil {
			t.Fatal(err)
		}
	}
	onePartitionEach(t, c, "t", ids...)
	base := freePortBase(t)
	ports := NodePorts{Base: base}
	var at []map[int32]string
	for range 2 {
		path := startPath(t, c, "ws", func(a *Agent) { a.BrokerPortBase = base })
		told := dialKafka(t, path.address).brokers(t)
		for i, id := range ids {
			if want := path.node(ports.port(id) - int32(base)); told[id] != want {
				t.Errorf("node %d is at %s, want %s", id, told[id], want)
			}
			if err := dialKafka(t, told[id]).produce("t", int32(i), "x"); err != nil {
				t.Errorf("produce to node %d: %v", id, err)
			}
		}
		at = append(at, told)
		path.stop()
	}
	if diff := cmp.Diff(at[0], at[1]); diff != "" {
		t.Errorf("the second agent has other ports (-first +second):\n%s", diff)
	}
}
