package proxy

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// hostileNames is a resolver whose answers to a name come one after the other, and which keeps what
// it was asked.
type hostileNames struct {
	mu    sync.Mutex
	names names
	asked []string
}

func (h *hostileNames) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked = append(h.asked, host)
	return h.names.LookupNetIP(ctx, network, host)
}

func (h *hostileNames) lookups() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.asked)
}

// askFor opens a stream as an agent does that asks for what it likes, and returns why it was
// refused.
func askFor(t *testing.T, up Upstream, address string, ticket *tunnel.Ticket) *tunnel.Error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, _, err := up.dial(ctx, destination{address: address, ticket: ticket})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	c.Write(requestFrame(kmsg.NewPtrMetadataRequest(), 1, 1))
	_, err = io.ReadAll(c)
	var refused *tunnel.Error
	if !errors.As(err, &refused) {
		t.Errorf("a stream to %s ended with %v, want a refusal", address, err)
		return &tunnel.Error{}
	}
	return refused
}

// Whoever holds an agent's credentials reaches brokers with them, and nothing else that the gateway
// could reach.
func TestAGatewayDialsOnlyWhatABrokerNamed(t *testing.T) {
	const agentsToken = "the agent's token"
	broker := fakeBroker(t, answering(func(_, _ int16, id int32) []byte { return metadata(id, 1) }))
	for _, transport := range []string{"ws", "h3", "h2"} {
		t.Run(transport, func(t *testing.T) {
			resolver := &hostileNames{names: names{"made-up.example": {"127.0.0.1"}}}
			var answered func() bool
			gateway := startGateway(t, []string{broker}, func(g *Gateway) {
				g.TicketKeys = keysOf("the gateway's key")
				g.Brokers.Resolver, g.Brokers.Metrics = resolver, g.Metrics
				answered = func() bool { return g.Ready() == nil }
			})
			up := tunnelTo(t, gateway.address, transport)
			defer up.close()
			waitFor(t, "the gateway's first dial", func() bool { return answered() && gauge(t, gateway, "culvert_broker_dials_total") > 0 })
			dials := gauge(t, gateway, "culvert_broker_dials_total")

			loopback := silent(t, "127.0.0.1:0").String()
			_, port, _ := net.SplitHostPort(loopback)
			sign := func(key, address string) *tunnel.Ticket {
				tk, err := newSigner(keysOf(key)).sign(tunnel.Ticket{ClusterID: "c", NodeID: 1, Address: address}, time.Now())
				if err != nil {
					t.Fatal(err)
				}
				return &tk
			}
			for _, address := range []string{loopback, "169.254.169.254:80", "[fe80::1]:80", "made-up.example:" + port, "0.0.0.0:" + port} {
				altered := sign("the gateway's key", "kafka-1:9092")
				altered.Address = address
				for name, test := range map[string]struct {
					ticket *tunnel.Ticket
					want   tunnel.Code
				}{
					"no ticket":                        {nil, tunnel.CodeTarget},
					"forged":                           {&tunnel.Ticket{ClusterID: "c", NodeID: 1, Address: address, Expires: time.Now().Add(time.Hour).Unix(), MAC: make([]byte, 32)}, tunnel.CodeTicket},
					"signed with the agent's token":    {sign(agentsToken, address), tunnel.CodeTicket},
					"another address's":                {sign("the gateway's key", "kafka-1:9092"), tunnel.CodeTicket},
					"another address's, but this here": {altered, tunnel.CodeTicket},
				} {
					if refused := askFor(t, up, address, test.ticket); refused.Code != test.want {
						t.Errorf("%s, ticket %s: %v, want the code %s", address, name, refused, test.want)
					}
				}
			}
			if n := gauge(t, gateway, "culvert_broker_dials_total"); n != dials {
				t.Errorf("the gateway dialled %v times", n-dials)
			}
			if asked := resolver.lookups(); len(asked) > 0 {
				t.Errorf("the gateway looked up %v", asked)
			}
		})
	}
}

