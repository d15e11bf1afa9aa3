package proxy

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/culvert-proxy/culvert/proxy/fakekafka"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
	"github.com/culvert-proxy/culvert/rewrite"
)

// wantOnly fails if the cluster holds a record that was meant for another one. It returns how many
// there are.
func wantOnly(t *testing.T, c *fakekafka.Cluster, meant string) (n int) {
	t.Helper()
	for value, times := range stored(t, c, "t") {
		if n += times; !strings.HasPrefix(value, meant+"-") {
			t.Errorf("cluster %s holds the record %q", meant, value)
		}
	}
	return n
}

// produceMeant writes a record to each partition, at the leader that the cluster names, and returns
// how many were taken.
func produceMeant(t *testing.T, bootstrap, meant string) (n int) {
	t.Helper()
	request := kmsg.NewPtrMetadataRequest()
	response, err := dialKafka(t, bootstrap).ask(request, 9)
	if err != nil {
		t.Fatal(err)
	}
	metadata := response.(*kmsg.MetadataResponse)
	leaders := map[int32]string{}
	for _, b := range metadata.Brokers {
		leaders[b.NodeID] = net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port)))
	}
	for _, p := range metadata.Topics[0].Partitions {
		if dialKafka(t, leaders[p.Leader]).produce("t", p.Partition, fmt.Sprint(meant, "-", p.Partition)) == nil {
			n++
		}
	}
	return n
}

// Two agents with the same settings on one machine are in each other's way, for each wants the
// ports of the same node ids. The second gives its clients spare ports, and never leads a client of
// one cluster to a broker of the other.
func TestTwoAgentsWithTheSamePortsNeverMixTheirClusters(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		red := startCluster(t, 2, kfake.ClusterID("red"))
		blue := startCluster(t, 3, kfake.ClusterID("blue"))
		onePartitionEach(t, red, "t", 0, 1, 1)
		onePartitionEach(t, blue, "t", 0, 1, 2)
		first := startPath(t, red, transport, nil)
		if n := produceMeant(t, first.address, "red"); n != 3 {
			t.Errorf("%d of 3 records for red arrived", n)
		}
		log := &memoryLog{}
		second := startPath(t, blue, transport, func(a *Agent) { a.BrokerPortBase, a.Logger = first.base, log.logger() })
		if n := produceMeant(t, second.address, "blue"); n != 3 {
			t.Errorf("%d of 3 records for blue arrived", n)
		}
		for _, hint := range []string{"--node-address 0=", "--node-address 1=", "--broker-port-base"} {
			if !strings.Contains(log.String(), hint) {
				t.Errorf("the second agent does not tell of %s", hint)
			}
		}

		// A broker that joins red later finds the port of its id with blue.
		if err := red.Add(2); err != nil {
			t.Fatal(err)
		}
		lead(t, red, "t", 0, 1, 2)
		if n := produceMeant(t, first.address, "red"); n != 3 {
			t.Errorf("%d of 3 records for red arrived", n)
		}
		if err := dialKafka(t, second.node(2)).produce("t", 2, "blue-again"); err != nil {
			t.Errorf("produce to blue's node 2: %v", err)
		}
		if n := wantOnly(t, red, "red"); n != 6 {
			t.Errorf("red holds %d records, want 6", n)
		}
		if n := wantOnly(t, blue, "blue"); n != 4 {
			t.Errorf("blue holds %d records, want 4", n)
		}
	})
}

// portsOf are those on which the brokers of a cluster listen.
func portsOf(t *testing.T, c *fakekafka.Cluster) (ports []int) {
	t.Helper()
	for _, a := range c.Bootstrap() {
		_, port, _ := net.SplitHostPort(a)
		n, err := strconv.Atoi(port)
		if err != nil {
			t.Fatal(err)
		}
		ports = append(ports, n)
	}
	return ports
}

// anotherCluster is what an agent says, once, when another cluster answers.
func anotherCluster(now, former string) string {
	return "cluster " + now + " answers instead of cluster " + former + ", whose nodes were dropped and connections reset"
}

