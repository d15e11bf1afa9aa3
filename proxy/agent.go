package proxy

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-proxy/culvert/protocol"
	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/metrics"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
	"github.com/culvert-proxy/culvert/rewrite"
)

const (
	// firstHelloTimeout bounds how long an agent that starts waits for its gateway's first answer
	// before it accepts clients. The answer can name nodes whose ports clients are about to dial.
	// Without one, clients get metadata themselves, so a gateway that is down delays the start by
	// no more than this.
	firstHelloTimeout = 2 * time.Second
	// tlsHandshakeTimeout bounds a client's handshake with the agent. Clients connect over a short
	// path; one that is silent for this long is a port scan or a hung process, and holds a file
	// descriptor.
	tlsHandshakeTimeout = 10 * time.Second
)

// Agent runs beside the clients. It listens for them, opens a stream to a broker for each
// connection, and writes its own addresses into responses. Set the fields, then call Run once. Run
// owns all goroutines and waits for them before it returns. Ready, Tunnels and NodeListeners
// may be called at any time, from any goroutine.
type Agent struct {
	Version string
	// Listens are the bootstrap addresses that clients are configured with; at least one.
	Listens []Listen
	// BrokerPortBase plus a node id is the port of that node, on the host of each of Listens: see
	// [NodePorts].
	BrokerPortBase int
	// NodeAddresses are the exceptions to BrokerPortBase, by node id.
	NodeAddresses map[int32]NodeAddress
	// BrokerNames, if set, has clients reach all nodes on the ports of Listens, told apart by the
	// names in their TLS handshakes. It needs ListenTLS, and excludes the two above.
	BrokerNames BrokerNames
	// ExpectNodes are node ids whose ports are open from the start, before any response has named
	// them.
	ExpectNodes []int32
	// StateFile is where the nodes are saved, for the next start; "" means nowhere.
	StateFile string
	// RelayUnknownAPIs relays requests whose API key this version does not know. Their responses
	// are relayed as they come, and may contain broker addresses.
	RelayUnknownAPIs bool
	// Forwards are ports for what a gateway offers beside Kafka: see [CheckForwards]. They need a
	// gateway.
	Forwards  []Forward
	ListenTLS *tls.Config // nil: clients speak plaintext
	Upstream  Upstream
	// DrainTimeout bounds how long Run waits, when ctx is done, for connections to finish the
	// requests in flight. It resets what is left then.
	DrainTimeout time.Duration
	// MaxConnections bounds the clients' connections; 0 is no limit.
	MaxConnections int
	Metrics        *metrics.Metrics
	Logger         *slog.Logger // nil: discard
	Names          hints.Names  // of settings, in what is logged
	// Listening, if set, is called once, when clients may connect, with the bootstrap addresses
	// that were bound. Run waits until it returns.
	Listening func(bootstrap []string)
	// Answered, if set, is called once, after Listening, when a broker has answered through the
	// upstream for the first time.
	Answered func(Path)

	// For tests.
	ask         func(context.Context) error // probe
	headTimeout time.Duration               // defaultHeadTimeout
	without     without
	listenOn    func(network, address string) (net.Listener, error) // as nodes.listen

	agentState
}

// agentState is the state of a running agent. Run sets it up.
type agentState struct {
	nodes       nodes
	finder      finder
	forwards    []*forward
	serverNames *serverNames // nil without BrokerNames
	clients     clients
	watch       brokerWatch
	caps        atomic.Pointer[rewrite.Caps] // the API versions that the agent and its gateway support
	bound       atomic.Pointer[[]string]     // the bootstrap addresses that clients connect to; nil before they can
	reached     atomic.Bool                  // the upstream has answered
	saves       chan struct{}                // of capacity 1: holds an element when the state must be saved
	limiter     logLimiter
}

// Ready returns nil while clients get answers from brokers. Otherwise the error says what is
// missing: no gateway is reached, or no broker answers, or the agent drains.
func (a *Agent) Ready() error {
	if !a.clients.drainingSince().IsZero() {
		return errDraining
	}
	_, missing := a.watch.state()
	return missing
}

