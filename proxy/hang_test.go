package proxy

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/culvert-proxy/culvert/proxy/internal/testlog"
	"github.com/culvert-proxy/culvert/proxy/metrics"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// Each of these once waited for ever.

// emptyAnswer is a response without a body.
func emptyAnswer(_, _ int16, id int32) []byte { return binary.BigEndian.AppendUint32(nil, uint32(id)) }

// listGroups is one of the smallest requests there are: 14 bytes.
var listGroups = framed([]byte{0, 16, 0, 0, 0, 0, 0, 1, 0xff, 0xff})

// More requests than may be in flight fit into one buffer. The queue was waited for while all of
// them were in the buffer still.
func TestManyTinyRequestsInOneWriteAreAnswered(t *testing.T) {
	broker := fakeBroker(t, answering(emptyAnswer))
	path := startAgent(t, NewDirect(&Brokers{Bootstrap: []string{broker}}), nil)
	c := dialAgent(t, path.address)
	const n = 2 * (maxInflight + 500)
	go c.Write([]byte(strings.Repeat(string(listGroups), n)))
	if _, err := io.ReadFull(c, make([]byte, 8*n)); err != nil {
		t.Errorf("%d responses: %v", n, err)
	}
}

// A client that always has the next request on its way drains as well.
func TestBusyClientDrains(t *testing.T) {
	broker := fakeBroker(t, answering(emptyAnswer))
	log := &memoryLog{}
	path := startAgent(t, NewDirect(&Brokers{Bootstrap: []string{broker}}), func(a *Agent) { a.Logger = log.logger() })
	c := dialAgent(t, path.address)
	go func() {
		request := framed(append([]byte{0, 16, 0, 0, 0, 0, 0, 1, 0xff, 0xff}, make([]byte, 1000)...))
		many := []byte(strings.Repeat(string(request), 300))
		for {
			if _, err := c.Write(many); err != nil {
				return
			}
		}
	}()
	read := make(chan struct{})
	go func() { io.Copy(io.Discard, c); close(read) }()
	waitFor(t, "requests", func() bool { return gauge(t, path, "culvert_requests_total") > 1000 })
	path.stop()
	<-read
	if strings.Contains(log.String(), "did not end in time") {
		t.Error("the client was reset, not drained")
	}
}

// stalled is the beginning of a response, with its error code.
func stalled(id []byte) []byte {
	return append(append(binary.BigEndian.AppendUint32(nil, 1<<20), id...), 0, 0)
}

// When the client has reset, a broker that stops in the middle of a response does not keep the
// connection.
func TestStalledResponseDoesNotOutliveItsClient(t *testing.T) {
	over := make(chan struct{})
	broker := fakeBroker(t, func(c net.Conn) {
		request := make([]byte, len(listGroups))
		if _, err := io.ReadFull(c, request); err != nil {
			return // the agent's hello
		}
		c.Write(stalled(request[8:12]))
		io.Copy(io.Discard, c)
		<-over
	})
	path := startAgent(t, NewDirect(&Brokers{Bootstrap: []string{broker}}), nil)
	c := dialAgent(t, path.address)
	c.Write(listGroups)
	io.ReadFull(c, make([]byte, len(stalled(nil))+4))
	c.SetLinger(0)
	c.Close()
	waitFor(t, "the connection's end", func() bool { return gauge(t, path, "culvert_connections") == 0 })
	close(over)
}

