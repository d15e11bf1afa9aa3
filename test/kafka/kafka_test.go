package kafka

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func TestClusterAdvertisesUnresolvableNames(t *testing.T) {
	Need(t)
	c := Start(t, Config{Voters: 3})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	t.Run("brokers", func(t *testing.T) {
		response := request(t, ctx, c.Bootstrap(), kmsg.NewPtrMetadataRequest()).(*kmsg.MetadataResponse)
		if len(response.Brokers) != 3 {
			t.Errorf("%d brokers, want 3", len(response.Brokers))
		}
		for _, b := range response.Brokers {
			if !strings.HasSuffix(b.Host, Domain) {
				t.Errorf("broker %d advertises %q", b.NodeID, b.Host)
			}
		}
	})
	t.Run("controllers", func(t *testing.T) {
		quorum := kmsg.NewPtrDescribeQuorumRequest()
		quorum.Topics = []kmsg.DescribeQuorumRequestTopic{{Topic: "__cluster_metadata", Partitions: []kmsg.DescribeQuorumRequestTopicPartition{{Partition: 0}}}}
		response := request(t, ctx, c.Bootstrap(), quorum).(*kmsg.DescribeQuorumResponse)
		if len(response.Nodes) != 3 {
			t.Errorf("%d controllers, want 3", len(response.Nodes))
		}
		for _, n := range response.Nodes {
			for _, l := range n.Listeners {
				if !strings.HasSuffix(l.Host, Domain) {
					t.Errorf("controller %d advertises %q", n.NodeID, l.Host)
				}
			}
		}
	})
}

func TestBrokerRestartsAfterAKill(t *testing.T) {
	Need(t)
	c := Start(t, Config{})
	c.Kill(2)
	if err := c.Restart(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	out, err := c.Tool(t.Context(), ClusterTool, "", "cluster-id", "--bootstrap-server", c.Internal())
	if err != nil || !strings.Contains(out, ClusterID) {
		t.Fatalf("cluster-id = %q, %v", out, err)
	}
}

func TestNextVersionStarts(t *testing.T) {
	Need(t)
	Start(t, Config{IDs: []int32{7}, Version: Next, SASL: true})
}

func request(t *testing.T, ctx context.Context, seeds string, r kmsg.Request) kmsg.Response {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(seeds, ",")...))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	response, err := client.SeedBrokers()[0].Request(ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	return response
}

// A cluster gets all its ports first and binds them later.
func TestPortsAreGivenOnce(t *testing.T) {
	given := map[int]bool{}
	for range 300 { // of ten thousand: without memory some of 1,200 are the same almost surely
		ports, err := FreePorts(4)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range ports {
			if given[p] {
				t.Fatalf("port %d was given twice", p)
			}
			given[p] = true
		}
	}
}
