package proxy

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"
)

// A client that reads slowly gets the whole of an answer from an agent that is told to stop: what
// lies in the socket's send buffer must not be thrown away, whatever the other direction sees.
func TestDrainDeliversWhatASlowClientHasNotRead(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		const size = 24 << 20
		broker := fakeBroker(t, func(c net.Conn) {
			request, err := readFrame(c)
			if err != nil {
				return // the gateway looks whether the broker is there
			}
			c.Write(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, size-4), uint32(idOf(request))))
			c.Write(make([]byte, size-8))
			io.Copy(io.Discard, c)
		})
		agent := startAgent(t, waysTo(t, []string{broker}, transport, nil)(), nil)
		client := dialAgent(t, agent.address)
		client.SetReadBuffer(64 << 10) // so that most of what it has not read lies with the agent
		client.Write(listGroups)
		if _, err := io.ReadFull(client, make([]byte, size/8)); err != nil {
			t.Fatal(err)
		}
		stopped := make(chan struct{})
		go func() { defer close(stopped); agent.stop() }()
		got := size / 8
		for piece := make([]byte, 64<<10); ; time.Sleep(2 * time.Millisecond) {
			n, err := client.Read(piece)
			got += n
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Errorf("after %d of %d bytes: %v (reset: %v)", got, size, err, errors.Is(err, syscall.ECONNRESET))
				break
			}
		}
		if got != size {
			t.Errorf("the client read %d of %d bytes", got, size)
		}
		<-stopped
	})
}
