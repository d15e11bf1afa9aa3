package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/culvert-proxy/culvert/proxy/fakekafka"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// A client with KIP-1242 says to which node it believes to be connected. If it is another one, the
// client goes back to its bootstrap addresses.
func TestListenerOfANodeLeadsToThatNode(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		c := startCluster(t, 3)
		path := startPath(t, c, transport, nil)
		dialKafka(t, path.address).brokers(t)
		for listener := range int32(3) {
			for believed := range int32(3) {
				request := kmsg.NewPtrApiVersionsRequest()
				request.ClientSoftwareName, request.ClientSoftwareVersion = "test", "1"
				request.ClusterID, request.NodeID = new("kfake"), believed
				response, err := dialKafka(t, path.node(listener)).ask(request, 5)
				if err != nil {
					t.Fatal(err)
				}
				want := kerr.RebootstrapRequired
				if listener == believed {
					want = nil
				}
				got := kerr.ErrorForCode(response.(*kmsg.ApiVersionsResponse).ErrorCode)
				if want == nil && got != nil || want != nil && !errors.Is(got, want) {
					t.Errorf("at the listener of node %d, believed to be %d: %v, want %v", listener, believed, got, want)
				}
			}
		}
	})
}

// hinted asks a broker that does not lead the partition for it, by Produce and by Fetch, and
// returns the leaders that the responses hint at (KIP-951).
func hinted(t *testing.T, c *kafkaConn, topicID [16]byte) []map[int32]string {
	t.Helper()
	fetchPartition := kmsg.NewFetchRequestTopicPartition()
	fetchPartition.PartitionMaxBytes = 1 << 20
	fetchTopic := kmsg.NewFetchRequestTopic()
	fetchTopic.TopicID, fetchTopic.Partitions = topicID, []kmsg.FetchRequestTopicPartition{fetchPartition}
	fetch := kmsg.NewPtrFetchRequest()
	fetch.MaxBytes, fetch.Topics = 1<<20, []kmsg.FetchRequestTopic{fetchTopic}

	var hints []map[int32]string
	for _, r := range []kmsg.Request{produceRequest("t", 0, "x", -1), fetch} {
		response, err := c.ask(r, map[int16]int16{0: 12, 1: 17}[r.Key()])
		if err != nil {
			t.Fatal(err)
		}
		leaders := map[int32]string{}
		switch response := response.(type) {
		case *kmsg.ProduceResponse:
			if code := response.Topics[0].Partitions[0].ErrorCode; code != kerr.NotLeaderForPartition.Code {
				t.Fatalf("produce: error code %d, want that it is not the leader", code)
			}
			for _, b := range response.Brokers {
				leaders[b.NodeID] = net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port)))
			}
		case *kmsg.FetchResponse:
			if code := response.Topics[0].Partitions[0].ErrorCode; code != kerr.NotLeaderForPartition.Code {
				t.Fatalf("fetch: error code %d, want that it is not the leader", code)
			}
			for _, b := range response.Brokers {
				leaders[b.NodeID] = net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port)))
			}
		}
		hints = append(hints, leaders)
	}
	return hints
}

// A hint at the new leader is worth a round trip. It leads to the agent's listener, or nowhere: the
// table is not filled from hints.
func TestLeaderHintsAreRewrittenOrBlanked(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		c := startCluster(t, 3, kfake.ClusterID("c"))
		onePartitionEach(t, c, "t", 0)
		topicID := c.TopicInfo("t").TopicID
		really := dialKafka(t, c.Bootstrap()[0]).brokers(t)
		lead(t, c, "t", 1)

		knowsAll := startPath(t, c, transport, nil)
		dialKafka(t, knowsAll.address).brokers(t)
		want := map[int32]string{0: knowsAll.node(0), 1: knowsAll.node(1), 2: knowsAll.node(2)}
		for _, got := range hinted(t, dialKafka(t, knowsAll.node(0)), topicID) {
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("hints of known nodes (-want +got):\n%s", diff)
			}
		}

		// A hint that names one broker that is not known, or not at this address, is no good as a
		// whole.
		for name, others := range map[string]map[int32]string{
			"unknown": {},
			"moved":   {1: "broker-1." + fakekafka.Domain + ":1", 2: really[2]},
		} {
			others[0] = really[0]
			up := startPlace(t, transport, "key", c.Bootstrap()).up(t) // whose gateway remembers nothing
			agent := startAgent(t, up, func(a *Agent) { a.StateFile = stateOf(t, up, "c", "key", others) })
			for _, got := range hinted(t, dialKafka(t, agent.node(0)), topicID) {
				if len(got) > 0 {
					t.Errorf("hints at nodes that are %s are %v, want none", name, got)
				}
			}
			if n := gauge(t, agent, "culvert_blanked_addresses_total"); n == 0 {
				t.Errorf("no hint at nodes that are %s was blanked: the test shows nothing", name)
			}
		}
	})
}