// A broker may name what it likes, and gets a ticket for it. What is dialled in its name is checked
// all the same.
func TestHostileBrokerLeadsNowhereElse(t *testing.T) {
	port := silent(t, "127.0.0.1:0").(*net.TCPAddr).Port
	hostile := []string{"169.254.169.254", "fe80::1", "0.0.0.0", "::", "224.0.0.1", "255.255.255.255", "::ffff:169.254.169.254", "metadata.example", "nowhere.example"}
	response := func(id int32) []byte {
		r := kmsg.NewPtrMetadataResponse()
		r.Version = 1
		for i, host := range hostile {
			b := kmsg.NewMetadataResponseBroker()
			b.NodeID, b.Host, b.Port = int32(i), host, int32(port)
			r.Brokers = append(r.Brokers, b)
		}
		return r.AppendTo(binary.BigEndian.AppendUint32(nil, uint32(id)))
	}
	broker := fakeBroker(t, answering(func(_, version int16, id int32) []byte {
		if version != 1 {
			return binary.BigEndian.AppendUint32(nil, uint32(id)) // the agent's own question: it has no answer
		}
		return response(id)
	}))
	eachTransport(t, func(t *testing.T, transport string) {
		resolver := &hostileNames{names: names{"metadata.example": {"169.254.169.254"}}}
		log := &memoryLog{}
		var up Upstream = NewDirect(&Brokers{Bootstrap: []string{broker}, Resolver: resolver})
		if transport != "direct" {
			gateway := startGateway(t, []string{broker}, func(g *Gateway) { g.Brokers.Resolver = resolver })
			up = tunnelTo(t, gateway.address, transport)
		}
		agent := startAgent(t, up, func(a *Agent) {
			a.Logger = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		})
		if _, err := dialKafka(t, agent.address).ask(kmsg.NewPtrMetadataRequest(), 1); err != nil {
			t.Fatal(err)
		}
		for i, host := range hostile {
			c := dialKafka(t, agent.node(int32(i)))
			c.send(kmsg.NewPtrHeartbeatRequest(), 4)
			if got, reset := ended(t, c); len(got) > 0 || !reset {
				t.Errorf("a client of %s read %q, reset %v, want a reset", host, got, reset)
			}
		}
		for _, said := range []string{"link-local", "unspecified", "multicast", "no such host"} {
			waitFor(t, "the log to say "+said, func() bool { return strings.Contains(log.String(), said) })
		}
	})
}

// A broker's name that is harmless at first and the cloud's metadata service later is looked up for
// each dial, and each answer is checked.
func TestANameIsCheckedOnEachDial(t *testing.T) {
	var port atomic.Int32
	broker := fakeBroker(t, answering(func(_, version int16, id int32) []byte {
		r := kmsg.NewPtrMetadataResponse()
		r.Version = version
		b := kmsg.NewMetadataResponseBroker()
		b.NodeID, b.Host, b.Port = 0, "rebinding.example", port.Load()
		r.Brokers = append(r.Brokers, b)
		return r.AppendTo(binary.BigEndian.AppendUint32(nil, uint32(id)))
	}))
	at, err := splitEndpoint(broker)
	if err != nil {
		t.Fatal(err)
	}
	port.Store(at.port)
	eachTransport(t, func(t *testing.T, transport string) {
		resolver := &hostileNames{names: names{"rebinding.example": {"127.0.0.1", "169.254.169.254"}}}
		var up Upstream = NewDirect(&Brokers{Bootstrap: []string{broker}, Resolver: resolver})
		if transport != "direct" {
			up = tunnelTo(t, startGateway(t, []string{broker}, func(g *Gateway) { g.Brokers.Resolver = resolver }).address, transport)
		}
		agent := startAgent(t, up, nil)
		request := kmsg.NewPtrMetadataRequest()
		if _, err := dialKafka(t, agent.address).ask(request, 1); err != nil {
			t.Fatal(err)
		}
		if _, err := dialKafka(t, agent.node(0)).ask(request, 1); err != nil {
			t.Errorf("the first client: %v", err)
		}
		if _, err := dialKafka(t, agent.node(0)).ask(request, 1); err == nil {
			t.Error("the second client was answered")
		}
		if want := []string{"rebinding.example", "rebinding.example"}; !slices.Equal(resolver.lookups(), want) {
			t.Errorf("looked up %v, want once for each dial", resolver.lookups())
		}
	})
}

// Beside a gateway whose brokers are elsewhere, loopback is where its own admin listener is, and no
// broker.
func TestLoopbackIsNotDialledForRemoteBrokers(t *testing.T) {
	loopback := silent(t, "127.0.0.1:0").String()
	_, port, _ := net.SplitHostPort(loopback)
	for _, transport := range []string{"ws", "h3", "h2"} {
		t.Run(transport, func(t *testing.T) {
			resolver := &hostileNames{names: names{"self.example": {"127.0.0.1"}}}
			gateway := startGateway(t, []string{"kafka.example:9092"}, func(g *Gateway) {
				g.TicketKeys, g.Brokers.Resolver = keysOf("key"), resolver
			})
			up := tunnelTo(t, gateway.address, transport)
			defer up.close()
			for _, address := range []string{loopback, "self.example:" + port, "[::ffff:127.0.0.1]:" + port} {
				ticket, err := newSigner(keysOf("key")).sign(tunnel.Ticket{Address: address}, time.Now())
				if err != nil {
					t.Fatal(err)
				}
				refused := askFor(t, up, address, &ticket)
				if refused.Code != tunnel.CodeTarget || !strings.Contains(refused.Message, "loopback") {
					t.Errorf("%s: %v, want it refused as loopback", address, refused)
				}
			}
		})
	}
}
