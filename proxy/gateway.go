package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/culvert-proxy/culvert/protocol"
	"github.com/culvert-proxy/culvert/proxy/credentials"
	"github.com/culvert-proxy/culvert/proxy/metrics"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
	"github.com/culvert-proxy/culvert/rewrite"
)

// Gateway stands beside the brokers: it ends the tunnel's streams, decides
// which addresses may be dialled, and dials them. Set the fields, then call Run
// once.
type Gateway struct {
	Version string
	Brokers *Brokers
	// TicketKeys returns the keys that sign tickets, the first one, and verify
	// them, all. Nil means a random key, which no other replica has.
	TicketKeys func() ([][]byte, error)
	TLS        *tls.Config // nil: plain HTTP, for a place behind an ingress
	// ResetKey is as in tunnel.Server.
	ResetKey []byte
	// Authenticate returns who asks, or why not; nil lets everybody in.
	Authenticate func(*http.Request) (identity string, err error)
	// Grant and Judge are as in tunnel.Server. With them, what was made ready with
	// a credential that is not accepted any more opens no streams.
	Grant func(*http.Request) any
	Judge func() func(grant any) error
	// RevokeStreams ends, besides, streams that are open: see revoke.
	RevokeStreams bool
	// DrainTimeout bounds how long streams may take to end between two requests
	// when the gateway does.
	DrainTimeout time.Duration
	// Linger is for how long a gateway that had streams when it was told to stop
	// tells who comes that it drains, after the last of them has ended.
	Linger  time.Duration
	Limits  tunnel.Limits
	Metrics *metrics.Metrics
	Logger  *slog.Logger // nil: discard

	signer  *signer
	memory  memory
	limiter logLimiter
	without without

	lookEvery time.Duration // tests shorten revokeEvery

	mu       sync.Mutex
	draining time.Time // since when; zero for not
	conns    map[*conn]*admission
	server   *tunnel.Server
}

// Ready reports, as an error that says why, whether no broker has answered since
// the start, or the gateway drains. One that did is enough for ever: what fails
// later is told on each stream, not by an ingress that finds nobody ready.
//
// A gateway that drains stays ready as long as there are QUIC connections, for
// half of its time: Kubernetes cuts off a pod's UDP as soon as it is not ready,
// and agents that come meanwhile are told to go elsewhere.
func (g *Gateway) Ready() error {
	g.mu.Lock()
	draining, server := g.draining, g.server
	g.mu.Unlock()
	switch {
	case !draining.IsZero() && (server.QUICConns() == 0 || server.Drained() || time.Since(draining) >= g.DrainTimeout/2):
		return errDraining
	case !g.Brokers.answered.Load():
		return fmt.Errorf("no bootstrap broker has answered yet: %v", g.Brokers.Bootstrap)
	}
	return nil
}

// Run serves streams from both listeners until ctx is done, drains, and returns
// nil then. udp may be nil. It closes both.
func (g *Gateway) Run(ctx context.Context, tcp net.Listener, udp net.PacketConn) error {
	if g.Logger == nil {
		g.Logger = slog.New(slog.DiscardHandler)
	}
	g.signer = newSigner(g.TicketKeys)
	g.memory.changed = g.Metrics.SetNodes
	g.conns = map[*conn]*admission{}
	reviewed := rewrite.Reviewed()
	server := &tunnel.Server{
		Authenticate: g.Authenticate,
		Grant:        g.Grant,
		Judge:        g.Judge,
		User:         credentials.User,
		OnRefused:    g.turnedAway,
		Serve:        g.serve,
		Opened:       func() tunnel.Opened { return tunnel.Opened{Gateway: g.Version, Reviewed: reviewed[:]} },
		Tickets:      g.remembered,
		TLS:          g.TLS,
		Linger:       g.Linger,
		ResetKey:     g.ResetKey,
		OnUDPBuffers: g.Metrics.UDPBuffers,
		Limits:       g.Limits,
		OnLimit:      g.limited,
		Logger:       g.Logger,
	}
	g.mu.Lock()
	g.server = server
	g.mu.Unlock()
	var background sync.WaitGroup
	defer background.Wait()
	reaching, stop := context.WithCancel(ctx)
	defer stop()
	background.Go(func() { g.reach(reaching) })
	background.Go(func() { g.watchCredentials(reaching) })
	defer tcp.Close()
	if udp != nil {
		defer udp.Close()
	}
	if err := server.Run(ctx, tcp, udp); err != nil {
		over, cancel := context.WithCancel(ctx)
		cancel()
		server.Shutdown(over) // waits for nobody, and closes what is still served
		return err
	}
	g.drain()
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), g.DrainTimeout)
	defer cancel()
	if err := server.Shutdown(drain); err != nil {
		g.Logger.Warn("streams cut, they did not end in time", "timeout", g.DrainTimeout)
	}
	return nil
}

