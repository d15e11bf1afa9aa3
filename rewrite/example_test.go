package rewrite_test

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/culvert-proxy/culvert/protocol"
	"github.com/culvert-proxy/culvert/rewrite"
)

// ports maps each broker to a port of this machine.
type ports int32

func (p ports) Learn(_ string, brokers []rewrite.Broker) error {
	for _, b := range brokers {
		fmt.Printf("listen on port %d for broker %d at %s:%d\n", int32(p)+b.NodeID, b.NodeID, b.Host, b.Port)
	}
	return nil
}

func (p ports) Local(b rewrite.Broker) (host string, port int32, ok bool) {
	return "127.0.0.1", int32(p) + b.NodeID, true
}

// A FindCoordinator response v0 on its way from a broker to a client.
func ExampleRewriter_Relay() {
	broker := strings.NewReader("\x00\x00\x00\x1d\x00\x00\x00\x07\x00\x00" +
		"\x00\x00\x00\x02\x00\x0dkafka-2.local\x00\x00\x23\x84")
	var client bytes.Buffer
	f := protocol.NewFlow(broker, &client)

	size, _, err := protocol.PeekResponse(f)
	if err != nil {
		panic(err)
	}
	w := rewrite.Rewriter{Directory: ports(19092)}
	result, err := w.Relay(f, protocol.FindCoordinator, 0, size)
	if err != nil {
		panic(err)
	}
	if err := f.Flush(); err != nil {
		panic(err)
	}
	fmt.Printf("%d rewritten: %q\n", result.Rewritten, client.Bytes()[10:])
	// Output:
	// listen on port 19094 for broker 2 at kafka-2.local:9092
	// 1 rewritten: "\x00\x00\x00\x02\x00\t127.0.0.1\x00\x00J\x96"
}
