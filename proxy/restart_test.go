package proxy

import (
	"fmt"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/plain"

	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// place is where the parts of a path stand, so that each can be ended and started again in its
// place.
type place struct {
	transport string
	gateway   running // zero where the transport needs none
	bootstrap []string
	key       string // of tickets; "": a random one for each gateway
}

func startPlace(t *testing.T, transport, key string, bootstrap []string) *place {
	t.Helper()
	p := &place{transport: transport, key: key, bootstrap: bootstrap}
	if transport != "direct" {
		p.gateway = startGateway(t, bootstrap, p.setKey)
	}
	return p
}

func (p *place) setKey(g *Gateway) {
	if p.key != "" {
		g.TicketKeys = keysOf(p.key)
	}
}

// up is a way from an agent to the brokers.
func (p *place) up(t *testing.T) Upstream {
	t.Helper()
	if p.transport == "direct" {
		return waysTo(t, p.bootstrap, "direct", nil)()
	}
	return tunnelTo(t, p.gateway.address, p.transport)
}

// restartGateway has another gateway take the place of the one that there is. It remembers nothing.
func (p *place) restartGateway(t *testing.T) {
	t.Helper()
	if p.transport == "direct" {
		return
	}
	p.gateway.stop()
	p.gateway = startGatewayOn(t, p.gateway.address, p.bootstrap, p.setKey)
}

var (
	saslCluster = []kfake.Opt{kfake.EnableSASL(), kfake.Superuser("PLAIN", "alice", "alice")}
	asAlice     = kgo.SASL(plain.Auth{User: "alice", Pass: "alice"}.AsMechanism())
)

// A client that goes straight back to a broker port, and never to the bootstrap address, is served
// by a restarted agent, whatever that has to go by.
func TestClientReconnectsAtOnceToARestartedAgent(t *testing.T) {
	for _, layer := range []struct {
		name           string
		stateFile      bool
		expect         []int32
		restartGateway bool
		first          int // attempts that the first node takes, and on a cluster with SASL
		firstSASL      int
	}{
		{name: "gateway remembers", first: 1, firstSASL: 1},
		{name: "state file", stateFile: true, restartGateway: true, first: 1, firstSASL: 1},
		{name: "expected nodes", expect: []int32{0, 1, 2}, restartGateway: true, first: 1, firstSASL: 2},
	} {
		for _, transport := range transports {
			if layer.name == "gateway remembers" && transport == "direct" {
				continue // there is none
			}
			for _, sasl := range []bool{false, true} {
				name, opts, attempts := layer.name+" over "+transport, []kfake.Opt(nil), layer.first
				var login []string
				if sasl {
					name, opts, attempts, login = name+" with SASL", saslCluster, layer.firstSASL, []string{"alice"}
				}
				t.Run(name, func(t *testing.T) {
					c := startCluster(t, 3, opts...)
					onePartitionEach(t, c, "t", 0, 1, 2)
					p := startPlace(t, transport, "key", c.Bootstrap())
					remember := func(a *Agent) {
						if a.ExpectNodes = layer.expect; layer.stateFile {
							a.StateFile = filepath.Join(t.TempDir(), "state")
						}
					}
					file := ""
					first := startAgent(t, p.up(t), func(a *Agent) { remember(a); file = a.StateFile })
					client := dialKafka(t, first.address)
					for _, user := range login {
						if err := client.login(user); err != nil {
							t.Fatal(err)
						}
					}
					client.brokers(t)
					first.stop()
					if layer.restartGateway {
						p.restartGateway(t)
					}
					second := startAgent(t, p.up(t), func(a *Agent) { remember(a); a.StateFile = file; first.again(a) })
					for _, id := range []int32{1, 2, 0} {
						if n := comeBack(t, second.node(id), "t", id, strconv.Itoa(int(id)), login...); n > attempts {
							t.Errorf("node %d took a record at attempt %d, want %d", id, n, attempts)
						}
						attempts = 1 // the first one has taught the others
					}
				})
			}
		}
	}
}

// A client produces all the while that agents end and begin, and a member of a group with a fixed
// instance id goes on consuming: nothing is lost, nothing comes twice, and its group does not
// rebalance.
func TestAgentRestartsUnderAProducerAndAStaticMember(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		c := startCluster(t, 3, kfake.SeedTopics(6, "t"))
		p := startPlace(t, transport, "", c.Bootstrap())
		file := filepath.Join(t.TempDir(), "state")
		agent := startAgent(t, p.up(t), func(a *Agent) { a.StateFile = file })

		producer := newClient(t, agent.address)
		member := newClient(t, agent.address, kgo.ConsumerGroup("g"), kgo.InstanceID("i"), kgo.ConsumeTopics("t"),
			kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
			// It gives a heartbeat up after four dials that are refused. With 20 ms between them,
			// as our other clients have, a restart can take longer, and it joins anew.
			kgo.RetryBackoffFn(func(int) time.Duration { return 500 * time.Millisecond }))
		const round, rounds = 100, 2
		produce(t, producer, "t", round)
		seen := consume(t, member, round)
		before, err := c.WaitGroupStable(t.Context(), "g", 1)
		if err != nil {
			t.Fatal(err)
		}
		for i := 1; i <= rounds; i++ {
			var produced sync.WaitGroup
			produced.Go(func() {
				for n := range round {
					produceFrom(t, producer, "t", i*round+n, 1)
				}
			})
			agent.stop()
			agent = startAgent(t, p.up(t), func(a *Agent) { a.StateFile = file; agent.again(a) })
			produced.Wait()
			for value, times := range consume(t, member, round) {
				seen[value] += times
			}
		}
		for value := range numbered(0, (1+rounds)*round) {
			if seen[value] != 1 {
				t.Errorf("record %s came %d times to the member", value, seen[value])
			}
		}
		wantStored(t, c, "t", numbered(0, (1+rounds)*round))
		after := c.GroupInfo("g")
		if after.Epoch != before.Epoch || len(after.Members) != 1 || after.Members[0].MemberID != before.Members[0].MemberID {
			t.Errorf("the group is %+v, was %+v: it has rebalanced", after, before)
		}
	})
}

