package proxy

import (
	"bytes"
	"context"
	"io"
	"net"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/culvert-proxy/culvert/proxy/internal/memnet"
)

// However much of the first request has been sent ahead, the broker gets the rest of it, once, and
// what the client has sent behind it.
func TestBytesThatAreThereAlreadyAreNotSentAgain(t *testing.T) {
	first, second := requestFrame(kmsg.NewPtrMetadataRequest(), 1, 1), requestFrame(kmsg.NewPtrMetadataRequest(), 1, 2)
	for sent := range len(first) + 1 {
		client, near := memnet.Pipe(memnet.Addr("client"), memnet.Addr("near"))
		far, broker := memnet.Pipe(memnet.Addr("far"), memnet.Addr("broker"))
		c := newConn(near, looking{}.settings())
		client.Write(append(bytes.Clone(first), second...))
		client.CloseWrite()
		if err := c.requests.readFirst(); err != nil {
			t.Fatal(err)
		}
		ahead := c.requests.repeatable()
		if len(ahead) != len(first) {
			t.Fatalf("%d bytes may be sent ahead, want all %d of the request", len(ahead), len(first))
		}
		c.requests.sentAhead(sent)
		c.connect(far)
		over := make(chan struct{})
		go func() { c.run(context.Background()); close(over) }()
		rest, err := io.ReadAll(broker)
		if got := append(ahead[:sent:sent], rest...); err != nil || !bytes.Equal(withoutIDs(got), withoutIDs(append(bytes.Clone(first), second...))) {
			t.Errorf("%d bytes sent ahead, and then %q, %v", sent, rest, err)
		}
		if sent > 0 && !bytes.Equal(append(ahead[:sent:sent], rest...)[:len(first)], ahead) {
			t.Errorf("%d bytes sent ahead: the first request changed its correlation id on the way", sent)
		}
		broker.Close()
		client.Close()
		<-over
	}
}

// A client that begins with a GSSAPI token had the time between that and its first request counted
// as the request's latency.
func TestLatencyBehindARawTokenBeginsWithTheRequest(t *testing.T) {
	broker := fakeBroker(t, func(c net.Conn) {
		token, err := readFrame(c)
		if err != nil {
			return
		}
		c.Write(framed(token))
		answering(func(_, _ int16, id int32) []byte { return metadata(id, 0) })(c)
	})
	agent := startAgent(t, NewDirect(&Brokers{Bootstrap: []string{broker}}), nil)
	c := dialKafka(t, agent.address)
	c.Write(framed([]byte("\x60 a token")))
	if _, err := readFrame(c); err != nil {
		t.Fatal(err)
	}
	const pause = 500 * time.Millisecond
	time.Sleep(pause)
	c.send(kmsg.NewPtrMetadataRequest(), 1)
	if _, err := readFrame(c); err != nil {
		t.Fatal(err)
	}
	measured := false
	families, err := agent.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "culvert_request_duration_seconds" {
			continue
		}
		for _, m := range f.GetMetric() {
			measured = true
			if sum := m.GetHistogram().GetSampleSum(); sum >= pause.Seconds() {
				t.Errorf("%v: the request took %v s, of which the client waited %v before it", m.GetLabel(), sum, pause)
			}
		}
	}
	if !measured {
		t.Error("no latency was measured")
	}
}
