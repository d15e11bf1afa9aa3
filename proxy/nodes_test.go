package proxy

import (
	"context"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/culvert-proxy/culvert/proxy/fakekafka"
	"github.com/culvert-proxy/culvert/proxy/metrics"
	"github.com/culvert-proxy/culvert/rewrite"
)

func TestNodeListensOnPortBasePlusItsID(t *testing.T) {
	table := NodePorts{
		Listens: []Listen{
			{Bind: "127.0.0.1:9092"},
			{Bind: "0.0.0.0:9092", Host: "agent.example"},
			{Bind: "[::1]:9092"},
		},
		Base:       19092,
		Exceptions: map[int32]NodeAddress{7: {Bind: "127.0.0.1:7000"}, 46444: {Bind: "0.0.0.0:7001", Advertise: "kafka.example:443"}},
	}
	for _, test := range []struct {
		listen         int
		id             int32
		bind, answered string
	}{
		{0, 0, "127.0.0.1:19092", "127.0.0.1:19092"},
		{0, 1001, "127.0.0.1:20093", "127.0.0.1:20093"},
		{0, 46443, "127.0.0.1:65535", "127.0.0.1:65535"},
		{1, 3, "0.0.0.0:19095", "agent.example:19095"},
		{2, 3, "[::1]:19095", "[::1]:19095"},
		{0, 7, "127.0.0.1:7000", "127.0.0.1:7000"},
		{1, 7, "127.0.0.1:7000", "127.0.0.1:7000"},
		{2, 46444, "0.0.0.0:7001", "kafka.example:443"},
		{0, 46445, "127.0.0.1:25645", "127.0.0.1:25645"}, // 46445 is 4·9973 + 6553
		{1, 304017429, "0.0.0.0:19589", "agent.example:19589"},
		{0, 1<<31 - 1, "127.0.0.1:26622", "127.0.0.1:26622"},
	} {
		bind, answered, err := table.Of(test.listen, test.id)
		if err != nil || bind != test.bind || answered != test.answered {
			t.Errorf("Of(%d, %d) = %s, %s, %v, want %s, %s", test.listen, test.id, bind, answered, err, test.bind, test.answered)
		}
	}
	for _, base := range []int{1, 1024, 55562, 55563, 65000, 65535} {
		table.Base = base
		for id := int32(1 << 30); id > 0; id /= 3 {
			if port := int(table.port(id)); port < base || port > 65535 {
				t.Errorf("with base %d, node %d has port %d", base, id, port)
			}
		}
	}
}

func TestNodeAddressesPlaceNodesThatDoNotFit(t *testing.T) {
	c := startCluster(t, 1)
	if err := c.Add(46444); err != nil {
		t.Fatal(err)
	}
	onePartitionEach(t, c, "t", 0, 46444)
	other := net.JoinHostPort("127.0.0.1", strconv.Itoa(freePortBase(t)))
	path := startPath(t, c, "ws", func(a *Agent) { a.NodeAddresses = map[int32]NodeAddress{46444: {Bind: other}} })
	if got := dialKafka(t, path.address).brokers(t)[46444]; got != other {
		t.Errorf("node 46444 is at %s, want %s", got, other)
	}
	client := newClient(t, path.address)
	produce(t, client, "t", 100)
	wantStored(t, c, "t", numbered(0, 100))
}

// A client produces while brokers come, go and move.
func TestBrokersComeGoAndMove(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		c := startCluster(t, 3, kfake.SeedTopics(6, "t"))
		path := startPath(t, c, transport, nil)
		client := newClient(t, path.address, kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
		sent := 0
		step := func(what string, err error) {
			t.Helper()
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			produceFrom(t, client, "t", sent, 60)
			sent += 60
		}
		step("start", nil)
		step("add 4", c.Add(4))
		lead(t, c, "t", 4, 4, 0, 1)
		step("lead 4", nil)
		step("remove 4", c.RemoveNode(4))
		step("remove 1", c.RemoveNode(1))
		step("bring 1 back elsewhere", c.Add(1))
		lead(t, c, "t", 1, 1, 1)
		step("lead 1", nil)
		swapAddresses(t, c, 0, 2)
		lead(t, c, "t", 0, 2, 0, 2, 0, 2)
		step("swap 0 and 2", nil)
		wantStored(t, c, "t", numbered(0, sent))
		for i, id := range []int32{0, 2, 0, 2} {
			if err := dialKafka(t, path.node(id)).produce("t", int32(i), "last"); err != nil {
				t.Errorf("produce to node %d at its new address: %v", id, err)
			}
		}
	})
}