// Tunnels returns which transport is used to each gateway, and why, by the gateway's URL. It
// returns nil if there is no tunnel.
func (a *Agent) Tunnels() map[string]tunnel.State { return a.Upstream.states() }

// NodeListeners returns where clients reach each node that is known or expected, by node id.
func (a *Agent) NodeListeners() []NodeListener { return a.nodes.all() }

// Run serves clients until ctx is done. Then it stops accepting them, drains, closes the upstream
// and returns nil. It returns early, with a [ListenError], only if a bootstrap address or that
// of a forward cannot be bound.
func (a *Agent) Run(ctx context.Context) error {
	work, stop := context.WithCancel(context.WithoutCancel(ctx)) // not canceled with ctx: connections drain after it
	defer stop()
	a.setUp(work)
	bootstrap, forwards, err := a.bind()
	if err != nil {
		a.clients.closeListeners()
		return err
	}
	var addresses []string
	for _, ln := range bootstrap {
		addresses = append(addresses, ln.Addr().String())
	}
	a.nodes.tellPorts(bootstrap)
	a.bound.Store(&addresses)
	a.restore()
	var background sync.WaitGroup
	background.Go(func() { a.Metrics.Sample(ctx) })
	background.Go(func() { new(spentMemory).run(ctx) })
	background.Go(func() { a.saveState(ctx) })
	background.Go(func() { a.nodes.rebind(ctx) })
	background.Go(func() { a.Upstream.run(ctx, a.clients.each) })
	firstTry, listening := make(chan struct{}), make(chan struct{})
	background.Go(func() { a.contact(ctx, firstTry, listening) })
	within(firstHelloTimeout, firstTry)
	a.keepSpares()

	for i, ln := range bootstrap {
		a.clients.listen(work, ln, a.serveNode(i, bootstrapNode))
	}
	for i, ln := range forwards {
		a.clients.listen(work, ln, a.serveForward(a.forwards[i]))
	}
	if a.Listening != nil {
		a.Listening(addresses)
	}
	close(listening)
	<-ctx.Done()
	began := time.Now()
	all, cut := a.clients.drain(a.DrainTimeout, stop)
	background.Wait()
	err = a.Upstream.close()
	logStop(ctx, a.Logger, "stopped: connections did not end in time and were reset", all, cut, time.Since(began))
	return err
}

// logStop logs the end of a process: why it ended, and what became of its connections. late is what
// to log if some of them were cut.
func logStop(ctx context.Context, log *slog.Logger, late string, all, cut int, took time.Duration) {
	log = log.With("why", context.Cause(ctx), "after", took, "connections_ended", all-cut, "connections_cut", cut)
	if cut > 0 {
		log.Warn(late)
		return
	}
	log.Info("stopped")
}

