package proxy

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// A client that is gone does not keep its connection, whatever is waited for on it: the answer to a
// request before one that is refused, or the next step of a login. Nobody reads from it meanwhile.
func TestAClientThatIsGoneKeepsNothing(t *testing.T) {
	unknown := framed([]byte{0x75, 0x30, 0, 0, 0, 0, 0, 7, 0xff, 0xff})
	for what, bytes := range map[string][]byte{
		"nothing more":                unknown[:0],
		"a request that is refused":   unknown,
		"a login without an answer":   append(handshakeV0("PLAIN", 5), framed([]byte("\x00user\x00password"))...),
		"an answer of ours in a turn": framed([]byte{0, 18, 0, 99, 0, 0, 0, 7, 0xff, 0xff}),
	} {
		t.Run(what, func(t *testing.T) {
			arrived := make(chan net.Conn, 1)
			over := make(chan struct{})
			defer close(over)
			broker := fakeBroker(t, func(c net.Conn) {
				if _, err := readFrame(c); err != nil {
					return // the agent's hello
				}
				arrived <- c
				<-over
			})
			agent := startAgent(t, NewDirect(&Brokers{Bootstrap: []string{broker}}), func(a *Agent) { a.headTimeout = time.Second })
			client := dialKafka(t, agent.address)
			client.send(kmsg.NewPtrMetadataRequest(), 1)
			m := meeting{broker: (<-arrived).(*net.TCPConn), client: client, agent: agent}
			go func() { // as a broker does while it has no answer yet
				io.Copy(io.Discard, m.broker)
				m.broker.Close()
			}()
			m.client.Write(bytes)
			time.Sleep(100 * time.Millisecond)
			m.client.SetLinger(0)
			m.client.Close()
			waitFor(t, "the connection's end", func() bool { return gauge(t, m.agent, "culvert_connections") == 0 })
		})
	}
}
