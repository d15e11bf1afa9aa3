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

// Where both ends are plain TCP the kernel moves large frames. A read deadline that is left over
// from the wait for the frame may pass meanwhile.
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
	answered := bytes.Clone(response)
	copy(answered[4:8], expectRequest(t, broker, request))
	go func() {
		broker.Write(answered[:1<<20])
		time.Sleep(idleAfter + idleAfter/10)
		broker.Write(answered[1<<20:])
	}()
	expect(t, client, response)
}

func TestCutInALargeFrameOverTCPIsPassedOn(t *testing.T) {
	request, response := requestOf(protocol.Fetch, 11, 100), make([]byte, 4<<20)
	binary.BigEndian.PutUint32(response, uint32(len(response)-4))
	client, broker := relayedTo(t)
	client.Write(request)
	copy(response[4:8], expectRequest(t, broker, request))
	broker.Write(response[:3<<20])
	broker.Close()
	if n, err := io.Copy(io.Discard, client); err == nil {
		t.Errorf("the client sees a clean end after %d bytes of a response of %d", n, len(response))
	}
}

func expect(t *testing.T, c net.Conn, want []byte) {
	t.Helper()
	if !bytes.Equal(readAs(t, c, want), want) {
		t.Fatal("the bytes are not those that were sent")
	}
}

// expectRequest is expect for a request that a broker reads, which has a correlation id of ours. It
// returns that.
func expectRequest(t *testing.T, c net.Conn, want []byte) (id []byte) {
	t.Helper()
	got := readAs(t, c, want)
	if !bytes.Equal(got[:8], want[:8]) || !bytes.Equal(got[12:], want[12:]) {
		t.Fatal("the bytes are not those that were sent")
	}
	return got[8:12]
}

// readAs reads as many bytes as want has.
func readAs(t *testing.T, c net.Conn, want []byte) []byte {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	got := make([]byte, len(want))
	if n, err := io.ReadFull(c, got); err != nil {
		t.Fatalf("%d of %d bytes: %v", n, len(want), err)
	}
	return got
}