func TestClusterRecreatedAtTheSameAddresses(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		old := startCluster(t, 3, kfake.ClusterID("old"), kfake.SeedTopics(3, "t"))
		log := &memoryLog{}
		path := startPath(t, old, transport, func(a *Agent) { a.Logger = log.logger() })
		client := newClient(t, path.address)
		produce(t, client, "t", 30)
		ports := portsOf(t, old)
		wantStored(t, old, "t", numbered(0, 30))
		old.Close()
		recreated := startCluster(t, 3, kfake.ClusterID("new"), kfake.SeedTopics(3, "t", "new"), kfake.Ports(ports...))
		lead(t, recreated, "t", 0, 1, 2)
		comeBack(t, path.node(0), "t", 0, "x")
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		// kgo itself refuses to go on with a topic whose id has changed.
		if err := client.ProduceSync(ctx, &kgo.Record{Topic: "new", Value: []byte("y")}).FirstErr(); err != nil {
			t.Errorf("produce to the new cluster: %v", err)
		}
		wantStored(t, recreated, "t", map[string]int{"x": 1})
		wantStored(t, recreated, "new", map[string]int{"y": 1})
		if n := strings.Count(log.String(), anotherCluster("new", "old")); n != 1 {
			t.Errorf("said %d times that another cluster answers, want once", n)
		}
		if !strings.Contains(log.String(), "cluster_id=new former_cluster_id=old") {
			t.Errorf("the log does not name both clusters:\n%s", log)
		}
	})
}

// When a bootstrap address leads to another cluster, and the one before is still there, nobody is
// left at the old one: its connections are reset, and every port leads to the new one.
func TestBootstrapPointedAtAnotherCluster(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		red := startCluster(t, 2, kfake.ClusterID("red"))
		blue := startCluster(t, 2, kfake.ClusterID("blue"))
		onePartitionEach(t, red, "t", 0, 1)
		onePartitionEach(t, blue, "t", 0, 1)
		bootstrap := newCrossing(t, red.Bootstrap()...)
		log := &memoryLog{}
		path := startAgent(t, waysTo(t, []string{bootstrap.address()}, transport, nil)(), func(a *Agent) { a.Logger = log.logger() })
		seed := dialKafka(t, path.address)
		seed.brokers(t)
		var theirs []*kafkaConn
		for id := range int32(2) {
			c := dialKafka(t, path.node(id))
			if err := c.produce("t", id, "red-"); err != nil {
				t.Fatal(err)
			}
			theirs = append(theirs, c)
		}

		bootstrap.lead(blue.Bootstrap()...)
		dialKafka(t, path.address).brokers(t)
		for _, c := range append(theirs, seed) {
			if _, err := c.Read(make([]byte, 1)); err == nil || tunnel.IsTimeout(err) {
				t.Errorf("a connection to the old cluster ended with %v, want a reset", err)
			}
		}
		for id := range int32(2) {
			if err := dialKafka(t, path.node(id)).produce("t", id, "blue-"); err != nil {
				t.Errorf("produce to node %d: %v", id, err)
			}
		}
		client := newClient(t, path.address)
		if err := client.ProduceSync(t.Context(), &kgo.Record{Topic: "t", Value: []byte("blue-")}).FirstErr(); err != nil {
			t.Error(err)
		}
		if n := wantOnly(t, red, "red"); n != 2 {
			t.Errorf("red holds %d records, want 2", n)
		}
		if n := wantOnly(t, blue, "blue"); n != 3 {
			t.Errorf("blue holds %d records, want 3", n)
		}
		if n := strings.Count(log.String(), anotherCluster("blue", "red")); n != 1 {
			t.Errorf("said %d times that another cluster answers, want once", n)
		}
	})
}

// A response of the old cluster that is still on its way when the new one has answered does not
// bring the old one back.
func TestLateResponseOfTheOldClusterIsNotLearnt(t *testing.T) {
	table, _ := newTable(t, nil)
	at := func(port int32) []rewrite.Broker { return []rewrite.Broker{{NodeID: 0, Host: "127.0.0.1", Port: port}} }
	before := table.epoch()
	if _, _, err := table.learn(before, "old", append(at(1), rewrite.Broker{NodeID: 1, Host: "127.0.0.1", Port: 3})); err != nil {
		t.Fatal(err)
	}
	if _, dropped, err := table.learn(before, "new", at(2)); dropped != "old" || err != nil {
		t.Fatalf("learn = %q, %v, want the old cluster dropped", dropped, err)
	}
	for _, cluster := range []string{"old", ""} { // FindCoordinator names no cluster
		want := "cluster new answers instead of cluster old, which this connection leads to"
		if cluster == "" {
			want = "cluster new has answered since this connection was opened"
		}
		if _, dropped, err := table.learn(before, cluster, at(1)); dropped != "" || err == nil || err.Error() != want {
			t.Errorf("learn(%q) on a connection from before = %q, %v, want %q", cluster, dropped, err, want)
		}
	}
	if _, ok := table.lookup(1); ok {
		t.Error("node 1 of the old cluster is still known, and the new one has not named it")
	}
	// The connection on which the new cluster answered belongs to it from then on.
	now, _, err := table.learn(before, "new", at(2))
	if err != nil {
		t.Errorf("learn of the same cluster on a connection from before: %v", err)
	}
	if _, _, err := table.learn(now, "", at(2)); err != nil {
		t.Errorf("FindCoordinator on the connection that brought the new cluster: %v", err)
	}
	if r, _ := table.lookup(0); r.address != "127.0.0.1:2" || table.cluster != "new" {
		t.Errorf("node 0 is at %s of %s, want 127.0.0.1:2 of new", r.address, table.cluster)
	}
	if _, dropped, err := table.learn(table.epoch(), "old", at(1)); dropped != "new" || err != nil {
		t.Errorf("learn on a new connection = %q, %v, want the cluster that answers now", dropped, err)
	}
}