// limited counts what was refused because of a limit.
func (g *Gateway) limited(l tunnel.Limit, e *tunnel.Error, p tunnel.Peer) {
	g.Metrics.Limited(metrics.LimitOf(string(l)))
	what := "stream refused"
	if l == tunnel.LimitUnauthenticated {
		what = "connection without credentials closed"
	}
	g.limiter.warn(withPeer(g.Logger, p), what, string(l), "err", e)
}

// turnedAway says who was not let in, and why.
func (g *Gateway) turnedAway(why error, p tunnel.Peer) {
	g.limiter.warn(withPeer(g.Logger, p), "request refused", "", "err", why)
}

// withPeer binds what is known of who dialled a stream.
func withPeer(log *slog.Logger, p tunnel.Peer) *slog.Logger {
	if p.User != "" {
		log = log.With("user", p.User)
	}
	return log.With("client_addr", p.Addr, "identity", p.Identity, "transport", p.Transport)
}

// reach asks bootstrap brokers until one has answered.
func (g *Gateway) reach(ctx context.Context) {
	for wait := 200 * time.Millisecond; ; wait = min(2*wait, 10*time.Second) {
		err := g.Brokers.greet(ctx)
		if err == nil {
			return
		}
		if ctx.Err() == nil {
			g.limiter.warn(g.Logger, "no bootstrap broker reached, trying again", "", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// serve relays one stream until it is over.
func (g *Gateway) serve(ctx context.Context, t *tunnel.Conn, open tunnel.Open, peer tunnel.Peer) {
	log := withPeer(g.Logger, peer).With("target", open.Target)
	broker, node, refused := g.dial(ctx, open)
	if refused != nil {
		g.limiter.warn(log, "stream refused", string(refused.Code), "err", refused)
		g.Metrics.Closed(metrics.CloseDial)
		t.Reset(refused)
		return
	}
	log.Debug("stream opened", "node_id", node)
	defer g.Metrics.Connection(node)()
	defer g.Metrics.Stream(peer.Transport)()
	s := &ticketer{gateway: g, stream: t, sent: map[named]time.Time{}}
	c := &conn{
		near: &source{Conn: t}, far: &source{Conn: broker},
		touches: namesNodes, relayTouched: s.relay, lenient: true, headTimeout: defaultHeadTimeout,
		metrics: g.Metrics, log: log, limiter: &g.limiter, inflight: newInflight(),
		first: true, without: g.without,
	}
	g.add(c, peer)
	defer g.remove(c)
	c.run(ctx, protocol.NewFlow(c.near, nil))
}

// dial connects to what the agent asks for, if it may be.
func (g *Gateway) dial(ctx context.Context, open tunnel.Open) (net.Conn, int32, *tunnel.Error) {
	if open.Target == tunnel.TargetBootstrap {
		c, err := g.Brokers.dialBootstrap(ctx)
		return c, metrics.Bootstrap, dialError(err)
	}
	node, err := g.mayDial(open)
	if err != nil {
		return nil, node, err
	}
	c, failed := g.Brokers.dial(ctx, open.Target)
	return c, node, dialError(failed)
}

// mayDial reports why a target may not be dialled, and which node it is where a
// ticket says so.
func (g *Gateway) mayDial(open tunnel.Open) (node int32, refused *tunnel.Error) {
	to, bad := parseTarget(open.Target)
	if bad != nil {
		return metrics.UnknownNode, &tunnel.Error{Code: tunnel.CodeTarget, Message: fmt.Sprintf("%q may not be dialled: %v", open.Target, bad)}
	}
	if t := open.Ticket; t != nil {
		err := g.signer.verify(t, open.Target, time.Now())
		switch {
		case err == nil:
			g.Metrics.Ticket(metrics.TicketAccepted)
			return t.NodeID, nil
		case errors.Is(err, errTicketExpired):
			g.Metrics.Ticket(metrics.TicketExpired)
		default:
			g.Metrics.Ticket(metrics.TicketInvalid)
		}
		if !g.Brokers.allowed(to) {
			return metrics.UnknownNode, &tunnel.Error{Code: tunnel.CodeTicket, Message: fmt.Sprintf("%s may not be dialled: %v", open.Target, err)}
		}
	}
	if !g.Brokers.allowed(to) {
		return metrics.UnknownNode, &tunnel.Error{Code: tunnel.CodeTarget, Message: fmt.Sprintf("%s may not be dialled: no broker has named it to the agent, and no --allow-broker does", open.Target)}
	}
	return metrics.UnknownNode, nil
}

func dialError(err error) *tunnel.Error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errNotAllowed):
		return &tunnel.Error{Code: tunnel.CodeTarget, Message: err.Error()}
	}
	return &tunnel.Error{Code: tunnel.CodeDial, Message: err.Error()}
}

func (g *Gateway) add(c *conn, peer tunnel.Peer) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.conns[c] = &admission{peer: peer}
	if !g.draining.IsZero() {
		c.drain()
	}
}

