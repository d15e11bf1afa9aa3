package proxy

import (
	"encoding/binary"
	"net"
	"strconv"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// A cluster of a hundred brokers has a hundred listeners, and each of them answers.
func TestAHundredBrokers(t *testing.T) {
	const brokers = 100
	cluster := startCluster(t, brokers)
	gateway := startGateway(t, cluster.Bootstrap()[:3], nil)
	path := startAgent(t, tunnelTo(t, gateway.address, "h3"), nil)
	response, err := dialKafka(t, path.address).ask(kmsg.NewPtrMetadataRequest(), 1)
	if err != nil {
		t.Fatal(err)
	}
	listeners := map[string]bool{}
	for _, b := range response.(*kmsg.MetadataResponse).Brokers {
		at := net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port)))
		listeners[at] = true
		if _, err := dialKafka(t, at).ask(kmsg.NewPtrApiVersionsRequest(), 0); err != nil {
			t.Errorf("broker %d at %s: %v", b.NodeID, at, err)
		}
	}
	if n := gauge(t, path, "culvert_nodes"); n != brokers || len(listeners) != brokers {
		t.Errorf("%d listeners for %v nodes, want %d", len(listeners), n, brokers)
	}
}

// Five thousand requests are in flight at once, over fifty connections, and each client gets its
// own answers in order.
func TestFiveThousandRequestsInFlight(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		const connections, each = 50, 100
		var arrived sync.WaitGroup
		arrived.Add(connections)
		broker := fakeBroker(t, func(c net.Conn) {
			var ids []int32
			for range each {
				frame, err := readFrame(c)
				if err != nil {
					return // a connection of the agent's or the gateway's own
				}
				ids = append(ids, int32(binary.BigEndian.Uint32(frame[4:])))
			}
			arrived.Done()
			arrived.Wait() // all of them are in flight
			for _, id := range ids {
				c.Write(framed(apiVersionsAnswer(id)))
			}
			readFrame(c) // until the client leaves
		})
		path := idlePath(t, broker, transport)
		var clients sync.WaitGroup
		for range connections {
			c := dialKafka(t, path.address)
			clients.Go(func() {
				for range each {
					c.send(kmsg.NewPtrApiVersionsRequest(), 0)
				}
				for want := range uint32(each) {
					frame, err := readFrame(c)
					if err != nil || binary.BigEndian.Uint32(frame) != want+1 {
						t.Errorf("answer %d: %v, %x", want, err, frame[:min(len(frame), 4)])
						return
					}
				}
			})
		}
		clients.Wait()
	})
}
