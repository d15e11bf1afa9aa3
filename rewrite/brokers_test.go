package rewrite

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/culvert-proxy/culvert/protocol"
	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// learner is a Directory that notes what it was told, and when.
type learner struct {
	directory
	out       *bytes.Buffer
	calls     int
	clusterID string
	brokers   []Broker
	err       error
}

func (l *learner) Learn(clusterID string, brokers []Broker) error {
	if l.out != nil && l.out.Len() > 0 {
		return errors.New("bytes have been passed before they were learnt from")
	}
	l.calls++
	l.clusterID, l.brokers = clusterID, brokers
	return l.err
}

func metadataOf(version int16, n int) *kmsg.MetadataResponse {
	resp := kmsg.NewPtrMetadataResponse()
	resp.Version, resp.ClusterID = version, new("cluster")
	for i := range n {
		b := kmsg.NewMetadataResponseBroker()
		b.NodeID, b.Host, b.Port = int32(i), fmt.Sprintf("broker-%d%s", i, domain), 9092
		resp.Brokers = append(resp.Brokers, b)
	}
	return resp
}

func TestLearnGetsBrokersAndClusterIDBeforeAnyByteIsPassed(t *testing.T) {
	for version := int16(0); version <= protocol.Metadata.MaxVersion(); version++ {
		resp := metadataOf(version, 3)
		none := kmsg.NewMetadataResponseBroker()
		none.NodeID, none.Port = -1, -1
		resp.Brokers = append(resp.Brokers, none)
		frame := frameOf(resp)

		var out bytes.Buffer
		l := &learner{directory: loopback, out: &out}
		w := Rewriter{Directory: l}
		f := protocol.NewFlow(bytes.NewReader(frame), &out)
		if _, err := w.Relay(f, protocol.Metadata, version, int64(len(frame))); err != nil {
			t.Fatal(err)
		}
		want := []Broker{{0, "broker-0" + domain, 9092}, {1, "broker-1" + domain, 9092}, {2, "broker-2" + domain, 9092}}
		if diff := cmp.Diff(l.brokers, want); diff != "" || l.calls != 1 {
			t.Errorf("v%d: %d calls of Learn, got - want +\n%s", version, l.calls, diff)
		}
		if want := map[bool]string{true: "cluster"}[version >= 2]; l.clusterID != want {
			t.Errorf("v%d: cluster id %q, want %q", version, l.clusterID, want)
		}
	}
}

func TestHintsAreNotLearntFrom(t *testing.T) {
	for _, key := range touched {
		if rowOf(key).names.Nodes() {
			continue
		}
		l := &learner{directory: loopback}
		if _, _, err := relay(&Rewriter{Directory: l}, key, key.MaxVersion(), smallFrame(key, key.MaxVersion())); err != nil {
			t.Fatal(err)
		}
		if l.calls > 0 {
			t.Errorf("%s: Learn was called", key)
		}
	}
}

func TestADirectoryCanRefuseAResponse(t *testing.T) {
	refused := errors.New("another cluster")
	for _, tt := range []struct {
		name string
		d    Directory
		want string
	}{
		{"by Learn", &learner{directory: loopback, err: refused}, "learn the brokers of Metadata v12 response, correlation id 7: another cluster"},
		{"by Local", nowhere, "rewrite Metadata v12 response, correlation id 7: no local address for broker 0 at broker-0.kafka.internal.invalid:9092"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, _, err := relay(&Rewriter{Directory: tt.d}, protocol.Metadata, 12, frameOf(metadataOf(12, 3)))
			if err == nil || err.Error() != tt.want || errors.Is(err, ErrUndecodable) {
				t.Errorf("error %v, want %s", err, tt.want)
			}
			if len(got) > 0 {
				t.Errorf("passed %x", got)
			}
		})
	}
}

func TestErrorsSayWhatCouldNotBeDecoded(t *testing.T) {
	frame := frameOf(metadataOf(12, 1))
	frame[13] = 0x7f // 126 brokers
	_, _, err := relay(&Rewriter{Directory: loopback}, protocol.Metadata, 12, frame)
	want := "decode Metadata v12 response, correlation id 7: 126 elements, 56 bytes left: cannot be decoded and is not relayed"
	if err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	_, _, err = relay(&Rewriter{Directory: loopback}, protocol.Metadata, 14, frame)
	want = "decode Metadata v14 response, correlation id 7: unknown version: cannot be decoded and is not relayed"
	if err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}

