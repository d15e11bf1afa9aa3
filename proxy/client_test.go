package proxy

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	dto "github.com/prometheus/client_model/go"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/culvert-proxy/culvert/proxy/fakekafka"
)

// kafkaConn is one connection of a client that does what a test says and no more: it looks for no
// other broker and never connects again by itself.
type kafkaConn struct {
	*net.TCPConn
	id int32
}

func dialKafka(t *testing.T, address string) *kafkaConn {
	t.Helper()
	return &kafkaConn{TCPConn: dialAgent(t, address)}
}

// send writes a request.
func (c *kafkaConn) send(r kmsg.Request, version int16) {
	c.id++
	c.Write(requestFrame(r, version, c.id)) // an error is the next read's too
}

// receive reads the response to r, or how the connection ended.
func (c *kafkaConn) receive(r kmsg.Request) (kmsg.Response, error) {
	b, err := readFrame(c)
	if err != nil {
		return nil, err
	}
	response := r.ResponseKind()
	header := 4
	if response.IsFlexible() && r.Key() != 18 {
		header++ // tagged fields, of which there are none
	}
	return response, response.ReadFrom(b[header:])
}

func (c *kafkaConn) ask(r kmsg.Request, version int16) (kmsg.Response, error) {
	c.send(r, version)
	return c.receive(r)
}

// readFrame reads one frame and returns it without its length.
func readFrame(r io.Reader) ([]byte, error) {
	var length [4]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	frame := make([]byte, binary.BigEndian.Uint32(length[:]))
	_, err := io.ReadFull(r, frame)
	return frame, err
}

// brokers asks for metadata of no topic, and returns the addresses by node id.
func (c *kafkaConn) brokers(t *testing.T) map[int32]string {
	t.Helper()
	request := kmsg.NewPtrMetadataRequest()
	request.Topics = []kmsg.MetadataRequestTopic{}
	response, err := c.ask(request, 12)
	if err != nil {
		t.Fatalf("metadata: %v", err)
	}
	addresses := map[int32]string{}
	for _, b := range response.(*kmsg.MetadataResponse).Brokers {
		addresses[b.NodeID] = net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port)))
	}
	return addresses
}

// produce writes one record, and returns the error that the broker answered.
func (c *kafkaConn) produce(topic string, partition int32, value string) error {
	response, err := c.ask(produceRequest(topic, partition, value, -1), 12)
	if err != nil {
		return err
	}
	return kerr.ErrorForCode(response.(*kmsg.ProduceResponse).Topics[0].Partitions[0].ErrorCode)
}

func produceRequest(topic string, partition int32, value string, acks int16) *kmsg.ProduceRequest {
	p := kmsg.NewProduceRequestTopicPartition()
	p.Partition, p.Records = partition, recordBatch(value)
	tp := kmsg.NewProduceRequestTopic()
	tp.Topic, tp.Partitions = topic, []kmsg.ProduceRequestTopicPartition{p}
	r := kmsg.NewPtrProduceRequest()
	r.Acks, r.TimeoutMillis, r.Topics = acks, 5000, []kmsg.ProduceRequestTopic{tp}
	return r
}

// recordBatch is a batch of one record.
func recordBatch(value string) []byte {
	record := kmsg.NewRecord()
	record.Value = []byte(value)
	record.Length = int32(len(record.AppendTo(nil)) - 1)
	b := kmsg.NewRecordBatch()
	b.Records = record.AppendTo(nil)
	b.Length, b.NumRecords = int32(49+len(b.Records)), 1
	b.PartitionLeaderEpoch, b.Magic = -1, 2
	b.ProducerID, b.ProducerEpoch, b.FirstSequence = -1, -1, -1
	b.FirstTimestamp = time.Now().UnixMilli()
	b.MaxTimestamp = b.FirstTimestamp
	raw := b.AppendTo(nil)
	binary.BigEndian.PutUint32(raw[17:], crc32.Checksum(raw[21:], crc32.MakeTable(crc32.Castagnoli)))
	return raw
}

// login authenticates with PLAIN; the password is the user's name.
func (c *kafkaConn) login(user string) error {
	handshake := kmsg.NewPtrSASLHandshakeRequest()
	handshake.Mechanism = "PLAIN"
	if _, err := c.ask(handshake, 1); err != nil {
		return err
	}
	authenticate := kmsg.NewPtrSASLAuthenticateRequest()
	authenticate.SASLAuthBytes = []byte("\x00" + user + "\x00" + user)
	response, err := c.ask(authenticate, 2)
	if err != nil {
		return err
	}
	return kerr.ErrorForCode(response.(*kmsg.SASLAuthenticateResponse).ErrorCode)
}