// stoppedGateway runs a gateway with a short drain, has a stream send one request, answers it with
// what answer makes of its correlation id, and stops the gateway once the stream has read as much.
func stoppedGateway(t *testing.T, answer func(id []byte) []byte) {
	t.Helper()
	over := make(chan struct{})
	broker := fakeBroker(t, func(c net.Conn) {
		request := make([]byte, len(listGroups))
		if _, err := io.ReadFull(c, request); err != nil {
			return // the gateway's first look
		}
		c.Write(answer(request[8:12]))
		<-over
	})
	gateway := startGateway(t, []string{broker}, func(g *Gateway) { g.DrainTimeout = 50 * time.Millisecond })
	up := tunnelTo(t, gateway.address, "ws")
	t.Cleanup(func() { up.close() })
	s, _, err := up.dial(t.Context(), destination{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.Write(listGroups)
	if _, err := io.ReadFull(s, make([]byte, len(answer(make([]byte, 4))))); err != nil {
		t.Fatal(err)
	}
	gateway.stop() // fails the test if it does not return
	close(over)
}

func TestGatewayStopsInTheMiddleOfAResponse(t *testing.T) {
	stoppedGateway(t, stalled)
}

func TestGatewayStopsWithAStreamThatItDoesNotFollow(t *testing.T) {
	stoppedGateway(t, func(id []byte) []byte { return framed(append([]byte{^id[0]}, id...)) }) // another correlation id
}

func TestGatewayThatCannotServeSaysSo(t *testing.T) {
	gone, ln := listenLoopback(t), listenLoopback(t)
	gone.Close()
	ln.Close()
	g := &Gateway{
		Brokers: &Brokers{Bootstrap: []string{gone.Addr().String()}},
		Metrics: metrics.New(prometheus.NewRegistry(), metrics.Gateway, "test"), Logger: testlog.New(t, "gateway"),
	}
	if err := g.Run(context.Background(), ln, nil); err == nil {
		t.Error("a gateway ran on a listener that is closed")
	}
}

// A request that nobody knows must not pass for one more SASL token: its response would be relayed
// unread.
func TestARequestAfterTokensIsNotAToken(t *testing.T) {
	const name = "kafka-1.kafka.internal.invalid"
	for _, test := range []struct {
		name string
		head string // API key and version
	}{
		{"newer version", "\x00\x03\x00\x63"},
		{"unknown key", "\x00\xc8\x00\x00"},
	} {
		for _, transport := range transports {
			t.Run(test.name+" over "+transport, func(t *testing.T) {
				broker := fakeBroker(t, saslV0ThenNames(name))
				path := startPathTo(t, broker, transport)
				c := dialAgent(t, path.address)
				c.Write(framed([]byte("\x00\x11\x00\x00\x00\x00\x00\x01\xff\xff\x00\x05PLAIN")))
				io.ReadFull(c, make([]byte, 14))
				c.Write(framed([]byte("\x00user\x00password")))
				io.ReadFull(c, make([]byte, 4))
				c.Write(framed([]byte(test.head + "\x00\x00\x00\x02\xff\xff\x00")))
				got, err := io.ReadAll(c)
				if len(got) > 0 || tunnel.IsTimeout(err) {
					t.Errorf("the client read %q, %v, want an end", got, err)
				}
			})
		}
	}
}

// saslV0ThenNames accepts a SaslHandshake v0 and a token, and answers whatever follows with a name.
func saslV0ThenNames(name string) func(net.Conn) {
	return func(c net.Conn) {
		for i := 0; ; i++ {
			var length [4]byte
			if _, err := io.ReadFull(c, length[:]); err != nil {
				return
			}
			frame := make([]byte, binary.BigEndian.Uint32(length[:]))
			io.ReadFull(c, frame)
			switch i {
			case 0:
				c.Write(framed(append(frame[4:8:8], 0, 0, 0, 0, 0, 0)))
			case 1:
				c.Write(framed(nil))
			default:
				c.Write(framed(append(frame[4:8:8], name...)))
			}
		}
	}
}

// startPathTo starts what a transport needs between clients and one broker.
func startPathTo(t *testing.T, broker, transport string) running {
	t.Helper()
	if transport == "direct" {
		return startAgent(t, NewDirect(&Brokers{Bootstrap: []string{broker}}), nil)
	}
	return startAgent(t, tunnelTo(t, startGateway(t, []string{broker}, nil).address, transport), nil)
}
