package proxy

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"net"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"
	dto "github.com/prometheus/client_model/go"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/culvert-proxy/culvert/protocol"
	"github.com/culvert-proxy/culvert/proxy/fakekafka"
)

// The errors of brokers that refuse, and what both ends of a tunnel count of them.
func TestBothEndsCountErrorsAndThrottling(t *testing.T) {
	answers := []kmsg.Response{
		&kmsg.HeartbeatResponse{Version: 4, ThrottleMillis: 300, ErrorCode: 25},
		&kmsg.HeartbeatResponse{Version: 0, ErrorCode: 27},
		&kmsg.SASLAuthenticateResponse{Version: 2, ErrorCode: 58, ErrorMessage: new("bad password")},
		&kmsg.JoinGroupResponse{Version: 9, ThrottleMillis: -5, ErrorCode: 30},
		&kmsg.FindCoordinatorResponse{Version: 4, Coordinators: []kmsg.FindCoordinatorResponseCoordinator{{Key: "g", NodeID: -1, Port: -1, ErrorCode: 15}}},
		produceRefused(3, 29, 29), produceRefused(9, 0, 6), produceRefused(11, 29, 10), produceRefused(13, 0, 0),
		fetchRefused(4, 1), fetchRefused(12, 1), fetchRefused(17, 6),
		metadataRefused(1, 3), metadataRefused(12, 29, 29), metadataRefused(13),
		&kmsg.OffsetCommitResponse{Version: 8, Topics: []kmsg.OffsetCommitResponseTopic{{Partitions: []kmsg.OffsetCommitResponseTopicPartition{{}, {ErrorCode: 22}}}}},
	}
	turn := 0
	broker := fakeBroker(t, answering(func(key, version int16, id int32) []byte {
		r := answers[turn]
		turn++
		b := binary.BigEndian.AppendUint32(nil, uint32(id))
		if protocol.APIKey(key).FlexibleResponseHeader(version) {
			b = append(b, 0)
		}
		return r.AppendTo(b)
	}))
	gateway := startGateway(t, []string{broker}, nil)
	path := startAgent(t, tunnelTo(t, gateway.address, "ws"), nil)
	c := dialAgent(t, path.address)
	for i, r := range answers {
		request := kmsg.RequestForKey(r.Key())
		if p, is := request.(*kmsg.ProduceRequest); is {
			p.Acks = 1
		}
		c.Write(requestFrame(request, r.GetVersion(), int32(i)))
		if _, err := readFrame(c); err != nil {
			t.Fatalf("answer %d, %T: %v", i, r, err)
		}
	}
	for name, want := range map[string]map[string]float64{
		"culvert_response_errors_total": {
			"Heartbeat group": 2, "SaslAuthenticate authentication": 1, "JoinGroup authorization": 1, "FindCoordinator coordinator": 1,
			"Produce authorization": 2, "Produce metadata": 1, "Produce record": 1, "Fetch offset": 2, "Fetch metadata": 1,
			"Metadata topic": 1, "Metadata authorization": 1, "OffsetCommit group": 1,
		},
		"culvert_throttle_seconds_total":    {"Heartbeat": 0.3, "Produce": 6, "Fetch": 3 * 3600},
		"culvert_throttled_responses_total": {"Heartbeat": 1, "Produce": 4, "Fetch": 3},
		"culvert_requests_in_flight":        {},
	} {
		for end, r := range map[string]running{"agent": path, "gateway": gateway} {
			got := map[string]float64{}
			waitFor(t, "the "+end+" to count "+name, func() bool {
				got = nonzero(t, r, name)
				return maps.Equal(got, want)
			})
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s at the %s (-want +got):\n%s", name, end, diff)
			}
		}
	}
}

func produceRefused(version int16, codes ...int16) kmsg.Response {
	r := &kmsg.ProduceResponse{Version: version, ThrottleMillis: 1500}
	topic := kmsg.NewProduceResponseTopic()
	for _, code := range codes {
		p := kmsg.NewProduceResponseTopicPartition()
		p.ErrorCode = code
		topic.Partitions = append(topic.Partitions, p)
	}
	r.Topics = append(r.Topics, topic)
	return r
}

