package proxy

import (
	"encoding/binary"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/culvert-proxy/culvert/proxy/fakekafka"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
	"github.com/culvert-proxy/culvert/rewrite"
)

// absurd are addresses that no broker has.
var absurd = []rewrite.Broker{
	{Host: "::ffff:7f00:1%a.kafka.internal", Port: 9092},
	{Host: "127.1", Port: 9092},
	{Host: "a name with spaces", Port: 9092},
	{Host: "[::1]", Port: 9092},
	{Host: "kafka:22", Port: 9092},
	{Host: strings.Repeat("a.", 8000), Port: 9092},
	{Host: "\x1b[2J.example", Port: 9092},
	{Host: "secret.example", Port: 0},
	{Host: "secret.example", Port: -1},
	{Host: "secret.example", Port: 65536 + 22},
}

// absurdMetadata is a Metadata v2 response with one broker that is one, and others that cannot be.
func absurdMetadata(id int32) []byte {
	r := kmsg.NewPtrMetadataResponse()
	r.Version, r.ClusterID = 2, new("cluster")
	r.Brokers = []kmsg.MetadataResponseBroker{{NodeID: 0, Host: fakekafka.Host(0), Port: 9092}}
	for i, b := range absurd {
		r.Brokers = append(r.Brokers, kmsg.MetadataResponseBroker{NodeID: int32(i + 1), Host: b.Host, Port: b.Port})
	}
	return r.AppendTo(binary.BigEndian.AppendUint32(nil, uint32(id)))
}

// What a broker names that cannot be a broker gets no ticket, no listener and no place in the
// table. Clients get the placeholder instead, never the address that was named.
func TestAnInvalidBrokerGetsAPlaceholder(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		broker := fakeBroker(t, answering(func(_, _ int16, id int32) []byte { return absurdMetadata(id) }))
		agentLog, gatewayLog := &memoryLog{}, &memoryLog{}
		var gateway running
		var up Upstream = NewDirect(&Brokers{Bootstrap: []string{broker}})
		if transport != "direct" {
			gateway = startGateway(t, []string{broker}, func(g *Gateway) { g.Logger = gatewayLog.logger() })
			up = tunnelTo(t, gateway.address, transport)
		}
		path := startAgent(t, up, func(a *Agent) { a.Logger = agentLog.logger() })
		c := dialKafka(t, path.address)
		for range 2 {
			response, err := c.ask(kmsg.NewPtrMetadataRequest(), 2)
			if err != nil {
				t.Fatal(err)
			}
			for _, b := range response.(*kmsg.MetadataResponse).Brokers {
				at := net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port)))
				if b.NodeID == 0 && at != path.node(0) {
					t.Errorf("node 0 is at %s, want %s", at, path.node(0))
				}
				if b.NodeID > 0 && (b.Host != "127.0.0.1" || !closesAtOnce(at)) {
					t.Errorf("node %d is at %.80s, which is not the placeholder of the agent", b.NodeID, at)
				}
			}
		}
		if n := gauge(t, path, "culvert_nodes"); n != 1 {
			t.Errorf("the table has %v nodes, want 1", n)
		}
		if _, err := net.Dial("tcp", path.node(1)); err == nil {
			t.Error("node 1 has a listener")
		}
		if n := strings.Count(agentLog.String(), "invalid node ignored"); n != 1 {
			t.Errorf("the agent says %d times that a broker cannot be one, want once", n)
		}
		if transport == "direct" {
			return
		}
		if n := strings.Count(gatewayLog.String(), "no ticket for an address from a broker"); n != 1 {
			t.Errorf("the gateway says %d times that there is no ticket, want once", n)
		}
		if n := counter(t, gateway, "culvert_tickets_total", "issued"); n != 1 {
			t.Errorf("%v tickets issued, want 1", n)
		}
	})
}