// swapAddresses restarts two brokers, each at the address of the other.
func swapAddresses(t *testing.T, c *fakekafka.Cluster, a, b int32) {
	t.Helper()
	was := dialKafka(t, c.Bootstrap()[0]).brokers(t)
	for _, err := range []error{c.RemoveNode(a), c.RemoveNode(b), c.AddAt(a, was[b]), c.AddAt(b, was[a])} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// What led to the old addresses leads to the new ones without a client that asks a bootstrap
// address, or any other broker, for metadata.
func TestNodeIsFoundAgainAfterAllBrokersMoved(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		c := startCluster(t, 3)
		bootstrap := newCrossing(t, c.Bootstrap()[0])
		path := startAgent(t, waysTo(t, []string{bootstrap.address()}, transport, nil)(), nil)
		dialKafka(t, path.address).brokers(t)
		base := freePortBase(t) // and the old ports stay free, so that nobody answers there
		for id := range int32(3) {
			address := net.JoinHostPort(fakekafka.Host(id), strconv.Itoa(base+int(id)))
			for _, err := range []error{c.Add(id + 10), c.RemoveNode(id), c.AddAt(id, address), c.RemoveNode(id + 10)} {
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		bootstrap.lead(c.Bootstrap()[0])
		bootstrap.cut()
		onePartitionEach(t, c, "t", 0, 1, 2)
		for id := range int32(3) {
			comeBack(t, path.node(id), "t", id, strconv.Itoa(int(id)))
		}
		wantStored(t, c, "t", numbered(0, 3))
	})
}

// newTable is a table of nodes without an agent around it.
func newTable(t *testing.T, change func(*nodes)) (*nodes, *memoryLog) {
	t.Helper()
	log := &memoryLog{}
	table := &nodes{
		nodeListeners: nodeListeners{
			NodePorts: NodePorts{Listens: []Listen{{Bind: "127.0.0.1:0"}}, Base: freePortBase(t)}, log: log.logger(), names: flags,
			serve:   func(ln net.Listener, _ int, _ int32) { t.Cleanup(func() { ln.Close() }) },
			metrics: metrics.New(prometheus.NewRegistry(), metrics.Agent, "test"),
		},
		changed: func() {}, moved: func(move) {},
	}
	if change != nil {
		change(table)
	}
	table.init()
	return table, log
}

func TestTwoListensTellEachClientItsOwnHost(t *testing.T) {
	hosts := []string{"host.example", "containers.example"}
	c := startCluster(t, 2, kfake.SeedTopics(4, "t"))
	var bound []string
	path := startPath(t, c, "ws", func(a *Agent) {
		a.Listens = []Listen{{Bind: "127.0.0.1:0", Host: hosts[0]}, {Bind: "[::1]:0", Host: hosts[1]}}
		listening := a.Listening
		a.Listening = func(b []string) { bound = b; listening(b) }
	})
	for i, host := range hosts {
		for id, got := range dialKafka(t, bound[i]).brokers(t) {
			if want := net.JoinHostPort(host, strconv.Itoa(path.base+int(id))); got != want {
				t.Errorf("a client of %s is told of node %d at %s, want %s", host, id, got, want)
			}
		}
		bind, _, _ := net.SplitHostPort(bound[i])
		resolve := kgo.Dialer(func(ctx context.Context, network, address string) (net.Conn, error) {
			h, port, _ := net.SplitHostPort(address)
			if h != host && address != bound[i] {
				t.Errorf("a client of %s dials %s", host, address)
			}
			return new(net.Dialer).DialContext(ctx, network, net.JoinHostPort(bind, port))
		})
		produceFrom(t, newClient(t, bound[i], resolve), "t", 50*i, 50)
	}
	wantStored(t, c, "t", numbered(0, 100))
}

func TestIPv6(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		c := startCluster(t, 2, kfake.SeedTopics(4, "t"))
		path := startPath(t, c, transport, func(a *Agent) { a.Listens = []Listen{{Bind: "[::1]:0"}} })
		for id, got := range dialKafka(t, path.address).brokers(t) {
			if got != path.node(id) || !strings.HasPrefix(got, "[::1]:") {
				t.Errorf("node %d is at %s, want %s", id, got, path.node(id))
			}
		}
		produce(t, newClient(t, path.address), "t", 50)
		wantStored(t, c, "t", numbered(0, 50))
	})
}

