package test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/culvert-proxy/culvert/test/clients"
	"github.com/culvert-proxy/culvert/test/kafka"
)

// TestEachListenerLeadsToItsNode asks each broker for its log folder, which only that broker knows.
func TestEachListenerLeadsToItsNode(t *testing.T) {
	eachWay(t, func(t *testing.T, p *path) { p.checkNodes(t) })
}

// checkNodes compares the log folder of each broker with its node id.
func (p *path) checkNodes(t *testing.T) {
	t.Helper()
	topic := p.cluster.Topic(t, "nodes")
	set := make(kadm.TopicsSet)
	set.Add(topic, 0, 1, 2)
	all, err := kadm.NewClient(p.franz(t)).DescribeAllLogDirs(t.Context(), set)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != len(p.cluster.IDs()) {
		t.Errorf("%d brokers answered, want %d", len(all), len(p.cluster.IDs()))
	}
	for id, dirs := range all {
		for dir := range dirs {
			if !strings.HasSuffix(dir, fmt.Sprintf("node-%d", id)) {
				t.Errorf("the listener of node %d reached the broker with %s", id, dir)
			}
		}
	}
}

// TestNodesWithLargeIDs runs the newest brokers with large node ids, as managed clusters have them.
// The clients of this version check the node id of the broker that they connect to (KIP-1242).
func TestNodesWithLargeIDs(t *testing.T) {
	needReal(t)
	installClients(t, clients.Java)
	bed, err := newTestbed(t.Context(), t.TempDir(), kafka.Config{IDs: []int32{0, 1001}, Version: kafka.Next}, (*kafka.Cluster).Bootstrap, append(transports, snowflake)...)
	if err != nil {
		t.Fatal(err)
	}
	closeWith(t, bed)
	bed.each(t, append(transports, snowflake), func(t *testing.T, p *path) {
		p.checkNodes(t)
		topic := p.cluster.Topic(t, "ids-"+p.transport)
		produce(t, p.franz(t), numbered(topic, 100))
		out, err := kcat(t, p.bootstrap, "", "-L", "-t", topic)
		if err != nil {
			t.Fatal(err)
		}
		wantIn(t, out, "broker 1001 at "+p.nodeAddress(1001))
		p.roundtrips(t, clients.Java)
	})
}