// counter is the value of a series with one label.
func counter(t *testing.T, r running, name, label string) float64 {
	t.Helper()
	families, err := r.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, s := range f.GetMetric() {
			if f.GetName() == name && s.GetLabel()[0].GetValue() == label {
				return s.GetCounter().GetValue() + s.GetGauge().GetValue()
			}
		}
	}
	return 0
}

// An id that is negative has no port, whatever the port base makes of it, and a node that a broker
// named with it has no address at all.
func TestNegativeNodeIDsHaveNoPort(t *testing.T) {
	var served []int32
	table, _ := newTable(t, func(n *nodes) {
		serve := n.serve
		n.serve = func(ln net.Listener, listen int, id int32) {
			served = append(served, id)
			serve(ln, listen, id)
		}
	})
	port1 := int32(1 - table.Base)
	for _, id := range []int32{-1, -2, port1, -1 << 31} {
		tk := tunnel.Ticket{ClusterID: "c", NodeID: id, Address: "kafka-0:9092", MAC: []byte{1}, Expires: time.Now().Add(time.Hour).Unix()}
		table.addTicket(tk)
		if err := table.preload("a test", "c", []tunnel.Ticket{tk}); err != nil {
			t.Error(err)
		}
		if _, _, err := table.learn(table.epoch(), "c", []rewrite.Broker{{NodeID: id, Host: "kafka-0", Port: 9092}}); err != nil {
			t.Error(err)
		}
		if _, _, err := table.place(0, id); err == nil {
			t.Errorf("node %d has a place", id)
		}
		if e, ok := table.local(0, id); ok {
			t.Errorf("node %d is at %v", id, e)
		}
	}
	if table.count() > 0 || len(table.tickets) > 0 || len(table.opened) > 0 {
		t.Errorf("%d nodes, %d tickets, %d places, want none", table.count(), len(table.tickets), len(table.opened))
	}
	for _, id := range served {
		if id != placeholderNode {
			t.Errorf("node %d has a listener", id)
		}
	}
}

// What a gateway tells, and what stands in the state file, is bounded in each of its parts.
func TestInvalidTicketsAreIgnored(t *testing.T) {
	good := tunnel.Ticket{ClusterID: "c", NodeID: 1, Address: "kafka-1:9092", MAC: make([]byte, 32), Expires: time.Now().Add(time.Hour).Unix()}
	for name, spoil := range map[string]func(*tunnel.Ticket){
		"address":         func(tk *tunnel.Ticket) { tk.Address = strings.Repeat("a", 16<<10) + ":9092" },
		"zone":            func(tk *tunnel.Ticket) { tk.Address = "[::1%lo]:9092" },
		"service":         func(tk *tunnel.Ticket) { tk.Address = "kafka-1:ssh" },
		"signature":       func(tk *tunnel.Ticket) { tk.MAC = make([]byte, 8<<10) },
		"cluster":         func(tk *tunnel.Ticket) { tk.ClusterID = strings.Repeat("c", 256) },
		"escape sequence": func(tk *tunnel.Ticket) { tk.ClusterID = "\x1b[2J" },
		"node id":         func(tk *tunnel.Ticket) { tk.NodeID = -1 },
	} {
		table, _ := newTable(t, nil)
		log := &memoryLog{}
		table.log = log.logger()
		bad := good
		spoil(&bad)
		for range 3 {
			table.addTicket(bad)
			if err := table.preload("the gateway", "c", []tunnel.Ticket{bad}); err != nil {
				t.Error(err)
			}
		}
		if table.count() != 0 || len(table.tickets) != 0 {
			t.Errorf("%s: %d nodes, %d tickets, want none", name, table.count(), len(table.tickets))
		}
		if n := strings.Count(log.String(), "node ignored"); n != 1 || len(log.String()) > 2<<10 {
			t.Errorf("%s: said %d times, in %d bytes, want once and short", name, n, len(log.String()))
		}
		if err := table.preload("the gateway", bad.ClusterID, []tunnel.Ticket{good}); err != nil {
			t.Error(err)
		}
		if known := checkClusterID(bad.ClusterID) == nil; (table.count() == 1) != known {
			t.Errorf("%s: a ticket that is one beside a cluster id %.20q: %d nodes", name, bad.ClusterID, table.count())
		}
	}
}