// With a random key a gateway's tickets end with it. The agent notices, and asks for new ones by
// itself.
func TestGatewayRestartsWithAnotherTicketKey(t *testing.T) {
	for _, transport := range []string{"ws", "h3", "h2"} {
		for _, login := range [][]string{nil, {"alice"}} {
			t.Run(fmt.Sprint(transport, login), func(t *testing.T) {
				var opts []kfake.Opt
				if login != nil {
					opts = saslCluster
				}
				c := startCluster(t, 3, opts...)
				onePartitionEach(t, c, "t", 0, 1, 2)
				p := startPlace(t, transport, "", c.Bootstrap())
				agent := startAgent(t, p.up(t), func(a *Agent) { a.ExpectNodes = []int32{0} })
				comeBack(t, agent.node(0), "t", 0, "before", login...)
				p.restartGateway(t)
				for id := range int32(3) {
					// First the dial of the old gateway fails, then the new one refuses the ticket,
					// then a bootstrap broker answers, then the node is known.
					if n := comeBack(t, agent.node(id), "t", id, "after", login...); n > 4 {
						t.Errorf("node %d took a record at attempt %d, want 4 or fewer", id, n)
					}
				}
				if n := series(t, p.gateway, "culvert_tickets_total", "invalid"); n == 0 {
					t.Error("no ticket of the gateway before was shown: the test shows nothing")
				}
			})
		}
	}
}

