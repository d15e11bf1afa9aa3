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
	"github.com/culvert-proxy/culvert/proxy/tunnel"
	"github.com/culvert-proxy/culvert/rewrite"
)

// issuer signs the tickets that a gateway gives to agents. Set the fields before use.
type issuer struct {
	signer  *signer
	memory  *memory
	metrics *metrics.Metrics
	log     *slog.Logger
	limiter *logLimiter
}

// on returns the ticketer of one stream.
func (i *issuer) on(stream *tunnel.Conn) *ticketer {
	return &ticketer{issuer: i, stream: stream, sent: map[named]time.Time{}}
}

// remembered returns tickets for the node table, signed anew.
func (i *issuer) remembered() []tunnel.Ticket {
	i.memory.mu.Lock()
	cluster, nodes := i.memory.cluster, maps.Clone(i.memory.nodes)
	i.memory.mu.Unlock()
	var tickets []tunnel.Ticket
	for id, address := range nodes {
		t, err := i.signer.sign(tunnel.Ticket{ClusterID: cluster, NodeID: id, Address: address}, time.Now())
		if err != nil {
			i.log.Error("no ticket signed", "err", err)
			return nil
		}
		tickets = append(tickets, t)
	}
	return tickets
}

// ticketer is the policy of one stream at a gateway: the agent gets a ticket for
// each address that a broker names, ahead of the bytes that name it.
type ticketer struct {
	*issuer
	stream  *tunnel.Conn
	cluster string
	sent    map[named]time.Time // owned by the responses' side
}

// named is what a ticket says.
type named struct {
	cluster string
	node    int32
	address string
}

// screen lets all requests pass: what an agent refuses, it has refused.
func (s *ticketer) screen(protocol.Request) ([]byte, error) { return nil, nil }

// lenient is what a gateway may be: addresses that pass are the agent's to find.
func (s *ticketer) lenient() bool { return true }

// touches reports whether the response names brokers that clients connect to.
// Leader hints do not: an agent follows them only to brokers that it knows.
func (s *ticketer) touches(k protocol.APIKey, version int16) bool {
	return rewrite.NamedBy(k, version).Nodes()
}

// relay relays a response untouched, behind the tickets for what it names. One
// that cannot be decoded has none.
func (s *ticketer) relay(f *protocol.Flow, r protocol.Request, size int64) (rewrite.Result, error) {
	cluster, brokers, err := rewrite.Brokers(f, r.Key, r.Version, size)
	if err != nil && !errors.Is(err, rewrite.ErrUndecodable) {
		return rewrite.Result{}, err
	}
	if err == nil {
		if cluster != "" {
			s.cluster = cluster
		}
		s.memory.remember(s.cluster, brokers, rewrite.NamedBy(r.Key, r.Version) == rewrite.EveryNode)
		if err := s.send(brokers); err != nil {
			return rewrite.Result{}, err
		}
	}
	return rewrite.Result{}, f.PassThrough(size)
}

func (s *ticketer) send(brokers []rewrite.Broker) error {
	now := time.Now()
	for _, b := range brokers {
		n := named{s.cluster, b.NodeID, addressOf(b)}
		if now.Sub(s.sent[n]) < ticketLife/2 {
			continue
		}
		if len(s.sent) >= maxTickets {
			return nil
		}
		unsigned := tunnel.Ticket{ClusterID: n.cluster, NodeID: n.node, Address: n.address}
		if err := checkTicket(unsigned); err != nil {
			s.limiter.warn(s.log, "no ticket for what a broker names, agents cannot reach it", "", "err", err)
			continue
		}
		t, err := s.signer.sign(unsigned, now)
		if err != nil {
			s.log.Error("no ticket signed", "err", err)
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

// memory is the node table that a gateway relayed last. With it a new agent knows the
// nodes at once. Nothing depends on it: each replica has its own.
type memory struct {
	mu      sync.Mutex
	cluster string
	nodes   map[int32]string
	changed func(ids []int32) // told of the nodes that there are now, with the lock; nil tells nobody
}

// remember stores brokers. all says that the cluster has no others.
func (m *memory) remember(cluster string, brokers []rewrite.Broker, all bool) {
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