func fetchRefused(version, code int16) kmsg.Response {
	p := kmsg.NewFetchResponseTopicPartition()
	p.ErrorCode = code
	return &kmsg.FetchResponse{Version: version, ThrottleMillis: 1<<31 - 1, Topics: []kmsg.FetchResponseTopic{{Partitions: []kmsg.FetchResponseTopicPartition{p}}}}
}

func metadataRefused(version int16, codes ...int16) kmsg.Response {
	r := kmsg.NewPtrMetadataResponse()
	r.Version = version
	b := kmsg.NewMetadataResponseBroker()
	b.NodeID, b.Host, b.Port = 1, fakekafka.Host(1), 9092
	r.Brokers = append(r.Brokers, b)
	for i, code := range codes {
		topic := kmsg.NewMetadataResponseTopic()
		topic.ErrorCode, topic.Topic = code, new(fmt.Sprint("topic", i))
		r.Topics = append(r.Topics, topic)
	}
	return r
}

// nonzero returns the series of a metric that are not zero, by their labels.
func nonzero(t *testing.T, r running, name string) map[string]float64 {
	t.Helper()
	got := map[string]float64{}
	added(t, r, name, func(m *dto.Metric) bool {
		labels := m.GetLabel()[0].GetValue()
		for _, l := range m.GetLabel()[1:] {
			labels += " " + l.GetValue()
		}
		if v := m.GetCounter().GetValue() + m.GetGauge().GetValue(); v != 0 {
			got[labels] = v
		}
		return true
	})
	return got
}

// A client may use any API key, of which there are 65,536, and a broker may answer anything.
func TestBogusAPIKeysLeaveSeriesAndMemoryWhereTheyWere(t *testing.T) {
	broker := fakeBroker(t, func(c net.Conn) {
		in, out := bufio.NewReader(c), bufio.NewWriter(c)
		for {
			frame, err := readFrame(in)
			if err != nil {
				return
			}
			out.Write(framed(append(frame[4:8:8], bytes.Repeat([]byte{0x7f}, 20)...)))
			if in.Buffered() == 0 {
				out.Flush()
			}
		}
	})
	gateway := startGateway(t, []string{broker}, nil)
	path := startAgent(t, tunnelTo(t, gateway.address, "ws"), func(a *Agent) { a.RelayUnknownAPIs = true })
	c := dialAgent(t, path.address)
	send := func(from, n int) {
		go func() {
			out := bufio.NewWriter(c)
			for i := range n {
				key := int(protocol.MaxKey) + 1 + (from+i)%(1<<16-int(protocol.MaxKey)-1) // negative ones too
				b := binary.BigEndian.AppendUint16(nil, uint16(key))
				b = binary.BigEndian.AppendUint16(b, uint16(i))
				b = binary.BigEndian.AppendUint32(b, uint32(i))
				out.Write(framed(append(b, 0xff, 0xff)))
			}
			out.Flush()
		}()
		in := bufio.NewReader(c)
		for range n {
			if _, err := readFrame(in); err != nil {
				t.Error(err)
				return
			}
		}
	}
	state := func() (keys map[string]bool, heap uint64) { // keys that have series, in any metric
		keys = map[string]bool{}
		for _, r := range []running{path, gateway} {
			families, err := r.metrics.Gather()
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range families {
				for _, m := range f.GetMetric() {
					for _, l := range m.GetLabel() {
						if l.GetName() == "api_key" {
							keys[l.GetValue()] = true
						}
					}
				}
			}
		}
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return keys, m.HeapAlloc
	}
	send(0, 1000)
	before, heap := state()
	send(1000, 100_000)
	if n := series(t, path, "culvert_requests_total", "unknown"); n != 101_000 {
		t.Errorf("%v requests counted, want 101,000", n)
	}
	after, heapAfter := state()
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("API keys with series (-before +after):\n%s", diff)
	}
	if heapAfter > heap+1<<20 {
		t.Errorf("%d bytes of heap before, %d after", heap, heapAfter)
	}
	t.Logf("heap: %d bytes before and %d after", heap, heapAfter)
}