// A gateway may remember a cluster that is gone. What it says counts as long as no broker has said
// otherwise.
func TestPreloadedNodesDoNotOverrideResponses(t *testing.T) {
	table, _ := newTable(t, nil)
	ticket := func(cluster, address string) []tunnel.Ticket {
		return []tunnel.Ticket{{ClusterID: cluster, NodeID: 0, Address: address, MAC: []byte{1}, Expires: time.Now().Add(time.Hour).Unix()}}
	}
	for _, step := range []struct {
		recall func() error
		want   string
	}{
		{func() error { return table.preload("a test", "red", ticket("red", "file:1")) }, "file:1"},
		{func() error { return table.preload("a test", "blue", ticket("blue", "gateway:1")) }, "gateway:1"},
		{func() error {
			_, _, err := table.learn(table.epoch(), "green", []rewrite.Broker{{NodeID: 0, Host: "broker", Port: 1}})
			return err
		}, "broker:1"},
		{func() error { return table.preload("a test", "green", ticket("green", "gateway:2")) }, "broker:1"},
		{func() error { return table.preload("a test", "red", ticket("red", "gateway:3")) }, "broker:1"},
	} {
		if err := step.recall(); err != nil {
			t.Fatal(err)
		}
		if r, _ := table.lookup(0); r.address != step.want {
			t.Errorf("node 0 is at %s, want %s", r.address, step.want)
		}
	}
}

// startReplicas starts two agents behind one address: a balancer takes turns between them, on the
// bootstrap port and on the port of each node.
func startReplicas(t *testing.T, c *fakekafka.Cluster, transport string, nodes ...int32) (bootstrap string, replicas []running, places []map[int32]NodeAddress) {
	t.Helper()
	up := waysTo(t, c.Bootstrap(), transport, func(g *Gateway) { g.TicketKeys = keysOf("key") })
	front := map[int32]net.Listener{}
	places = []map[int32]NodeAddress{{}, {}}
	targets := map[int32][]string{}
	base := freePortBase(t)
	for _, id := range nodes {
		front[id] = listenLoopback(t)
		for i := range places {
			bind := net.JoinHostPort("127.0.0.1", strconv.Itoa(base))
			base++
			places[i][id] = NodeAddress{Bind: bind, Advertise: front[id].Addr().String()}
			targets[id] = append(targets[id], bind)
		}
	}
	var bootstraps []string
	for i := range places {
		replica := startAgent(t, up(), func(a *Agent) { a.NodeAddresses, a.ExpectNodes = places[i], nodes })
		replicas = append(replicas, replica)
		bootstraps = append(bootstraps, replica.address)
	}
	for _, id := range nodes {
		newCrossingOn(t, front[id], targets[id]...)
	}
	return newCrossing(t, bootstraps...).address(), replicas, places
}

func TestTwoReplicasBehindOneAddress(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		c := startCluster(t, 3, kfake.SeedTopics(6, "t"))
		bootstrap, replicas, _ := startReplicas(t, c, transport, 0, 1, 2)
		const n = 300
		for i := range 6 {
			produceFrom(t, newClient(t, bootstrap), "t", i*n/6, n/6)
		}
		group := newClient(t, bootstrap, kgo.ConsumerGroup("g"), kgo.ConsumeTopics("t"))
		if got := len(consume(t, group, n)); got != n {
			t.Errorf("consumed %d different records, want %d", got, n)
		}
		wantStored(t, c, "t", numbered(0, n))
		for i, r := range replicas {
			if requests := gauge(t, r, "culvert_requests_total"); requests == 0 {
				t.Errorf("replica %d has relayed nothing", i)
			}
		}
	})
}

// A replica that has seen no response yet, since the balancer sent the client's Metadata request to
// the other one, finds the node that the client comes to.
func TestReplicaThatHasSeenNothingFindsTheNode(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		c := startCluster(t, 2)
		onePartitionEach(t, c, "t", 0, 1)
		_, _, places := startReplicas(t, c, transport, 0, 1)
		if err := dialKafka(t, places[1][1].Bind).produce("t", 1, "0"); err != nil {
			t.Error(err)
		}
	})
}