// 10,000 brokers are relayed, and 100,000 partitions behind them stream through without being held.
func TestALargeMetadata(t *testing.T) {
	const brokers = 10_000
	resp := metadataOf(12, brokers)
	topic := kmsg.NewMetadataResponseTopic()
	topic.Topic = new("topic")
	topic.Partitions = make([]kmsg.MetadataResponseTopicPartition, 100_000)
	resp.Topics = append(resp.Topics, topic)
	frame := frameOf(resp)

	l := &learner{directory: loopback}
	got, res, err := relay(&Rewriter{Directory: l}, protocol.Metadata, 12, frame)
	if err != nil || res.Rewritten != brokers || len(l.brokers) != brokers {
		t.Fatalf("%+v, %d learnt, %v", res, len(l.brokers), err)
	}
	wantNoHost(t, got)
	want := expected(resp, loopback, false)
	if !bytes.Equal(encoded(parse(t, protocol.Metadata, 12, got)), encoded(want)) {
		t.Error("more than hosts and ports has changed")
	}
}

// What a broker may make us hold has a limit.
func TestMoreThanMayBeHeldIsRefused(t *testing.T) {
	const size = maxHeld + 100
	for key, head := range map[protocol.APIKey]string{
		// throttle, 2 Mi brokers
		protocol.Metadata: "01000060 00000007 00 00000000 80808001",
		// one topic "t", of 2 Mi partitions
		protocol.Produce: "01000060 00000007 00 02 0274 80808001",
	} {
		b := unhex(t, head)
		src := &counter{r: io.MultiReader(bytes.NewReader(b), zeros{})}
		got, _, err := relayFrom(&Rewriter{Directory: loopback}, key, 12, src, size)
		wantUndecodable(t, err)
		if len(got) > 0 {
			t.Errorf("%s: passed %d bytes", key, len(got))
		}
		if want := "more than 16 MiB would be held back"; err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", key, err, want)
		}
	}
}

// zeros is an endless source.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// counter counts what has been read.
type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	return n, err
}

func TestBrokersPassesNothing(t *testing.T) {
	frame := frameOf(metadataOf(12, 2))
	var out bytes.Buffer
	f := protocol.NewFlow(bytes.NewReader(frame), &out)
	clusterID, brokers, err := Brokers(f, protocol.Metadata, 12, int64(len(frame)))
	want := []Broker{{0, "broker-0" + domain, 9092}, {1, "broker-1" + domain, 9092}}
	if diff := cmp.Diff(brokers, want); diff != "" || clusterID != "cluster" || err != nil {
		t.Errorf("cluster id %q, %v, got - want +\n%s", clusterID, err, diff)
	}
	if err := f.PassThrough(int64(len(frame))); err != nil {
		t.Fatal(err)
	}
	if err := f.Flush(); err != nil || !bytes.Equal(out.Bytes(), frame) {
		t.Errorf("passed %x, %v, want %x", out.Bytes(), err, frame)
	}
	f = protocol.NewFlow(bytes.NewReader(frame), &out)
	_, _, err = Brokers(f, protocol.Fetch, 18, int64(len(frame)))
	wantUndecodable(t, err)
	f = protocol.NewFlow(bytes.NewReader(frame), &out)
	_, _, err = Brokers(f, 4000, 0, int64(len(frame)))
	wantUndecodable(t, err)
}

// Node -1 without a host is the answer to an unknown coordinator; it is not to be mapped. With a
// host it is no such answer, and its host must not pass.
func TestNoNodeHasNoAddress(t *testing.T) {
	resp := kmsg.NewPtrFindCoordinatorResponse()
	resp.Version, resp.ErrorCode, resp.NodeID, resp.Port = 2, 15, -1, -1
	frame := frameOf(resp)
	got, res, err := relay(&Rewriter{Directory: nowhere}, protocol.FindCoordinator, 2, frame)
	if err != nil || res != (Result{}) || !bytes.Equal(got, frame) {
		t.Errorf("%+v, %v\n got %x\nwant %x", res, err, got, frame)
	}
	resp.Host = "broker" + domain
	if got, _, err = relay(&Rewriter{Directory: nowhere}, protocol.FindCoordinator, 2, frameOf(resp)); err == nil {
		t.Errorf("passed %x", got)
	}
}

// A controller's answer to DescribeCluster (KIP-919) has the form of a broker's. Its node ids are
// those of brokers where nodes are both.
func TestControllersAreNotLearntAsBrokers(t *testing.T) {
	for version := int16(1); version <= protocol.DescribeCluster.MaxVersion(); version++ {
		resp := kmsg.NewPtrDescribeClusterResponse()
		resp.Version, resp.EndpointType = version, controllerEndpoints
		b := kmsg.NewDescribeClusterResponseBroker()
		b.NodeID, b.Host, b.Port = 1, "controller-1"+domain, 9093
		resp.Brokers = append(resp.Brokers, b)

		l := &learner{directory: loopback}
		passed, _, err := relay(&Rewriter{Directory: l}, protocol.DescribeCluster, version, frameOf(resp))
		wantUndecodable(t, err)
		wantNoHost(t, passed)
		if l.calls > 0 {
			t.Errorf("v%d: Learn was called", version)
		}
	}
}