// insider returns a client that stands beside the brokers and resolves their names.
func insider(t *testing.T, bootstrap string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		host, port, _ := net.SplitHostPort(address)
		if strings.HasSuffix(host, "."+fakekafka.Domain) {
			address = net.JoinHostPort("127.0.0.1", port)
		}
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	c, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(bootstrap), kgo.Dialer(dial), kgo.FetchMaxWait(100 * time.Millisecond)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// stored counts the values that a topic of the cluster holds.
func stored(t *testing.T, c *fakekafka.Cluster, topic string, opts ...kgo.Opt) map[string]int {
	t.Helper()
	n := 0
	for _, p := range c.PartitionInfos(topic) {
		n += int(p.HighWatermark)
	}
	bootstrap := c.Bootstrap()
	return consume(t, insider(t, bootstrap[len(bootstrap)-1], append(opts, kgo.ConsumeTopics(topic))...), n)
}

// numbered are n values, each of them once.
func numbered(from, n int) map[string]int {
	values := map[string]int{}
	for i := range n {
		values[strconv.Itoa(from+i)] = 1
	}
	return values
}

// wantStored fails unless the topic holds these values, each as often.
func wantStored(t *testing.T, c *fakekafka.Cluster, topic string, want map[string]int) {
	t.Helper()
	if diff := cmp.Diff(want, stored(t, c, topic)); diff != "" {
		t.Errorf("records of %s (-want +got):\n%s", topic, diff)
	}
}

// onePartitionEach creates a topic with one partition for each of these nodes, and has partition i
// led by the i-th of them.
func onePartitionEach(t *testing.T, c *fakekafka.Cluster, topic string, nodes ...int32) {
	t.Helper()
	if err := c.CreateTopic(topic, int32(len(nodes)), nil); err != nil {
		t.Fatal(err)
	}
	lead(t, c, topic, nodes...)
}

// lead has partition i of the topic led by the i-th of these nodes.
func lead(t *testing.T, c *fakekafka.Cluster, topic string, nodes ...int32) {
	t.Helper()
	for i, node := range nodes {
		if err := c.MoveTopicPartition(topic, int32(i), node); err != nil {
			t.Fatal(err)
		}
	}
}

// comeBack connects to the port of a node, as a client does that goes straight back to it, until
// the node itself takes a record: a connection may fail, and the next one must not for ever.
func comeBack(t *testing.T, address, topic string, partition int32, value string, login ...string) (attempts int) {
	t.Helper()
	waitFor(t, fmt.Sprintf("the leader of partition %d at %s to take a record", partition, address), func() bool {
		attempts++
		nc, err := net.Dial("tcp", address)
		if err != nil {
			return false
		}
		defer nc.Close()
		nc.SetDeadline(time.Now().Add(10 * time.Second))
		c := &kafkaConn{TCPConn: nc.(*net.TCPConn)}
		for _, user := range login {
			if err := c.login(user); err != nil {
				return false
			}
		}
		request := kmsg.NewPtrMetadataRequest() // as clients do first
		if _, err := c.ask(request, 12); err != nil {
			return false
		}
		err = c.produce(topic, partition, value)
		t.Logf("attempt %d: produce: %v", attempts, err)
		return err == nil
	})
	return attempts
}

// sorted are the keys of a map, for messages.
func sorted[V any](m map[int32]V) []int32 { return slices.Sorted(maps.Keys(m)) }

// gauge adds up all series of a metric, a counter's too.
func gauge(t *testing.T, r running, name string) float64 {
	t.Helper()
	return added(t, r, name, func(*dto.Metric) bool { return true })
}

// series is the value of a metric's series with this value in a label, or 0.
func series(t *testing.T, r running, name, label string) float64 {
	t.Helper()
	return added(t, r, name, func(m *dto.Metric) bool {
		return slices.ContainsFunc(m.GetLabel(), func(l *dto.LabelPair) bool { return l.GetValue() == label })
	})
}

// added adds up those series of a metric that keep says.
func added(t *testing.T, r running, name string, keep func(*dto.Metric) bool) (sum float64) {
	t.Helper()
	families, err := r.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			if keep(m) {
				sum += m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return sum
}
