package proxy

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/culvert-proxy/culvert/proxy/fakekafka"
	"github.com/culvert-proxy/culvert/proxy/internal/testlog"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// gatewaysFor starts a gateway for each of these ticket keys, and returns them with an upstream
// through all of them that looks after them quickly.
func gatewaysFor(t *testing.T, c *fakekafka.Cluster, transport string, keys ...string) ([]running, *tunnels) {
	t.Helper()
	var gateways []running
	var dialers []*tunnel.Dialer
	for _, key := range keys {
		g := startGateway(t, c.Bootstrap(), func(g *Gateway) { g.TicketKeys, g.DrainTimeout = keysOf(key), 200*time.Millisecond })
		u, err := url.Parse(g.address)
		if err != nil {
			t.Fatal(err)
		}
		gateways = append(gateways, g)
		dialers = append(dialers, &tunnel.Dialer{URL: u, Transport: transport, TLS: clientTLS(t), Logger: testlog.New(t, "tunnel")})
	}
	up := NewTunnel(dialers...).(*tunnels)
	up.greeting = greeting{10 * time.Millisecond, 50 * time.Millisecond}
	return gateways, up
}

// waitUntilEqual waits until streams are spread over n gateways.
func waitUntilEqual(t *testing.T, up *tunnels, n int) {
	t.Helper()
	waitFor(t, fmt.Sprintf("%d equal gateways", n), func() bool {
		equal, _ := up.ranked()
		return len(equal) == n
	})
}

// connectionsAt are the Kafka connections that lead through each gateway.
func connectionsAt(t *testing.T, gateways []running) (n []int) {
	t.Helper()
	for _, g := range gateways {
		n = append(n, int(gauge(t, g, "culvert_connections")))
	}
	return n
}

// Connections are spread evenly over gateways that accept each other's tickets, also if many come
// at the same time.
func TestConnectionsAreSpreadOverEqualGateways(t *testing.T) {
	for _, transport := range []string{"ws", "h3", "h2"} {
		t.Run(transport, func(t *testing.T) {
			c := startCluster(t, 3)
			gateways, up := gatewaysFor(t, c, transport, "key", "key", "key")
			path := startAgent(t, up, nil)
			waitUntilEqual(t, up, 3)
			const n = 30
			var clients sync.WaitGroup
			for i := range n {
				clients.Go(func() {
					to := path.address
					if i%2 == 1 { // a ticket that one gateway has issued is shown to another
						to = path.node(int32(i % 3))
					}
					if got := len(dialKafka(t, to).brokers(t)); got != 3 {
						t.Errorf("connection %d: %d brokers", i, got)
					}
				})
				if i == 0 {
					clients.Wait() // from then on the nodes are known
				}
			}
			clients.Wait()
			for i, got := range connectionsAt(t, gateways) {
				if got < n/3-1 || got > n/3+1 {
					t.Errorf("gateway %d has %d of %d connections, want a third, give or take one", i, got, n)
				}
				if at := strings.TrimPrefix(gateways[i].address, "https://"); series(t, path, "culvert_gateway_streams", at) != float64(got) || up.tunnels()[i].Streams != got {
					t.Errorf("the agent does not show the %d connections through %s", got, at)
				}
			}
		})
	}
}

// Gateways that do not accept each other's tickets are used in the order in which they are given:
// the second one only while the first does not answer.
func TestGatewaysWithOtherKeysAreTriedInOrder(t *testing.T) {
	c := startCluster(t, 1)
	gateways, up := gatewaysFor(t, c, "ws", "one", "another")
	path := startAgent(t, up, nil)
	waitFor(t, "both to be known", func() bool { return up.gateways[0].up.Load() && up.gateways[1].up.Load() })
	for range 4 {
		dialKafka(t, path.address).brokers(t)
	}
	if got := connectionsAt(t, gateways); got[0] != 4 || got[1] != 0 {
		t.Errorf("connections %v, want 4 at the first gateway", got)
	}
	gateways[0].stop()
	dialKafka(t, path.address).brokers(t)
	if got := connectionsAt(t, gateways); got[1] != 1 {
		t.Errorf("connections %v, want 1 at the second gateway", got)
	}
	gateways[0] = startGatewayOn(t, gateways[0].address, c.Bootstrap(), func(g *Gateway) { g.TicketKeys = keysOf("one") })
	waitFor(t, "the first to be back", func() bool { return up.gateways[0].up.Load() })
	dialKafka(t, path.address).brokers(t)
	if got := connectionsAt(t, gateways); got[0] != 1 {
		t.Errorf("connections %v, want 1 at the first gateway again", got)
	}
}

