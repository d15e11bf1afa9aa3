package proxy

import (
	"bufio"
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/culvert-proxy/culvert/protocol"
	"github.com/culvert-proxy/culvert/proxy/metrics"
	"github.com/culvert-proxy/culvert/rewrite"
)

const heartbeat protocol.APIKey = 12

// BenchmarkRelay relays requests and responses, one at a time, between TCP connections on loopback.
// Where the response carries no address, or could and does not, nothing is allocated for a frame.
func BenchmarkRelay(b *testing.B) {
	for _, bb := range []struct {
		name          string
		key           protocol.APIKey
		version       int16
		request, size int
	}{
		{"Heartbeat", heartbeat, 4, 64, 16},
		{"Produce v9 of 16 KiB", protocol.Produce, 9, 16 << 10, 64},
		{"Fetch v11 of 1 KiB", protocol.Fetch, 11, 128, 1 << 10},
		{"Fetch v11 of 1 MiB", protocol.Fetch, 11, 128, 1 << 20},
	} {
		b.Run(bb.name, func(b *testing.B) {
			relay(b, requestOf(bb.key, bb.version, bb.request), make([]byte, bb.size))
		})
	}
	b.Run("Fetch v17 of 1 MiB", func(b *testing.B) {
		r := kmsg.NewPtrFetchResponse()
		r.Version = 17
		p := kmsg.NewFetchResponseTopicPartition()
		p.RecordBatches = make([]byte, 1<<20)
		t := kmsg.NewFetchResponseTopic()
		t.Partitions = append(t.Partitions, p)
		r.Topics = append(r.Topics, t)
		relay(b, requestOf(protocol.Fetch, 17, 128), responseTo(r))
	})
	b.Run("Produce v11 of 16 KiB", func(b *testing.B) {
		r := kmsg.NewPtrProduceResponse()
		r.Version = 11
		t := kmsg.NewProduceResponseTopic()
		t.Partitions = append(t.Partitions, kmsg.NewProduceResponseTopicPartition())
		r.Topics = append(r.Topics, t)
		relay(b, requestOf(protocol.Produce, 11, 16<<10), responseTo(r))
	})
}

// BenchmarkRelayRewritten relays Metadata, whose addresses are replaced.
func BenchmarkRelayRewritten(b *testing.B) {
	for _, bb := range []struct {
		name    string
		brokers int32
	}{{"3 brokers", 3}, {"1000 brokers", 1000}} {
		b.Run(bb.name, func(b *testing.B) {
			r := kmsg.NewPtrMetadataResponse()
			r.Version, r.ClusterID = 12, new("cluster")
			for id := range bb.brokers {
				n := kmsg.NewMetadataResponseBroker()
				n.NodeID, n.Host, n.Port = id, "broker.kafka.internal", 9092
				r.Brokers = append(r.Brokers, n)
			}
			relay(b, requestOf(protocol.Metadata, 12, 64), responseTo(r))
		})
	}
}

