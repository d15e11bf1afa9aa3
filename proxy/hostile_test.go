package proxy

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/culvert-proxy/culvert/protocol"
	"github.com/culvert-proxy/culvert/proxy/fakekafka"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
	"github.com/culvert-proxy/culvert/rewrite"
	"github.com/culvert-proxy/culvert/test/kafkamodel"
)

// attackedPath is an agent, a gateway and brokers that are models of Kafka's, which a client
// attacks. What the brokers repeat of what a client says is the client's to choose.
type attackedPath struct {
	agent   *Agent
	gateway *Gateway
	address string
	brokers []string // addresses that they advertise

	mu      sync.Mutex
	mode    uint8
	echo    []byte   // the body of responses that do not name brokers
	lookups []string // of the gateway: names
	dials   []string // and where they have led
}

func attackPath(f *testing.F) *attackedPath {
	p := &attackedPath{}
	broker := fakeBroker(f, func(c net.Conn) { serveModel(c, kafkamodel.New(p.broker())) })
	_, port, _ := net.SplitHostPort(broker)
	for id := range int32(3) {
		p.brokers = append(p.brokers, net.JoinHostPort(fakekafka.Host(id), port))
	}
	g := startGateway(f, []string{broker}, func(g *Gateway) {
		g.Logger, g.Brokers.Resolver, g.Brokers.control, p.gateway = nil, p, p.dial, g
	})
	agent := startAgent(f, tunnelTo(f, g.address, "ws"), func(a *Agent) { a.Logger, p.agent = nil, a })
	p.address = agent.address
	return p
}

// LookupNetIP notes what the gateway is about to dial.
func (p *attackedPath) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	p.mu.Lock()
	p.lookups = append(p.lookups, host)
	p.mu.Unlock()
	return fakekafka.Resolver{}.LookupNetIP(ctx, network, host)
}

func (p *attackedPath) dial(_, address string, _ syscall.RawConn) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dials = append(p.dials, address)
	return nil
}

// broker is what brokers do: they name themselves where they are asked to, and repeat what the
// client likes elsewhere.
func (p *attackedPath) broker() kafkamodel.Config {
	p.mu.Lock()
	defer p.mu.Unlock()
	cfg, echo := brokerOf(p.mode), p.echo
	cfg.Respond = func(e kafkamodel.Event) []byte {
		r := kmsg.ResponseForKey(e.Key)
		r.SetVersion(e.Version)
		switch r := r.(type) {
		case *kmsg.MetadataResponse:
			r.ClusterID = new("cluster")
			for id := range int32(3) {
				b := kmsg.NewMetadataResponseBroker()
				b.NodeID, b.Host, b.Port = id, fakekafka.Host(id), p.port()
				r.Brokers = append(r.Brokers, b)
			}
		case *kmsg.FindCoordinatorResponse:
			r.NodeID, r.Host, r.Port = 1, fakekafka.Host(1), p.port()
			c := kmsg.NewFindCoordinatorResponseCoordinator()
			c.NodeID, c.Host, c.Port = 1, fakekafka.Host(1), p.port()
			r.Coordinators = append(r.Coordinators, c)
		case *kmsg.DescribeClusterResponse:
			r.ClusterID = "cluster"
			b := kmsg.NewDescribeClusterResponseBroker()
			b.NodeID, b.Host, b.Port = 2, fakekafka.Host(2), p.port()
			r.Brokers = append(r.Brokers, b)
		default:
			if rewrite.Touches(protocol.APIKey(e.Key), e.Version) || e.Key == int16(protocol.SASLHandshake) {
				return nil
			}
			return echo
		}
		return r.AppendTo(nil)
	}
	return cfg
}

func (p *attackedPath) port() int32 {
	_, port, _ := net.SplitHostPort(p.brokers[0])
	n, _ := strconv.Atoi(port)
	return int32(n)
}

// attack is one connection of a client, which returns what it has read.
func (p *attackedPath) attack(t *testing.T, sent []byte, mode uint8, echo []byte) []byte {
	t.Helper()
	p.mu.Lock()
	p.mode, p.echo = mode, echo
	p.mu.Unlock()
	c, err := net.Dial("tcp", p.address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	var sending sync.WaitGroup
	defer sending.Wait()
	sending.Go(func() {
		c.Write(sent)
		c.(*net.TCPConn).CloseWrite()
	})
	got, err := io.ReadAll(c)
	if tunnel.IsTimeout(err) {
		t.Errorf("the connection hangs; the client read %q", got)
	}
	return got
}

// check reports what must never be, whatever clients do.
func (p *attackedPath) check(t *testing.T, got []byte) {
	t.Helper()
	if bytes.Contains(got, []byte(fakekafka.Domain)) {
		t.Errorf("the client read the address of a broker: %q", got)
	}
	p.agent.nodes.mu.Lock()
	defer p.agent.nodes.mu.Unlock()
	for address := range p.agent.nodes.tickets {
		p.mustBeNamed(t, "the gateway signed a ticket for", address)
	}
	for id, n := range p.agent.nodes.known {
		p.mustBeNamed(t, "the agent knows node "+strconv.Itoa(int(id))+" at", n.address)
	}
	p.gateway.tickets.relayed.mu.Lock()
	defer p.gateway.tickets.relayed.mu.Unlock()
	for _, address := range p.gateway.tickets.relayed.nodes {
		p.mustBeNamed(t, "the gateway remembers", address)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, host := range p.lookups {
		if !strings.HasSuffix(host, "."+fakekafka.Domain) {
			t.Errorf("the gateway dials %q", host)
		}
	}
	for _, address := range p.dials {
		if address != p.gateway.Brokers.Bootstrap[0] { // all brokers are there
			t.Errorf("the gateway dials %s", address)
		}
	}
	p.lookups, p.dials = nil, nil
}

func (p *attackedPath) mustBeNamed(t *testing.T, who, address string) {
	t.Helper()
	if !slices.Contains(p.brokers, address) {
		t.Errorf("%s %q, which no broker has named", who, address)
	}
}

// forged reads as a Metadata response of several versions that names a host of the attacker's.
func forged() []byte {
	r := kmsg.NewPtrMetadataResponse()
	r.Version = 2
	b := kmsg.NewMetadataResponseBroker()
	b.NodeID, b.Host, b.Port = 1, attackersHost, 9092
	r.Brokers, r.ClusterID = append(r.Brokers, b), new("cluster")
	return r.AppendTo(nil)
}

// A client of an agent, with or without a password of Kafka's, sends anything.
func FuzzHostileClient(f *testing.F) {
	p := attackPath(f)
	for _, r := range readings() {
		f.Add(r.sent, r.mode, forged())
	}
	list, describe := kmsg.NewPtrListGroupsRequest(), kmsg.NewPtrDescribeClusterRequest()
	f.Add(slices.Concat(requestFrame(list, 0, 7), metadataRequest(7), requestFrame(kmsg.NewPtrFindCoordinatorRequest(), 4, 7), requestFrame(describe, 1, 7)), uint8(0), forged())
	f.Add(slices.Concat(hide(requestFrame(list, 0, 7)), metadataRequest(7), metadataRequest(7)), uint8(0), forged())
	f.Fuzz(func(t *testing.T, b []byte, mode uint8, echo []byte) {
		if len(b) > 1<<14 || len(echo) > 1<<14 || bytes.Contains(echo, []byte(fakekafka.Domain)) {
			return
		}
		if mode&modeFrames != 0 {
			b = asFrames(b)
		}
		p.check(t, p.attack(t, b, mode, echo))
	})
}
