package test

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
)

// brokerAddress is an address in a response, and the node id beside it.
type brokerAddress struct {
	id   int32
	host string
	port int32
}

// addressRequest is a request whose response contains addresses.
type addressRequest struct {
	key      kmsg.Key
	versions []int
	node     int32 // which broker is asked
	request  func(topic kadm.TopicDetail) kmsg.Request
	named    func(kmsg.Response) []brokerAddress
}

// TestEveryResponseThatNamesBrokers sends real brokers each request whose response can contain an
// address, at every version. Node N must be at the listener of node N.
func TestEveryResponseThatNamesBrokers(t *testing.T) {
	eachWay(t, func(t *testing.T, p *path) {
		topic := p.topicOnNodeOne(t)
		for _, a := range questions {
			for _, version := range a.versions {
				t.Run(fmt.Sprintf("%s/v%d", kmsg.NameForKey(a.key.Int16()), version), func(t *testing.T) { p.ask(t, a, int16(version), topic) })
			}
		}
	})
}

// topicOnNodeOne creates a topic whose only replica is on node 1. The other brokers answer with a
// hint that names the leader.
func (p *path) topicOnNodeOne(t *testing.T) kadm.TopicDetail {
	t.Helper()
	request := kmsg.NewPtrCreateTopicsRequest()
	topic := kmsg.NewCreateTopicsRequestTopic()
	topic.Topic = p.cluster.Unique("hints-" + p.transport)
	topic.NumPartitions, topic.ReplicationFactor = -1, -1
	topic.ReplicaAssignment = []kmsg.CreateTopicsRequestTopicReplicaAssignment{{Partition: 0, Replicas: []int32{1}}}
	request.Topics = append(request.Topics, topic)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := p.franz(t).Request(ctx, request); err != nil {
		t.Fatal(err)
	}
	admin := p.cluster.Admin(t)
	for ctx.Err() == nil {
		found, err := admin.ListTopics(ctx, topic.Topic)
		if err == nil && found[topic.Topic].Err == nil && found[topic.Topic].Partitions[0].Leader == 1 {
			return found[topic.Topic]
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatal("topic without a leader")
	return kadm.TopicDetail{}
}

// ask sends one request at one version and checks every address of the response.
func (p *path) ask(t *testing.T, a addressRequest, version int16, topic kadm.TopicDetail) {
	pin := kversion.Stable()
	pin.SetMaxKeyVersion(a.key.Int16(), version)
	client := p.franz(t, kgo.MaxVersions(pin))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := client.Ping(ctx); err != nil { // learns the nodes
		t.Fatal(err)
	}
	found := addressesIn(t, ctx, client, a, version, topic)
	for _, n := range found {
		if got := fmt.Sprintf("%s:%d", n.host, n.port); got != p.nodeAddress(int(n.id)) {
			t.Errorf("node %d has address %s, want %s", n.id, got, p.nodeAddress(int(n.id)))
		}
	}
}

// addressesIn returns the addresses in the response. It retries, since the first request for a
// coordinator gets a retriable error.
func addressesIn(t *testing.T, ctx context.Context, client *kgo.Client, a addressRequest, version int16, topic kadm.TopicDetail) []brokerAddress {
	t.Helper()
	for {
		response, err := client.Broker(int(a.node)).Request(ctx, a.request(topic))
		if err != nil {
			t.Fatal(err)
		}
		if got := response.GetVersion(); got != version {
			t.Fatalf("answered at version %d", got)
		}
		found := slices.DeleteFunc(a.named(response), func(n brokerAddress) bool { return n.id < 0 })
		if len(found) > 0 {
			return found
		}
		select {
		case <-ctx.Done():
			t.Fatalf("no address in %+v", response)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func upTo(first, last int) (all []int) {
	for v := first; v <= last; v++ {
		all = append(all, v)
	}
	return all
}

var questions = []addressRequest{
	{key: kmsg.Metadata, versions: upTo(0, 13), request: func(kadm.TopicDetail) kmsg.Request { return kmsg.NewPtrMetadataRequest() }, named: func(r kmsg.Response) (all []brokerAddress) {
		for _, b := range r.(*kmsg.MetadataResponse).Brokers {
			all = append(all, brokerAddress{b.NodeID, b.Host, b.Port})
		}
		return all
	}},
	{key: kmsg.FindCoordinator, versions: upTo(0, 6), request: findCoordinator, named: func(r kmsg.Response) (all []brokerAddress) {
		f := r.(*kmsg.FindCoordinatorResponse)
		for _, c := range f.Coordinators {
			all = append(all, brokerAddress{c.NodeID, c.Host, c.Port})
		}
		if f.Version < 4 {
			all = append(all, brokerAddress{f.NodeID, f.Host, f.Port})
		}
		return all
	}},
	{key: kmsg.DescribeCluster, versions: upTo(0, 2), request: func(kadm.TopicDetail) kmsg.Request { return kmsg.NewPtrDescribeClusterRequest() }, named: func(r kmsg.Response) (all []brokerAddress) {
		for _, b := range r.(*kmsg.DescribeClusterResponse).Brokers {
			all = append(all, brokerAddress{b.NodeID, b.Host, b.Port})
		}
		return all
	}},
	{key: kmsg.Produce, versions: upTo(10, 13), request: produceToNonReplica, named: func(r kmsg.Response) (all []brokerAddress) {
		for _, b := range r.(*kmsg.ProduceResponse).Brokers {
			all = append(all, brokerAddress{b.NodeID, b.Host, b.Port})
		}
		return all
	}},
	{key: kmsg.Fetch, versions: upTo(16, 18), request: fetchFromNonReplica, named: func(r kmsg.Response) (all []brokerAddress) {
		for _, b := range r.(*kmsg.FetchResponse).Brokers {
			all = append(all, brokerAddress{b.NodeID, b.Host, b.Port})
		}
		return all
	}},
	{key: kmsg.ShareFetch, versions: upTo(1, 2), request: shareFetchFromNonReplica, named: func(r kmsg.Response) (all []brokerAddress) {
		for _, e := range r.(*kmsg.ShareFetchResponse).NodeEndpoints {
			all = append(all, brokerAddress{e.NodeID, e.Host, e.Port})
		}
		return all
	}},
}

func findCoordinator(kadm.TopicDetail) kmsg.Request {
	r := kmsg.NewPtrFindCoordinatorRequest()
	r.CoordinatorKey, r.CoordinatorKeys = "hints", []string{"hints"}
	return r
}

// produceToNonReplica produces to a broker that has no replica.
func produceToNonReplica(d kadm.TopicDetail) kmsg.Request {
	r := kmsg.NewPtrProduceRequest()
	r.Acks, r.TimeoutMillis = -1, 5000
	topic := kmsg.NewProduceRequestTopic()
	topic.Topic, topic.TopicID = d.Topic, d.ID
	topic.Partitions = []kmsg.ProduceRequestTopicPartition{{Partition: 0, Records: batch("hello")}}
	r.Topics = append(r.Topics, topic)
	return r
}

// batch is a record batch with one record.
func batch(value string) []byte {
	record := kmsg.Record{Value: []byte(value)}
	record.Length = int32(len(record.AppendTo(nil)) - 1) // without the length itself
	b := kmsg.RecordBatch{Magic: 2, NumRecords: 1, ProducerID: -1, ProducerEpoch: -1, FirstSequence: -1, PartitionLeaderEpoch: -1, Records: record.AppendTo(nil)}
	raw := b.AppendTo(nil)
	binary.BigEndian.PutUint32(raw[8:], uint32(len(raw)-12))
	binary.BigEndian.PutUint32(raw[17:], crc32.Checksum(raw[21:], crc32.MakeTable(crc32.Castagnoli)))
	return raw
}

// fetchFromNonReplica fetches from a broker that has no replica.
func fetchFromNonReplica(d kadm.TopicDetail) kmsg.Request {
	r := kmsg.NewPtrFetchRequest()
	r.SessionEpoch = -1
	topic := kmsg.NewFetchRequestTopic()
	topic.Topic, topic.TopicID = d.Topic, d.ID
	partition := kmsg.NewFetchRequestTopicPartition()
	partition.PartitionMaxBytes, partition.CurrentLeaderEpoch = 1<<20, -1
	topic.Partitions = append(topic.Partitions, partition)
	r.Topics = append(r.Topics, topic)
	return r
}

// shareFetchFromNonReplica needs no group: a made-up member gets the hint.
func shareFetchFromNonReplica(d kadm.TopicDetail) kmsg.Request {
	group, member := "hints", base64.RawURLEncoding.EncodeToString([]byte("culvert-test-hin"))
	r := kmsg.NewPtrShareFetchRequest()
	r.GroupID, r.MemberID, r.ShareSessionEpoch = &group, &member, 0
	r.MaxBytes, r.MaxRecords, r.BatchSize = 1<<20, 100, 100
	topic := kmsg.NewShareFetchRequestTopic()
	topic.TopicID = d.ID
	topic.Partitions = append(topic.Partitions, kmsg.NewShareFetchRequestTopicPartition())
	r.Topics = append(r.Topics, topic)
	return r
}

// TestControllersAreHidden checks DescribeQuorum, which names controllers. Clients must not connect
// to those.
func TestControllersAreHidden(t *testing.T) {
	eachWay(t, func(t *testing.T, p *path) {
		r := kmsg.NewPtrDescribeQuorumRequest()
		r.Topics = []kmsg.DescribeQuorumRequestTopic{{Topic: "__cluster_metadata", Partitions: []kmsg.DescribeQuorumRequestTopicPartition{{}}}}
		response, err := r.RequestWith(t.Context(), p.franz(t))
		if err != nil {
			t.Fatal(err)
		}
		if err := kerr.ErrorForCode(response.ErrorCode); err != nil || len(response.Nodes) == 0 {
			t.Errorf("%v, %d controllers", err, len(response.Nodes))
		}
		for _, n := range response.Nodes {
			for _, l := range n.Listeners {
				if want := fmt.Sprintf("controller-%d.invalid", n.NodeID); l.Host != want {
					t.Errorf("controller %d has address %s, want %s", n.NodeID, l.Host, want)
				}
			}
		}
	})
}
