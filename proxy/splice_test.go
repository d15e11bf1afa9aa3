package proxy

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/culvert-proxy/culvert/protocol"
)

// Where both ends are plain TCP the kernel moves large frames. A read deadline
// that is left over from the wait for the frame may pass meanwhile.
func TestLargeFramesOverTCPArriveWhole(t *testing.T) {
	request, response := requestOf(protocol.Fetch, 11, 300_000), make([]byte, 5<<20)
	noise := rand.NewChaCha8([32]byte{})
	noise.Read(request[64:])
	noise.Read(response[8:])
	binary.BigEndian.PutUint32(response, uint32(len(response)-4))
	binary.BigEndian.PutUint32(response[4:], 0)

	client, broker := relayedTo(t)
	go func() {
		for _, part := range [][]byte{request[:100], request[100:100_000], request[100_000:]} {
			client.Write(part)
		}
	}()
	expect(t, broker, request)
	go func() {
		broker.Write(response[:1<<20])
		time.Sleep(idleAfter + idleAfter/10)
		broker.Write(response[1<<20:])
	}()
	expect(t, client, response)
}

func TestCutInALargeFrameOverTCPIsPassedOn(t *testing.T) {
	request, response := requestOf(protocol.Fetch, 11, 100), make([]byte, 4<<20)
	binary.BigEndian.PutUint32(response, uint32(len(response)-4))
	client, broker := relayedTo(t)
	client.Write(request)
	expect(t, broker, request)
	broker.Write(response[:3<<20])
	broker.Close()
	if n, err := io.Copy(io.Discard, client); err == nil {
		t.Errorf("the client sees a clean end after %d bytes of a response of %d", n, len(response))
	}
}

func expect(t *testing.T, c net.Conn, want []byte) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	got := make([]byte, len(want))
	if n, err := io.ReadFull(c, got); err != nil {
		t.Fatalf("%d of %d bytes: %v", n, len(want), err)
	}
	if !bytes.Equal(got, want) {
		t.Fatal("the bytes are not those that were sent")
	}
}