// While one of two gateways is away, the other one serves all clients, and no record is lost. When
// it is back, it gets connections again.
func TestAGatewayThatIsAwayIsLeftOut(t *testing.T) {
	for _, transport := range []string{"ws", "h3", "h2"} {
		t.Run(transport, func(t *testing.T) {
			c := startCluster(t, 1, kfake.SeedTopics(1, "t"))
			gateways, up := gatewaysFor(t, c, transport, "key", "key")
			path := startAgent(t, up, nil)
			waitUntilEqual(t, up, 2)
			client := newClient(t, path.address, kgo.DefaultProduceTopic("t"))
			produce(t, client, "t", 10)
			gateways[0].stop()
			for i := range 10 {
				produceFrom(t, client, "t", 10+i, 1)
				dialKafka(t, path.address).brokers(t)
			}
			waitUntilEqual(t, up, 1)
			gateways[0] = startGatewayOn(t, gateways[0].address, c.Bootstrap(), func(g *Gateway) { g.TicketKeys = keysOf("key") })
			waitUntilEqual(t, up, 2)
			for range 10 {
				dialKafka(t, path.address).brokers(t)
			}
			if got := connectionsAt(t, gateways); got[0] != 10 {
				t.Errorf("connections %v, want the 10 new ones at the gateway that is back", got)
			}
			produceFrom(t, client, "t", 20, 10)
			wantStored(t, c, "t", numbered(0, 30))
		})
	}
}

// A gateway that reaches no broker would have the fewest streams, as they end at once. It gets one
// of them, and then the other one is preferred.
func TestAGatewayThatReachesNoBrokerDoesNotGetAllConnections(t *testing.T) {
	c := startCluster(t, 1)
	gateways, up := gatewaysFor(t, c, "ws", "key")
	lost := startGateway(t, []string{"127.0.0.1:1"}, func(g *Gateway) { g.TicketKeys = keysOf("key") })
	u, err := url.Parse(lost.address)
	if err != nil {
		t.Fatal(err)
	}
	both := NewTunnel(&tunnel.Dialer{URL: u, Transport: "ws", TLS: clientTLS(t), Logger: testlog.New(t, "tunnel")}, up.gateways[0].Dialer).(*tunnels)
	both.greeting = greeting{10 * time.Millisecond, 50 * time.Millisecond}
	path := startAgent(t, both, nil)
	waitUntilEqual(t, both, 2)
	failed := 0
	for range 20 {
		client := dialKafka(t, path.address)
		if _, err := client.ask(kmsg.NewPtrMetadataRequest(), 12); err != nil {
			failed++
		}
	}
	if failed > 1 || connectionsAt(t, gateways)[0] != 20-failed {
		t.Errorf("%d of 20 connections failed, and %v are at the gateway that reaches the broker", failed, connectionsAt(t, gateways))
	}
}

func TestGatewaysAreEqualIfEachAcceptsTheOthersTickets(t *testing.T) {
	for i, test := range []struct {
		ours, theirs []string
		equal        bool
	}{
		{[]string{"a"}, []string{"a"}, true},
		{[]string{"a"}, []string{"b"}, false},
		{[]string{"a", "b"}, []string{"b", "a"}, true}, // while keys are rotated
		{[]string{"a", "b"}, []string{"a"}, true},
		{[]string{"a", "b"}, []string{"b"}, false}, // b's holder refuses what a has signed
		{nil, nil, false},                          // an older gateway says nothing
	} {
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			with := func(keys []string) *remoteGateway {
				g := &remoteGateway{changed: func() {}, seen: func(*remoteGateway, string) {}}
				g.answered(tunnel.Opened{Keys: newSigner(keysOf(keys...)).ids()})
				return g
			}
			if got := with(test.ours).equals(with(test.theirs)); got != test.equal {
				t.Errorf("equal = %v", got)
			}
		})
	}
}