func TestClientProducesWhileTheGatewayRestarts(t *testing.T) {
	c := startCluster(t, 3, append(saslCluster, kfake.SeedTopics(6, "t"))...)
	p := startPlace(t, "ws", "", c.Bootstrap())
	agent := startAgent(t, p.up(t), nil)
	client := newClient(t, agent.address, asAlice)
	const round, rounds = 100, 3
	for i := range rounds {
		var produced sync.WaitGroup
		produced.Go(func() {
			for n := range round {
				produceFrom(t, client, "t", i*round+n, 1)
			}
		})
		p.restartGateway(t)
		produced.Wait()
	}
	if diff := cmp.Diff(numbered(0, rounds*round), stored(t, c, "t", asAlice)); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
}

// Replicas that share a key take each other's tickets.
func TestReplicaTakesTicketsOfItsKey(t *testing.T) {
	for _, transport := range []string{"ws", "h3", "h2"} {
		t.Run(transport, func(t *testing.T) {
			c := startCluster(t, 2, saslCluster...)
			onePartitionEach(t, c, "t", 0, 1)
			p := startPlace(t, transport, "shared", c.Bootstrap())
			agent := startAgent(t, p.up(t), nil)
			first := dialKafka(t, agent.address)
			if err := first.login("alice"); err != nil {
				t.Fatal(err)
			}
			first.brokers(t)
			p.key = "new" // rotated: the new key signs, the old one still verifies
			p.gateway.stop()
			p.gateway = startGatewayOn(t, p.gateway.address, p.bootstrap, func(g *Gateway) { g.TicketKeys = keysOf("new", "shared") })
			for id := range int32(2) {
				if n := comeBack(t, agent.node(id), "t", id, "x", "alice"); n != 1 {
					t.Errorf("node %d took a record at attempt %d, want the first", id, n)
				}
			}
			if n := series(t, p.gateway, "culvert_tickets_total", "accepted"); n != 2 {
				t.Errorf("%v tickets accepted, want 2", n)
			}
		})
	}
}

// A ticket that has expired while the agent was away makes its node unknown, which costs a question
// and no client its connection.
func TestExpiredTicketIsAnUnknownNode(t *testing.T) {
	c := startCluster(t, 2)
	onePartitionEach(t, c, "t", 0, 1)
	p := startPlace(t, "ws", "key", c.Bootstrap())
	address := dialKafka(t, c.Bootstrap()[0]).brokers(t)[1]
	expired, err := newSigner(keysOf("key")).sign(tunnel.Ticket{ClusterID: "kfake", NodeID: 1, Address: address}, time.Now().Add(-ticketLifetime))
	if err != nil {
		t.Fatal(err)
	}
	up := p.up(t)
	file := filepath.Join(t.TempDir(), "state")
	if err := (state{}).with(clusterState{up.name(), "kfake", []tunnel.Ticket{expired}}).write(file); err != nil {
		t.Fatal(err)
	}
	agent := startAgent(t, up, func(a *Agent) { a.StateFile = file })
	if err := dialKafka(t, agent.node(1)).produce("t", 1, "x"); err != nil {
		t.Errorf("produce: %v", err)
	}
	if n := series(t, p.gateway, "culvert_tickets_total", "expired"); n != 0 {
		t.Errorf("%v expired tickets were shown", n)
	}
}

// A broker ends a session, as connections.max.reauth.ms says, unless the client authenticates again
// on the same connection.
func TestClientAuthenticatesAgain(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		t.Parallel() // it waits
		c := startCluster(t, 1, append(saslCluster, kfake.SeedTopics(1, "t"), kfake.BrokerConfigs(map[string]string{"connections.max.reauth.ms": "1000"}))...)
		path := startPath(t, c, transport, nil)
		client := newClient(t, path.address, asAlice)
		produce(t, client, "t", 1)
		connections := gauge(t, path, "culvert_connections")
		before := series(t, path, "culvert_requests_total", "SaslAuthenticate")
		for i := 1; series(t, path, "culvert_requests_total", "SaslAuthenticate") < before+5; i++ {
			produceFrom(t, client, "t", i, 1)
			time.Sleep(20 * time.Millisecond)
		}
		if n := gauge(t, path, "culvert_connections"); n != connections {
			t.Errorf("%v connections, want the same %v as before", n, connections)
		}
	})
}