// setUp fills in defaults and makes the state. Connections are served until work is done.
func (a *Agent) setUp(work context.Context) {
	if a.Logger == nil {
		a.Logger = slog.New(slog.DiscardHandler)
	}
	if a.headTimeout == 0 {
		a.headTimeout = defaultHeadTimeout
	}
	caps := rewrite.Reviewed()
	a.caps.Store(&caps)
	a.saves = make(chan struct{}, 1)
	a.forwards = newForwards(a.Forwards, a.Metrics)
	a.clients.limit = a.MaxConnections // field by field: Ready may be reading clients already
	a.clients.failing.Quiet = acceptQuiet
	a.clients.metrics, a.clients.log, a.clients.limiter, a.clients.names = a.Metrics, a.Logger, &a.limiter, a.Names
	a.nodes.NodePorts = a.nodePorts() // field by field too, for NodeListeners
	a.nodes.serve = func(ln net.Listener, listen int, node int32) { a.clients.listen(work, ln, a.serveNode(listen, node)) }
	a.nodes.listen, a.nodes.log, a.nodes.names, a.nodes.metrics = a.listenOn, a.Logger, a.Names, a.Metrics
	a.nodes.changed, a.nodes.moved = a.noteChange, a.resetMoved
	a.nodes.init()
	a.Metrics.AskCarriers(a.Upstream.carriers)
	a.Metrics.AskGateways(a.Upstream.streams)
	a.Metrics.AskExpiry("gateway", a.Upstream.certificateExpires)
	a.finder = finder{nodes: &a.nodes, upstream: a.Upstream, dropped: a.dropCluster}
	if !a.BrokerNames.IsZero() {
		a.finder.pause = askPause
		a.serverNames = &serverNames{
			BrokerNames: a.BrokerNames, listens: a.Listens, expected: a.ExpectNodes, nodes: &a.nodes, ask: a.finder.find, names: a.Names, log: a.Logger,
		}
		a.serverNames.init(a.ListenTLS)
		a.nodes.named = a.serverNames.checkCertificate
	}
	a.setUpWatch()
	a.Metrics.AskReady(a.Ready)
	a.Metrics.AskLimits(func() []metrics.LimitUse {
		return []metrics.LimitUse{{Limit: metrics.LimitConnections, Used: a.clients.count.Load(), Max: int64(a.MaxConnections)}}
	})
}

// nodePorts are the settings that say where to listen for nodes.
func (a *Agent) nodePorts() NodePorts {
	return NodePorts{Listens: a.Listens, Base: a.BrokerPortBase, Exceptions: a.NodeAddresses, Names: a.BrokerNames}
}

// bind binds the bootstrap addresses and those of forwards, all or none of them. The caller closes
// them.
func (a *Agent) bind() (bootstrap, forwards []net.Listener, err error) {
	defer func() {
		if err != nil {
			for _, ln := range slices.Concat(bootstrap, forwards) {
				ln.Close()
			}
		}
	}()
	for _, l := range a.Listens {
		ln, err := net.Listen("tcp", l.Bind)
		if err != nil {
			return bootstrap, forwards, &ListenError{Address: l.Bind, Err: plainListenError(err)}
		}
		bootstrap = append(bootstrap, ln)
	}
	for _, f := range a.forwards {
		ln, err := net.Listen("tcp", f.Address)
		if err != nil {
			return bootstrap, forwards, &ListenError{Address: f.Address, Forward: f.Name, Err: plainListenError(err)}
		}
		f.Address = ln.Addr().String()
		forwards = append(forwards, ln)
	}
	return bootstrap, forwards, nil
}

// restore opens the ports of the expected nodes, and those of the last run. Errors are logged and
// do not stop the agent: responses name the nodes again.
func (a *Agent) restore() {
	if err := a.nodes.expect(a.ExpectNodes); err != nil {
		a.Logger.Error("expected node has no listener", "err", err)
	}
	if a.StateFile == "" {
		return
	}
	s, err := readState(a.StateFile)
	if err != nil {
		a.Logger.Warn("state not restored", "err", err)
		return
	}
	if c, ok := s.of(a.Upstream.name()); ok {
		if err := a.nodes.preload("the state file", c.ClusterID, c.Nodes); err != nil {
			a.Logger.Error("state not restored", "err", err)
		}
	}
}

// maxSpares bounds the streams that the agent opens ahead of clients. In a large cluster a client
// connects to a few brokers first and to others later, and each spare takes one of the gateway's
// streams.
const maxSpares = 8

// keepSpares keeps as many streams ready as one client opens when it starts: one to a bootstrap
// broker and one to each node.
func (a *Agent) keepSpares() { a.Upstream.spare(min(a.nodes.count()+1, maxSpares)) }

// noteChange is called when the nodes have changed. It does not block: saveState writes the file.
// Several changes in a row may be saved as one.
func (a *Agent) noteChange() {
	a.keepSpares()
	select {
	case a.saves <- struct{}{}:
	default:
	}
}