func (g *Gateway) remove(c *conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.conns, c)
}

// drain ends all connections between two requests, and those to come.
func (g *Gateway) drain() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.draining = time.Now()
	for c := range g.conns {
		c.drain()
	}
}

// namesNodes reports whether the response names brokers that clients connect to.
// Leader hints do not: an agent follows them only to brokers that it knows.
func namesNodes(k protocol.APIKey, version int16) bool {
	return rewrite.NamedBy(k, version).Nodes()
}

// ticketer gives the agent a ticket for each address that a broker names on one
// stream, ahead of the bytes that name it.
type ticketer struct {
	gateway *Gateway
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
		s.gateway.memory.remember(s.cluster, brokers, rewrite.NamedBy(r.Key, r.Version) == rewrite.EveryNode)
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
			s.gateway.limiter.warn(s.gateway.Logger, "no ticket for what a broker names, agents cannot reach it", "", "err", err)
			continue
		}
		t, err := s.gateway.signer.sign(unsigned, now)
		if err != nil {
			s.gateway.Logger.Error("no ticket signed", "err", err)
			return nil
		}
		if err := s.stream.SendTicket(t); err != nil {
			return &protocol.WriteError{Err: err}
		}
		s.sent[n] = now
		s.gateway.Metrics.Ticket(metrics.TicketIssued)
	}
	return nil
}

// memory is the node table that a gateway relayed last. It spares an agent that
// arrives its first questions and is never needed: another replica has its own.
type memory struct {
	mu      sync.Mutex
	cluster string
	nodes   map[int32]string
	changed func(ids []int32) // told of the nodes that there are now, with the lock; nil tells nobody
}

// remember notes brokers, and that there are no others where they are all.
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

// remembered returns tickets for the node table, signed anew.
func (g *Gateway) remembered() []tunnel.Ticket {
	g.memory.mu.Lock()
	cluster, nodes := g.memory.cluster, maps.Clone(g.memory.nodes)
	g.memory.mu.Unlock()
	var tickets []tunnel.Ticket
	for id, address := range nodes {
		t, err := g.signer.sign(tunnel.Ticket{ClusterID: cluster, NodeID: id, Address: address}, time.Now())
		if err != nil {
			g.Logger.Error("no ticket signed", "err", err)
			return nil
		}
		tickets = append(tickets, t)
	}
	return tickets
}