// A response may name more brokers than any cluster has. It is served; the agent opens a bounded
// number of listeners and says so once.
func TestTenThousandBrokers(t *testing.T) {
	for _, transport := range []string{"ws", "direct"} {
		t.Run(transport, func(t *testing.T) {
			const n = 10_000
			broker := fakeBroker(t, answering(func(key, _ int16, id int32) []byte { return metadata(id, n) }))
			log := &memoryLog{}
			path := startAgent(t, waysTo(t, []string{broker}, transport, nil)(), func(a *Agent) { a.Logger = log.logger() })
			c := dialKafka(t, path.address)
			for range 2 {
				response, err := c.ask(kmsg.NewPtrMetadataRequest(), 1)
				if err != nil {
					t.Fatal(err)
				}
				brokers := response.(*kmsg.MetadataResponse).Brokers
				addresses := map[string]bool{}
				for _, b := range brokers {
					if b.Host != "127.0.0.1" {
						t.Fatalf("node %d is at %s", b.NodeID, b.Host)
					}
					addresses[net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port)))] = true
				}
				if len(brokers) != n || len(addresses) > maxNodes+1 {
					t.Errorf("%d brokers at %d addresses, want %d at %d or fewer", len(brokers), len(addresses), n, maxNodes+1)
				}
				last := brokers[n-1]
				if a := net.JoinHostPort(last.Host, strconv.Itoa(int(last.Port))); !closesAtOnce(a) {
					t.Errorf("node %d is at %s, which does not close at once", n-1, a)
				}
			}
			if times := strings.Count(log.String(), errTooManyNodes.Error()); times != 1 {
				t.Errorf("said %d times that there are too many nodes, want once", times)
			}
			if nodes := gauge(t, path, "culvert_nodes"); nodes > maxNodes {
				t.Errorf("the table has %v nodes", nodes)
			}
		})
	}
}

// A broker that is down is dialled where a response has just said it is, and the cluster is not
// asked for it with each attempt of a client; an address that a gateway refuses is asked for at
// once.
func TestAFreshNodeDoesNotGoStale(t *testing.T) {
	table, _ := newTable(t, nil)
	known := func() bool { _, ok := table.lookup(0); return ok }
	if _, _, err := table.learn(table.epoch(), "c", []rewrite.Broker{{NodeID: 0, Host: "broker", Port: 1}}); err != nil {
		t.Fatal(err)
	}
	if table.markStale(0, "broker:1", false); !known() {
		t.Error("a node that was named just now is stale because it was not reached")
	}
	if table.markStale(0, "broker:2", true); !known() {
		t.Error("a node is stale because another address was refused")
	}
	if table.markStale(0, "broker:1", true); known() {
		t.Error("a node whose address was refused is not stale")
	}
	table.learn(table.epoch(), "c", []rewrite.Broker{{NodeID: 0, Host: "broker", Port: 1}})
	n := table.known[0]
	n.namedAt = time.Now().Add(-2 * freshFor)
	table.known[0] = n
	if table.markStale(0, "broker:1", false); known() {
		t.Error("a node that was not reached where it was long ago is not stale")
	}
}
