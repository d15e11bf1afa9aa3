package proxy

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/culvert-proxy/culvert/protocol"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// received keeps what each connection of a broker has received.
type received struct {
	mu    sync.Mutex
	conns []*bytes.Buffer
}

// tee returns a connection whose reads are kept.
func (r *received) tee(c net.Conn) net.Conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := &bytes.Buffer{}
	r.conns = append(r.conns, b)
	return teeConn{c, r, b}
}

type teeConn struct {
	net.Conn
	to *received
	b  *bytes.Buffer
}

func (t teeConn) Read(p []byte) (int, error) {
	n, err := t.Conn.Read(p)
	t.to.mu.Lock()
	defer t.to.mu.Unlock()
	t.b.Write(p[:n])
	return n, err
}

// by returns what came on the connections that were opened by a client, and not by the agent
// itself.
func (r *received) by(clientID string) (all []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, b := range r.conns {
		if bytes.Contains(b.Bytes(), []byte(clientID)) {
			all = append(all, b.Bytes()...)
		}
	}
	return all
}

// A connection to the port of an unknown node leads to a bootstrap broker, which gets only requests
// that any broker answers. Of all others it gets not a byte. Requests before them are still
// answered.
func TestABootstrapBrokerInANodesPlaceGetsOnlySafeRequests(t *testing.T) {
	requests := []struct {
		kmsg.Request
		version int16
	}{
		{produceRequest("t", 0, strings.Repeat("x", 100_000), -1), 9},
		{produceRequest("t", 0, "no answer", 0), 9},
		{kmsg.NewPtrFetchRequest(), 11},
		{kmsg.NewPtrListOffsetsRequest(), 5},
		{kmsg.NewPtrJoinGroupRequest(), 5},
		{kmsg.NewPtrHeartbeatRequest(), 4},
		{kmsg.NewPtrOffsetCommitRequest(), 7},
		{kmsg.NewPtrInitProducerIDRequest(), 3},
		{kmsg.NewPtrAlterReplicaLogDirsRequest(), 2},
		{kmsg.NewPtrDescribeConfigsRequest(), 4},
		{kmsg.NewPtrConsumerGroupHeartbeatRequest(), 0},
		{kmsg.NewPtrShareFetchRequest(), 1},
	}
	eachTransport(t, func(t *testing.T, transport string) {
		var kept received
		answer := answering(func(key, version int16, id int32) []byte {
			if key == 3 && version != metadataVersion {
				return metadata(id, 1)
			}
			return binary.BigEndian.AppendUint32(nil, uint32(id)) // no Metadata either: the agent's own question fails
		})
		broker := fakeBroker(t, func(c net.Conn) { answer(kept.tee(c)) })
		log := &memoryLog{}
		agent := startAgent(t, waysTo(t, []string{broker}, transport, nil)(), func(a *Agent) {
			a.ExpectNodes, a.Logger = []int32{7}, log.logger()
		})
		for _, r := range requests {
			name := protocol.APIKey(r.Key()).String()
			allowed := requestFrame(kmsg.NewPtrMetadataRequest(), 1, 1)
			allowed = append(allowed, requestFrame(kmsg.NewPtrSASLHandshakeRequest(), 1, 2)...)
			c := dialKafka(t, agent.node(7))
			go c.Write(append(bytes.Clone(allowed), requestFrame(r.Request, r.version, 3)...)) // some of it may never be read
			for id := byte(1); id <= 2; id++ {
				if answer, err := readFrame(c); err != nil || answer[3] != id {
					t.Errorf("%s: the client read %q, %v, want the answer %d", name, answer, err, id)
				}
			}
			if more, err := io.ReadAll(c); len(more) > 0 || tunnel.IsTimeout(err) {
				t.Errorf("%s: then it read %q, %v, want the end", name, more, err)
			}
			waitFor(t, "the agent to be done", func() bool { return gauge(t, agent, "culvert_connections") == 0 })
			if forwarded := kept.by("\x00\x04test"); !bytes.Equal(withoutIDs(forwarded), withoutIDs(allowed)) {
				t.Errorf("%s: the broker received %d bytes, want the %d of the allowed", name, len(forwarded), len(allowed))
			}
			kept.mu.Lock()
			kept.conns = nil
			kept.mu.Unlock()
		}
		if !strings.Contains(log.String(), "a bootstrap broker answers") {
			t.Error("no bootstrap broker took the place of a node: the test shows nothing")
		}
	})
}

// withoutIDs returns request frames without their correlation ids, which differ between the two
// sides.
func withoutIDs(frames []byte) []byte {
	b := bytes.Clone(frames)
	for rest := b; len(rest) >= 12; {
		clear(rest[8:12])
		rest = rest[min(len(rest), 4+int(binary.BigEndian.Uint32(rest))):]
	}
	return b
}

func TestWhichRequestsAnyBrokerAnswers(t *testing.T) {
	want := map[protocol.APIKey]bool{3: true, 10: true, 17: true, 18: true, 36: true, 60: true}
	for key := range protocol.MaxKey + 1 {
		if got := anyBrokerAnswers(key); got != want[key] {
			t.Errorf("anyBrokerAnswers(%s) = %v, want %v", key, got, want[key])
		}
	}
}