// stateOf writes a state file with these nodes.
func stateOf(t *testing.T, up Upstream, cluster, key string, nodes map[int32]string) (file string) {
	t.Helper()
	var tickets []tunnel.Ticket
	for _, id := range slices.Sorted(maps.Keys(nodes)) {
		tk, err := newSigner(keysOf(key)).sign(tunnel.Ticket{ClusterID: cluster, NodeID: id, Address: nodes[id]}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		tickets = append(tickets, tk)
	}
	file = filepath.Join(t.TempDir(), "state")
	if err := (state{}).with(clusterState{up.name(), cluster, tickets}).write(file); err != nil {
		t.Fatal(err)
	}
	return file
}

// Two principals through one agent are two to the brokers: nothing of one client's session is
// another's.
func TestTwoPrincipalsThroughOneAgent(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		write := func(topic string) kfake.ACL {
			return kfake.ACL{Resource: kmsg.ACLResourceTypeTopic, Name: topic, Pattern: kmsg.ACLResourcePatternTypeLiteral, Operation: kmsg.ACLOperationWrite, Allow: true}
		}
		c := startCluster(t, 1, kfake.EnableSASL(), kfake.EnableACLs(), kfake.SeedTopics(1, "alice", "bob"),
			kfake.User("PLAIN", "alice", "alice", write("alice")), kfake.User("PLAIN", "bob", "bob", write("bob")))
		path := startPath(t, c, transport, nil)
		clients := map[string]*kafkaConn{}
		for _, user := range []string{"alice", "bob"} {
			seed := dialKafka(t, path.address)
			if err := seed.login(user); err != nil {
				t.Fatal(err)
			}
			clients[user] = dialKafka(t, seed.brokers(t)[0])
			if err := clients[user].login(user); err != nil {
				t.Fatal(err)
			}
		}
		for range 3 { // in turn, on connections that stay
			for user, client := range clients {
				for _, topic := range []string{"alice", "bob"} {
					err := client.produce(topic, 0, user)
					if topic == user && err != nil || topic != user && !errors.Is(err, kerr.TopicAuthorizationFailed) {
						t.Errorf("%s produces to the topic of %s: %v", user, topic, err)
					}
				}
			}
		}
		other := dialKafka(t, path.node(0))
		if err := other.produce("alice", 0, "x"); err == nil {
			t.Error("a client without credentials was let in")
		}
		for _, topic := range []string{"alice", "bob"} {
			if n := c.PartitionInfo(topic, 0).HighWatermark; n != 3 {
				t.Errorf("the topic of %s holds %d records, want 3", topic, n)
			}
		}
	})
}

// What an administrator asks one broker about itself is answered by that broker, as without
// culvert.
func TestAdminRequestsReachTheBrokerTheyAreMeantFor(t *testing.T) {
	c := startCluster(t, 3, kfake.SeedTopics(9, "t"))
	admin := insider(t, c.Bootstrap()[0], kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
	produce(t, admin, "t", 30)
	for i := range 6 {
		group := insider(t, c.Bootstrap()[0], kgo.ConsumerGroup(fmt.Sprint("g", i)), kgo.ConsumeTopics("t"))
		consume(t, group, 1)
		if _, err := c.WaitGroupStable(t.Context(), fmt.Sprint("g", i), 1); err != nil {
			t.Fatal(err)
		}
	}
	really := map[int32]string{}
	for id, address := range dialKafka(t, c.Bootstrap()[0]).brokers(t) {
		_, port, _ := net.SplitHostPort(address)
		really[id] = net.JoinHostPort("127.0.0.1", port)
	}
	configs := func(id int32) kmsg.Request {
		resource := kmsg.NewDescribeConfigsRequestResource()
		resource.ResourceType, resource.ResourceName = kmsg.ConfigResourceTypeBroker, strconv.Itoa(int(id))
		r := kmsg.NewPtrDescribeConfigsRequest()
		r.Resources = append(r.Resources, resource)
		return r
	}
	questions := []struct {
		request func(id int32) kmsg.Request
		version int16
		differ  bool // each broker answers something else
	}{
		{configs, 4, true},
		{func(int32) kmsg.Request { return configs(1) }, 4, false}, // an error at the others
		{func(int32) kmsg.Request { return kmsg.NewPtrDescribeLogDirsRequest() }, 4, false},
		{func(int32) kmsg.Request { return kmsg.NewPtrListGroupsRequest() }, 5, true},
		{func(int32) kmsg.Request { return kmsg.NewPtrListTransactionsRequest() }, 1, false},
	}
	eachTransport(t, func(t *testing.T, transport string) {
		path := startPath(t, c, transport, nil)
		dialKafka(t, path.address).brokers(t)
		for _, q := range questions {
			answers := map[string]bool{}
			for id := range int32(3) {
				r := q.request(id)
				name := fmt.Sprintf("%s v%d at node %d", kmsg.NameForKey(r.Key()), q.version, id)
				want, got := answerTo(t, really[id], r, q.version), answerTo(t, path.node(id), r, q.version)
				if !bytes.Equal(got, want) {
					t.Errorf("%s: the answer through culvert of %d bytes is not the one of %d bytes that comes directly", name, len(got), len(want))
				}
				answers[string(got)] = true
			}
			if q.differ && len(answers) < 2 {
				t.Errorf("all brokers answer %s alike: the test shows nothing", kmsg.NameForKey(q.request(0).Key()))
			}
		}
	})
}

// answerTo is the frame that answers a request, with its bytes sorted: the embedded cluster lists
// things in another order each time.
func answerTo(t *testing.T, address string, r kmsg.Request, version int16) []byte {
	t.Helper()
	c := dialKafka(t, address)
	c.send(r, version)
	frame, err := readFrame(c)
	if err != nil {
		t.Fatalf("%s: %v", kmsg.NameForKey(r.Key()), err)
	}
	slices.Sort(frame)
	return frame
}