// However often a gateway says hello with other tickets, they do not pile up.
func TestTicketsOfManyHellosAreBounded(t *testing.T) {
	table, _ := newTable(t, nil)
	for i := range 3 * maxTickets {
		address := fmt.Sprintf("kafka-%d:9092", i)
		tk := tunnel.Ticket{ClusterID: "c", NodeID: 1, Address: address, MAC: make([]byte, 32), Expires: time.Now().Add(time.Hour).Unix()}
		if err := table.preload("the gateway", "c", []tunnel.Ticket{tk}); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(table.tickets); n > maxTickets {
		t.Errorf("%d tickets, want %d at most", n, maxTickets)
	}
	if r, _ := table.lookup(1); r.ticket == nil || r.address != fmt.Sprintf("kafka-%d:9092", 3*maxTickets-1) {
		t.Errorf("node 1 is at %s with the ticket %v", r.address, r.ticket)
	}
}

// The largest tables make a state file that can be read again.
func TestTheStateFileIsBounded(t *testing.T) {
	for _, test := range []struct {
		name, cluster, host string
		mac, most           int
	}{
		{"as Kafka's", "4L6g3nShT-eMCtK--X86sw", "kafka-%d.kafka-headless.kafka.svc.cluster.local", 32, maxState / 25},
		{"as long as can be", strings.Repeat("<", maxClusterID), strings.Repeat("a.", 121) + "a%010d", maxMAC, maxState / 3},
	} {
		var nodes []tunnel.Ticket
		for id := range int32(maxNodes) {
			tk := tunnel.Ticket{ClusterID: test.cluster, NodeID: 1<<31 - 1 - id, Address: fmt.Sprintf(test.host, id) + ":65535", MAC: make([]byte, test.mac), Expires: 1 << 40}
			if err := checkTicket(tk); err != nil {
				t.Fatal(err)
			}
			nodes = append(nodes, tk)
		}
		file := filepath.Join(t.TempDir(), "state")
		var s state
		for i := range maxClusterStates + 1 {
			if s = s.with(clusterState{Upstream: fmt.Sprint(i), ClusterID: test.cluster, Nodes: nodes}); i > 0 {
				continue
			}
			if b, err := s.encode(); err != nil || len(b) > test.most {
				t.Errorf("%s: one cluster has %d bytes, %v, want %d at most", test.name, len(b), err, test.most)
			} else {
				t.Logf("%s: one cluster has %d bytes", test.name, len(b))
			}
		}
		if err := s.write(file); err != nil {
			t.Fatal(err)
		}
		got, err := readState(file)
		if err != nil || len(got.Clusters) == 0 || got.Clusters[0].Upstream != fmt.Sprint(maxClusterStates) {
			t.Errorf("%s: %d clusters read again, %v", test.name, len(got.Clusters), err)
		}
	}
}

func TestAnInvalidClusterIDIsRefused(t *testing.T) {
	table, _ := newTable(t, nil)
	for _, id := range []string{strings.Repeat("c", maxClusterID+1), "a\nb", "\xff"} {
		if _, _, err := table.learn(table.epoch(), id, []rewrite.Broker{{NodeID: 1, Host: "kafka-1", Port: 9092}}); err == nil || len(err.Error()) > 500 {
			t.Errorf("learn(%.20q) = %.500v, want a short error", id, err)
		}
	}
	if table.count() > 0 {
		t.Error("a node is known")
	}
}

// A gateway remembers, and tells, no more than the nodes of one cluster.
func TestAGatewaysNodeTableIsBounded(t *testing.T) {
	g := &issuer{signer: newSigner(nil), relayed: &relayedNodes{}, log: (&memoryLog{}).logger()}
	g.relayed.update("c", append([]rewrite.Broker{{NodeID: -7, Host: "kafka", Port: 9092}}, absurd...), true)
	if tickets := g.relayedTickets(); len(tickets) != 0 {
		t.Errorf("tickets for what cannot be a broker: %v", tickets)
	}
	var many []rewrite.Broker
	for id := range int32(10_000) {
		many = append(many, rewrite.Broker{NodeID: id, Host: "kafka", Port: 9092})
	}
	for _, all := range []bool{true, false} {
		g.relayed.update("c", many, all)
		if n := len(g.relayedTickets()); n != maxNodes {
			t.Errorf("%d tickets, want %d", n, maxNodes)
		}
	}
	g.relayed.update(strings.Repeat("c", 1<<10), many, true)
	if tickets := g.relayedTickets(); slices.ContainsFunc(tickets, func(tk tunnel.Ticket) bool { return len(tk.ClusterID) > maxClusterID }) {
		t.Error("a ticket has a cluster id that cannot be one")
	}
}

// However many addresses an agent listens on, most descriptors are left for connections.
func TestListenersAreBounded(t *testing.T) {
	table, _ := newTable(t, func(n *nodes) {
		n.Listens = nil
		for i := range 128 {
			n.Listens = append(n.Listens, Listen{Bind: fmt.Sprintf("127.0.1.%d:0", i)})
		}
	})
	var brokers []rewrite.Broker
	for id := range int32(20) {
		brokers = append(brokers, rewrite.Broker{NodeID: id, Host: "kafka", Port: 9092})
	}
	if _, _, err := table.learn(table.epoch(), "c", brokers); err != nil {
		t.Fatal(err)
	}
	if n := len(table.opened) * len(table.Listens); n > maxListeners {
		t.Errorf("%d listeners, want %d at most", n, maxListeners)
	}
	for listen := range table.Listens {
		if _, ok := table.local(listen, 19); !ok {
			t.Errorf("a node without listeners has no placeholder on listen %d", listen)
		}
	}
}

// Tickets outlive their cluster, and name any node id; series do not.
func TestNodeIDsDoNotPileUpInMetrics(t *testing.T) {
	broker := fakeBroker(t, answering(func(_, _ int16, id int32) []byte { return metadata(id, 1) }))
	gateway := startGateway(t, []string{broker}, func(g *Gateway) { g.TicketKeys = keysOf("key") })
	up := tunnelTo(t, gateway.address, "h2")
	defer up.close()
	tickets := newSigner(keysOf("key"))
	relay := func(id int32) {
		tk, err := tickets.sign(tunnel.Ticket{ClusterID: "c", NodeID: id, Address: broker}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		c, err := Open(t.Context(), up, broker, &tk, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.Write(requestFrame(kmsg.NewPtrMetadataRequest(), 1, 7))
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	for id := range int32(300) {
		relay(id)
	}
	families, err := gateway.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if n := len(f.GetMetric()); f.GetName() == "culvert_connections" && n > 2 {
			t.Errorf("%d series of %s, want those of the cluster's one node and unknown", n, f.GetName())
		}
	}
}

// Of the nodes without a listener that a gateway makes up, some are named in the log, not all.
func TestLogLinesAboutNodesAreBounded(t *testing.T) {
	table, log := newTable(t, func(n *nodes) { n.nodeListeners.listen = onlyAnyPort })
	for id := range int32(200) {
		tk := tunnel.Ticket{ClusterID: "c", NodeID: id, Address: "kafka-0:9092"}
		if err := table.preload("the gateway", "c", []tunnel.Ticket{tk}); err != nil {
			t.Fatal(err)
		}
	}
	if n := strings.Count(log.String(), "\n"); n != maxLogged+1 {
		t.Errorf("%d lines, want %d", n, maxLogged+1)
	}
}
