package proxy

import (
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/culvert-proxy/culvert/protocol"
	"github.com/culvert-proxy/culvert/proxy/metrics"
	"github.com/culvert-proxy/culvert/proxy/printable"
	"github.com/culvert-proxy/culvert/proxy/status/document"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
	"github.com/culvert-proxy/culvert/rewrite"
)

// issuer signs the tickets that a gateway gives to agents. Set the fields before use. All streams
// of a gateway share one.
type issuer struct {
	signer  *signer
	relayed *relayedNodes
	metrics *metrics.Metrics
	log     *slog.Logger
	limiter *logLimiter
}

// on returns the ticketer of one stream.
func (i *issuer) on(stream *tunnel.Conn) *ticketer {
	return &ticketer{issuer: i, stream: stream, sent: map[ticketContent]time.Time{}}
}

// relayedTickets returns new tickets for the nodes that were relayed last. It returns none if they
// cannot be signed.
func (i *issuer) relayedTickets() []tunnel.Ticket {
	i.relayed.mu.Lock()
	cluster, nodes := i.relayed.cluster, maps.Clone(i.relayed.nodes)
	i.relayed.mu.Unlock()
	var tickets []tunnel.Ticket
	for id, address := range nodes {
		t, err := i.signer.sign(tunnel.Ticket{ClusterID: cluster, NodeID: id, Address: address}, time.Now())
		if err != nil {
			i.log.Error("ticket not signed", "err", err)
			return nil
		}
		tickets = append(tickets, t)
	}
	return tickets
}

// ticketer is the [policy] of one stream at a gateway. It sends the agent a ticket for each address
// in a response, before the response itself, so that the agent can connect to the address as soon
// as it knows it.
type ticketer struct {
	*issuer
	stream  *tunnel.Conn
	cluster string                      // the last cluster id in a response; some responses have none
	sent    map[ticketContent]time.Time // when each ticket was sent; owned by the responses' side
}

// ticketContent is what a ticket says about an address.
type ticketContent struct {
	cluster string
	node    int32
	address string
}

// screen relays all requests. The agent has refused what it does not relay.
func (s *ticketer) screen(protocol.Request) ([]byte, error) { return nil, nil }

// timed tells the agent: a request takes longer there, by what the tunnel adds.
func (s *ticketer) timed(k protocol.APIKey, took time.Duration) {
	if !k.Known() {
		k = unknownKey
	}
	s.stream.AddTime(int16(k), took)
}

// unknownKey stands for all API keys that culvert does not know.
const unknownKey protocol.APIKey = -1

// lenient is true: the agent decodes the bytes as well, and refuses what it cannot decode.
func (s *ticketer) lenient() bool { return true }

// touches reports whether the response names brokers that clients connect to. Leader hints need no
// tickets: an agent replaces them only if it knows the broker already.
func (s *ticketer) touches(k protocol.APIKey, version int16) bool {
	return rewrite.NamedBy(k, version).Nodes()
}

// relay sends the tickets for the brokers in a response, then the response, unchanged. A response
// that cannot be decoded gets no tickets.
func (s *ticketer) relay(f *protocol.Flow, r protocol.Request, size int64) (rewrite.Result, error) {
	cluster, brokers, err := rewrite.Brokers(f, r.Key, r.Version, size)
	if err != nil && !errors.Is(err, rewrite.ErrUndecodable) {
		return rewrite.Result{}, err
	}
	if err == nil {
		if cluster != "" {
			s.cluster = cluster
		}
		s.relayed.update(s.cluster, brokers, rewrite.NamedBy(r.Key, r.Version) == rewrite.EveryNode)
		if err := s.send(brokers); err != nil {
			return rewrite.Result{}, err
		}
	}
	outcome, err := rewrite.Pass(f, r.Key, r.Version, size)
	return rewrite.Result{Outcome: outcome}, err
}

// send sends a ticket for each broker that got none on this stream lately.
func (s *ticketer) send(brokers []rewrite.Broker) error {
	now := time.Now()
	for _, b := range brokers {
		n := ticketContent{s.cluster, b.NodeID, addressOf(b)}
		if now.Sub(s.sent[n]) < ticketLifetime/2 {
			continue
		}
		if len(s.sent) >= maxTickets {
			return nil
		}
		unsigned := tunnel.Ticket{ClusterID: n.cluster, NodeID: n.node, Address: n.address}
		if err := checkTicket(unsigned); err != nil {
			s.limiter.warn(s.log, "no ticket for an address from a broker, agents cannot reach it", "", "err", err)
			continue
		}
		t, err := s.signer.sign(unsigned, now)
		if err != nil {
			s.log.Error("ticket not signed", "err", err)
			return nil
		}
		if err := s.stream.SendTicket(t); err != nil {
			return &protocol.WriteError{Err: err}
		}
		s.sent[n] = now
		s.metrics.Ticket(metrics.TicketIssued)
	}
	return nil
}

// relayedNodes are the nodes that a gateway relayed last. An agent that starts gets them with the
// first answer, so it can open their ports before its clients connect. This only saves time: each
// replica has its own, and a new one has none.
type relayedNodes struct {
	mu      sync.Mutex
	cluster string
	nodes   map[int32]string  // addresses by node id
	changed func(ids []int32) // called with all node ids after a change, with the lock held; may be nil
}

// show returns the id of the cluster, and its nodes for the status document, without their states.
func (m *relayedNodes) show() (cluster string, nodes map[int32]*document.Node) {
	nodes = map[int32]*document.Node{}
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, address := range m.nodes {
		nodes[id] = &document.Node{ID: id, Advertised: printable.Text(address, printable.Name)}
	}
	return m.cluster, nodes
}

// update stores the brokers of a response. all means that the cluster has no others, so those that
// are missing are dropped. Invalid brokers are skipped.
func (m *relayedNodes) update(cluster string, brokers []rewrite.Broker, all bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if cluster == "" || checkClusterID(cluster) != nil {
		return
	}
	before := m.nodes
	if cluster != m.cluster || all {
		m.cluster, m.nodes = cluster, map[int32]string{}
	} else {
		before = maps.Clone(before)
	}
	for _, b := range brokers {
		address := addressOf(b)
		if _, have := m.nodes[b.NodeID]; (have || len(m.nodes) < maxNodes) && checkNode(b.NodeID, address) == nil {
			m.nodes[b.NodeID] = address
		}
	}
	if m.changed != nil && !maps.Equal(before, m.nodes) {
		m.changed(slices.Collect(maps.Keys(m.nodes)))
	}
}