// saveState writes the state file when the nodes have changed, and once more when ctx is done: the
// last change may still be waiting in saves.
func (a *Agent) saveState(ctx context.Context) {
	if a.StateFile == "" {
		return
	}
	for over := false; !over; {
		select {
		case <-a.saves:
		case <-ctx.Done():
			over = true
		}
		cluster, tickets := a.nodes.snapshot()
		if cluster == "" || len(tickets) == 0 {
			continue
		}
		s, _ := readState(a.StateFile) // a file that cannot be read is replaced
		if err := s.with(clusterState{a.Upstream.name(), cluster, tickets}).write(a.StateFile); err != nil {
			a.Logger.Warn("state not saved", "err", err)
		}
	}
}

// contact says hello to the upstream and closes tried. When the agent listens, it watches the
// brokers until ctx is done. Why the hello failed is found again, and reported, by the watch.
func (a *Agent) contact(ctx context.Context, tried chan<- struct{}, listening <-chan struct{}) {
	if err := a.hello(ctx); err != nil {
		a.Logger.Debug("no answer yet", "upstream", a.Upstream.name(), "err", err)
	}
	close(tried)
	<-listening
	a.watch.run(ctx)
}

// hello asks the upstream once whether it is there, and takes the nodes that it knows.
func (a *Agent) hello(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	welcome, err := a.Upstream.hello(ctx)
	if err != nil {
		return err
	}
	a.answered(welcome.Opened)
	a.checkForwards(welcome.Opened)
	if len(welcome.Tickets) == 0 {
		return nil
	}
	return a.nodes.preload("the gateway", welcome.Tickets[0].ClusterID, welcome.Tickets)
}

// answered records that the upstream has answered, and the API versions that the gateway supports.
// A gateway of another version may know fewer than the agent: it issues no tickets for addresses in
// versions that it cannot decode.
func (a *Agent) answered(o tunnel.Opened) {
	a.reached.Store(true)
	if len(o.Reviewed) > 0 {
		caps := rewrite.Reviewed().Lower(o.Reviewed)
		if known := a.caps.Load(); known == nil || *known != caps { // or each connection would keep its own
			a.caps.Store(&caps)
		}
	}
}

// gatewayTimed counts what a gateway says about the requests of one connection.
func (a *Agent) gatewayTimed(t tunnel.Times) {
	a.Metrics.GatewayTimed(protocol.APIKey(t.Key), t.Count, t.Sum)
}

// dropCluster resets the connections to the old cluster when another one has answered, so that no
// request meant for the old cluster reaches the new one. The connection on which the new cluster
// answered has the current epoch already, and stays open.
func (a *Agent) dropCluster(old, now string) {
	if a.limiter.due(warning{message: "cluster"}) { // not the text: ids of clusters are a peer's
		a.Logger.Warn(fmt.Sprintf("cluster %s answers instead of cluster %s, whose nodes were dropped and connections reset", now, old),
			"cluster_id", now, "former_cluster_id", old)
	}
	a.watch.states.forget()
	current := int64(a.nodes.epoch())
	a.clients.each(func(c *agentConn) {
		if epoch := c.epoch.Load(); epoch >= 0 && epoch != current {
			c.kill(metrics.CloseMoved, formerCluster{former: old, now: now})
		}
	})
}

// resetMoved resets the connections to a node that were dialled at another address than the one it
// has now. Another broker may have that address: the client would ask it for what only its node
// can answer, and as the client's own address for the node stays the same, it cannot notice. It
// connects again, and that leads to the new address.
func (a *Agent) resetMoved(m move) {
	n := 0
	a.clients.each(func(c *agentConn) {
		if dialled := c.address.Load(); c.nodeID == m.nodeID && dialled != nil && *dialled != m.address {
			c.kill(metrics.CloseMoved, fmt.Errorf("broker %d is at %s now, not at %s", m.nodeID, m.address, *dialled))
			n++
		}
	})
	if n > 0 {
		a.Logger.Warn("a broker has another address: its connections to the former one were reset", "node_id", m.nodeID,
			"address", m.address, "former_address", m.former, "connections", n)
	}
}
