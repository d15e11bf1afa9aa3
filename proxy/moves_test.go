package proxy

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/culvert-proxy/culvert/proxy/tunnel"
	"github.com/culvert-proxy/culvert/rewrite"
)

const hasAnotherAddress = "a broker has another address"

// wantReset fails unless the connection is reset, or ends before it answers.
func wantReset(t *testing.T, c *kafkaConn) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Read(make([]byte, 1)); err == nil || tunnel.IsTimeout(err) {
		t.Errorf("a connection to the former address of a broker ended with %v, want a reset", err)
	}
}

// The port of a node stays the same when its broker moves, so a client cannot see that its
// connection leads to another broker now. The agent sees it.
func TestConnectionsToTheFormerAddressOfABrokerAreReset(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		c := startCluster(t, 3)
		onePartitionEach(t, c, "t", 0, 1, 2)
		log := &memoryLog{}
		path := startPath(t, c, transport, func(a *Agent) { a.Logger = log.logger() })
		was := dialKafka(t, c.Bootstrap()[0]).brokers(t)
		dialKafka(t, path.address).brokers(t)
		unmoved := dialKafka(t, path.node(2))
		swapAddresses(t, c, 0, 1)
		lead(t, c, "t", 0, 1, 2)

		former := dialKafka(t, path.node(0))
		if err := former.produce("t", 0, "x"); !errors.Is(err, kerr.NotLeaderForPartition) {
			t.Fatalf("produce at the former address of node 0: %v, want that it is not the leader", err)
		}
		dialKafka(t, path.address).brokers(t)
		wantReset(t, former)
		waitFor(t, "the reset to be counted", func() bool { return series(t, path, "culvert_connection_closes_total", "moved") == 1 })
		for i, conn := range []*kafkaConn{dialKafka(t, path.node(0)), dialKafka(t, path.node(1)), unmoved} {
			if err := conn.produce("t", int32(i), fmt.Sprint(i)); err != nil {
				t.Errorf("produce to node %d at its new address: %v", i, err)
			}
		}
		dialKafka(t, path.address).brokers(t)
		wantStored(t, c, "t", numbered(0, 3))
		said := fmt.Sprintf("node_id=0 address=%s former_address=%s connections=1", was[1], was[0])
		if strings.Count(log.String(), hasAnotherAddress) != 1 || !strings.Contains(log.String(), said) {
			t.Errorf("the log does not say once that node 0 has another address: want %s in\n%s", said, log)
		}
	})
}

// A response on a connection to the former address is the only news that some clients get.
func TestTheNewsMayComeFromTheFormerAddress(t *testing.T) {
	c := startCluster(t, 3)
	onePartitionEach(t, c, "t", 0, 1)
	path := startPath(t, c, "ws", nil)
	dialKafka(t, path.address).brokers(t)
	swapAddresses(t, c, 0, 1)
	lead(t, c, "t", 0, 1)
	former := dialKafka(t, path.node(0))
	former.Write(metadataRequest(1))
	wantReset(t, former)
	if err := dialKafka(t, path.node(0)).produce("t", 0, "0"); err != nil {
		t.Errorf("produce to node 0 at its new address: %v", err)
	}
}

// movesOf is a table that records the moves that are due.
func movesOf(t *testing.T) (table *nodes, moved *[]move, says func(node int32, port int32)) {
	t.Helper()
	moved = &[]move{}
	table, _ = newTable(t, func(n *nodes) {
		n.listen = listenInMemory
		n.moved = func(m move) { *moved = append(*moved, m) }
	})
	says = func(node int32, port int32) {
		t.Helper()
		if _, _, err := table.learn(table.epoch(), "c", []rewrite.Broker{{NodeID: node, Host: "broker", Port: port}}); err != nil {
			t.Fatal(err)
		}
	}
	return table, moved, says
}

// Two brokers may disagree about an address for as long as they like. Each response moves the node,
// and that resets its connections seldom. When they agree at last, nothing is left at the other
// address.
func TestBrokersThatDisagreeResetConnectionsSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, moved, says := movesOf(t)
		says(0, 1)
		for i := range 6 * 3600 { // seconds
			says(0, int32(1+i%2))
			time.Sleep(time.Second)
		}
		// Seven waits that double from 5 s make 10 minutes, 36 of 10 minutes make 6 hours, and each
		// wait may be a tenth shorter.
		if n := len(*moved); n < 30 || n > 50 {
			t.Errorf("connections were reset %d times in 6 hours, want about 43", n)
		}
		*moved = nil
		for range 12 { // both brokers say the same
			says(0, 7)
			time.Sleep(time.Minute)
		}
		if diff := cmp.Diff([]string{"broker:7"}, addressesOf(*moved)); diff != "" {
			t.Errorf("moves when the brokers agree (-want +got):\n%s", diff)
		}
		time.Sleep(movesForgot)
		says(0, 8)
		time.Sleep(2 * moveWait)
		says(0, 9)
		if diff := cmp.Diff([]string{"broker:7", "broker:8", "broker:9"}, addressesOf(*moved)); diff != "" {
			t.Errorf("moves after a quiet time (-want +got):\n%s", diff)
		}
	})
}

func addressesOf(moved []move) (addresses []string) {
	for _, m := range moved {
		addresses = append(addresses, m.address)
	}
	return addresses
}

// A node that is named for the first time has not moved, nor has one of another cluster. One that a
// memory named at another address has.
func TestWhatIsNoMove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table, moved, says := movesOf(t)
		ticket := func(address string) []tunnel.Ticket {
			return []tunnel.Ticket{{ClusterID: "c", NodeID: 0, Address: address}}
		}
		for _, err := range []error{table.preload("a test", "c", ticket("file:1")), table.preload("a test", "c", ticket("broker:2"))} {
			if err != nil {
				t.Fatal(err)
			}
		}
		says(1, 1)
		says(1, 1)
		if len(*moved) > 0 {
			t.Errorf("moves before a response named node 0: %v", *moved)
		}
		says(0, 2) // as the second memory says; connections may have been dialled at the first
		if diff := cmp.Diff([]string{"broker:2"}, addressesOf(*moved)); diff != "" {
			t.Errorf("moves when a response has named node 0 (-want +got):\n%s", diff)
		}
		*moved = nil
		if _, _, err := table.learn(table.epoch(), "another", []rewrite.Broker{{NodeID: 0, Host: "broker", Port: 3}}); err != nil || len(*moved) > 0 {
			t.Errorf("another cluster: moves %v, %v", *moved, err)
		}
	})
}