// relay measures round trips of one request and the body of its response.
func relay(b *testing.B, request, body []byte) {
	response := binary.BigEndian.AppendUint32(nil, uint32(4+len(body)))
	response = append(response, 0, 0, 0, 0) // correlation id
	response = append(response, body...)
	client := bufio.NewReaderSize(nil, 256<<10)
	near := relayed(b, request, response)
	client.Reset(near)
	b.SetBytes(int64(len(request) + len(response)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := near.Write(request); err != nil {
			b.Fatal(err)
		}
		head, err := client.Peek(4)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := client.Discard(4 + int(binary.BigEndian.Uint32(head))); err != nil {
			b.Fatal(err)
		}
	}
}

// relayed returns a client's end of a relay to a broker that answers every request alike.
func relayed(t testing.TB, request, response []byte) net.Conn {
	client, broker := relayedTo(t)
	done := make(chan struct{})
	go func() { answerAlike(broker, len(request), response); close(done) }()
	t.Cleanup(func() {
		client.Close()
		<-done
	})
	client.SetDeadline(time.Now().Add(10 * time.Minute))
	return client
}

// relayedTo returns both outer ends of a relay over TCP.
func relayedTo(t testing.TB) (client, broker net.Conn) {
	client, near := loopbackPair(t)
	far, broker := loopbackPair(t)
	c := newConn(near, connSettings{
		policy:      rewriting{&rewrite.Rewriter{Directory: fixed{}}},
		report:      reporter{metrics.New(prometheus.NewRegistry(), metrics.Agent, "test"), slog.New(slog.DiscardHandler), &logLimiter{}, &brokerWatch{}, "", ""},
		headTimeout: defaultHeadTimeout,
	})
	c.connect(far)
	done := make(chan struct{})
	go func() { c.run(context.Background()); close(done) }()
	t.Cleanup(func() {
		client.Close()
		broker.Close()
		<-done
	})
	return client, broker
}

// rewriting is an agent's policy that refuses no request.
type rewriting struct{ w *rewrite.Rewriter }

func (rewriting) screen(protocol.Request) ([]byte, error)       { return nil, nil }
func (rewriting) touches(k protocol.APIKey, version int16) bool { return rewrite.Touches(k, version) }
func (rewriting) lenient() bool                                 { return false }
func (rewriting) timed(protocol.APIKey, time.Duration)          {}

func (p rewriting) relay(f *protocol.Flow, r protocol.Request, size int64) (rewrite.Result, error) {
	return p.w.Relay(f, r.Key, r.Version, size)
}

func answerAlike(broker net.Conn, request int, response []byte) {
	defer broker.Close()
	buf := make([]byte, request)
	for {
		if _, err := io.ReadFull(broker, buf); err != nil {
			return
		}
		copy(response[4:8], buf[8:12]) // the correlation id
		if _, err := broker.Write(response); err != nil {
			return
		}
	}
}

// loopbackPair returns both ends of a TCP connection.
func loopbackPair(b testing.TB) (dialled, accepted net.Conn) {
	b.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	if dialled, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		b.Fatal(err)
	}
	if accepted, err = ln.Accept(); err != nil {
		b.Fatal(err)
	}
	return dialled, accepted
}

// requestOf returns a request frame of size bytes with correlation id 0. Of its body only acks
// means something, which is 1 where it is a Produce request.
func requestOf(key protocol.APIKey, version int16, size int) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(size-4))
	b = binary.BigEndian.AppendUint16(b, uint16(key))
	b = binary.BigEndian.AppendUint16(b, uint16(version))
	b = append(b, 0, 0, 0, 0)                    // correlation id
	b = append(b, 0, 5, 'b', 'e', 'n', 'c', 'h') // client id
	b = append(b, 0, 0, 0, 1)                    // no tagged fields, no transactional id, acks
	return append(b, make([]byte, size-len(b))...)
}

// responseTo returns a flexible response behind its correlation id.
func responseTo(r kmsg.Response) []byte { return r.AppendTo([]byte{0}) }

// fixed is a directory where all brokers are on loopback.
type fixed struct{}

func (fixed) Learn(string, []rewrite.Broker) error { return nil }

func (fixed) Local(b rewrite.Broker) (string, int32, bool) {
	return "127.0.0.1", 19092 + b.NodeID, true
}

func TestRelayAllocatesNothingForAFrame(t *testing.T) {
	request, response := requestOf(protocol.Fetch, 11, 128), make([]byte, 4<<10)
	binary.BigEndian.PutUint32(response, uint32(len(response)-4))
	client := relayed(t, request, response)
	buf := make([]byte, len(response))
	allocs := testing.AllocsPerRun(1000, func() {
		if _, err := client.Write(request); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(client, buf); err != nil {
			t.Fatal(err)
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations for a request and its response, want 0", allocs)
	}
}
