package proxy

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// An eagerUpstream has sent the first request, and has its response, when a stream is opened.
type eagerUpstream struct {
	quietUpstream
	brokers chan net.Conn
}

func (u eagerUpstream) dial(_ context.Context, to destination) (net.Conn, int, error) {
	near, far := net.Pipe()
	go func() {
		if len(to.first) > 0 {
			far.Write(framed(metadata(int32(binary.BigEndian.Uint32(to.first[8:])), 0)))
		}
		u.brokers <- far
	}()
	return near, len(to.first), nil
}

// The response to a request that was sent with OPEN can be here before the request is in flight,
// and the request must not be sent twice.
func TestAResponseMayBeHereAtOnce(t *testing.T) {
	u := eagerUpstream{quietUpstream{NewDirect(&Brokers{Bootstrap: []string{"127.0.0.1:1"}})}, make(chan net.Conn, 1)}
	agent := startAgent(t, u, nil)
	for range 100 {
		client := dialKafka(t, agent.address)
		client.send(kmsg.NewPtrMetadataRequest(), 1)
		got := make([]byte, len(framed(metadata(1, 0))))
		if _, err := io.ReadFull(client, got); err != nil || !bytes.Equal(got, framed(metadata(1, 0))) {
			t.Fatalf("the client read %q, %v", got, err)
		}
		broker := <-u.brokers
		client.send(kmsg.NewPtrMetadataRequest(), 1)
		expectRequest(t, broker, requestFrame(kmsg.NewPtrMetadataRequest(), 1, 2)) // the second alone
		client.Close()
		broker.Close()
	}
}
