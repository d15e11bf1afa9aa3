package proxy

import (
	"encoding/binary"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// What an idle connection costs both ends together, and the client and the broker of this test: one
// goroutine, and about 2 KiB.
var idleCosts = map[string]struct {
	goroutines float64
	bytes      int
}{
	// Two goroutines at each end, one for each direction. QUIC connections, of which there are 16,
	// have some of their own, up to 32 WebSockets that are ready have one at each end, and net/http
	// has two for each POST, at each end.
	"direct": {1 + 2, 32 << 10},
	"ws":     {1 + 4 + 0.25, 96 << 10},
	"h3":     {1 + 4 + 0.75, 72 << 10},
	"h2":     {1 + 8 + 0.75, 160 << 10},
}

// An idle connection of a client that has had an answer holds no more goroutines and memory than
// it must. The bounds of memory are twice what was measured on a quiet machine: a buffer of 64 KiB
// that one direction of one end keeps is more.
func TestAnIdleConnectionCostsLittle(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		const connections = 400
		broker := fakeBroker(t, answering(func(_, _ int16, id int32) []byte { return apiVersionsAnswer(id) }))
		path := idlePath(t, broker, transport)
		talk := func() *kafkaConn {
			c := dialKafka(t, path.address)
			if _, err := c.ask(kmsg.NewPtrApiVersionsRequest(), 0); err != nil {
				t.Fatal(err)
			}
			return c
		}
		talk() // what all connections share is there by now
		goroutines, bytes := runtime.NumGoroutine(), memoryInUse()
		var conns []net.Conn
		for range connections {
			conns = append(conns, talk())
		}
		most := idleCosts[transport]
		var each float64
		var size int
		for range 120 { // connections give their buffers back after a second, and goroutines end
			each = float64(runtime.NumGoroutine()-goroutines) / connections
			size = int(memoryInUse()-bytes) / connections
			if each <= most.goroutines && size <= most.bytes {
				break
			}
			time.Sleep(250 * time.Millisecond)
		}
		t.Logf("%.2f goroutines and %d bytes for each connection", each, size)
		if each > most.goroutines || size > most.bytes && !underRace {
			t.Errorf("%.2f goroutines and %d bytes for each connection, want at most %.2f and %d", each, size, most.goroutines, most.bytes)
		}
		runtime.KeepAlive(conns)
	})
}

// idlePath starts an agent, and a gateway unless the transport is direct.
func idlePath(t *testing.T, broker, transport string) running {
	if transport == "direct" {
		return startAgent(t, NewDirect(&Brokers{Bootstrap: []string{broker}}), quietAgent)
	}
	gateway := startGateway(t, []string{broker}, func(g *Gateway) { g.Logger = nil })
	return startAgent(t, tunnelTo(t, gateway.address, transport), quietAgent)
}

// quietAgent has an agent log nothing: a test keeps what is logged in memory.
func quietAgent(a *Agent) { a.Logger = nil }

// memoryInUse is what is left of heap and stacks after two collections, of which the first leaves
// what is in pools.
func memoryInUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// apiVersionsAnswer is an ApiVersions v0 response that names no other API.
func apiVersionsAnswer(id int32) []byte {
	r := kmsg.NewPtrApiVersionsResponse()
	r.ApiKeys = []kmsg.ApiVersionsResponseApiKey{{ApiKey: kmsg.ApiVersions.Int16(), MaxVersion: 3}}
	return r.AppendTo(binary.BigEndian.AppendUint32(nil, uint32(id)))
}
