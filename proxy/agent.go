package proxy

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-proxy/culvert/proxy/backoff"
	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/metrics"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
	"github.com/culvert-proxy/culvert/rewrite"
)

const (
	// greetTimeout bounds how long an agent waits for what its gateway
	// remembers before it lets clients in.
	greetTimeout = 2 * time.Second
	// tlsHandshakeTimeout bounds a client's handshake with the agent.
	tlsHandshakeTimeout = 10 * time.Second
)

// Agent stands beside the clients: it listens for them, opens a stream to a
// broker for each connection, and writes its own addresses into responses. Set
// the fields, then call Run once.
type Agent struct {
	Version string
	// Listens are the bootstrap addresses; at least one.
	Listens []Listen
	// BrokerPortBase plus a node id is the port on which that node is reached,
	// on the host of each of Listens.
	BrokerPortBase int
	NodeAddresses  map[int32]NodeAddress
	// ExpectNodes have their ports open from the start.
	ExpectNodes []int32
	// StateFile remembers the nodes over a restart; "" means not to.
	StateFile string
	// RelayUnknownAPIs lets API keys pass that are not Kafka's own. Their
	// responses are not looked at: they might name addresses.
	RelayUnknownAPIs bool
	ListenTLS        *tls.Config // nil: clients speak plaintext
	Upstream         Upstream
	// DrainTimeout bounds how long connections may take to end between two
	// requests when the agent does.
	DrainTimeout time.Duration
	// MaxConnections bounds the clients' connections; 0 is no limit.
	MaxConnections int
	Metrics        *metrics.Metrics
	Logger         *slog.Logger // nil: discard
	Names          hints.Names  // of settings, in what is logged
	// Listening, if set, is called when clients may come, with the bootstrap
	// addresses that were bound.
	Listening func(bootstrap []string)

	// For tests.
	headTimeout time.Duration // defaultHeadTimeout
	without     without
	listenOn    func(network, address string) (net.Listener, error) // as nodes.listen

	agentState
}

// agentState is the state of an agent that runs. Run makes it.
type agentState struct {
	nodes   nodes
	finder  finder
	clients clients
	caps    atomic.Pointer[rewrite.Caps] // what it and its gateway have reviewed
	greeted atomic.Bool                  // a gateway or, without a tunnel, a broker has answered
	saves   chan struct{}                // has an element when the nodes have changed
	limiter logLimiter
}

// Ready reports, as an error that says why, whether no gateway (or, without a
// tunnel, no broker) has answered since the start, or the agent drains.
func (a *Agent) Ready() error {
	switch {
	case a.clients.isDraining():
		return errDraining
	case !a.greeted.Load():
		return fmt.Errorf("%s has not answered yet", a.Upstream.name())
	}
	return nil
}

// Tunnels says which transport is used to each gateway, by its URL, and why;
// nothing where there is no tunnel.
func (a *Agent) Tunnels() map[string]tunnel.State { return a.Upstream.states() }

// Run listens and serves until ctx is done, drains, and returns nil then. It
// returns early, with an error, only where a bootstrap address cannot be bound.
func (a *Agent) Run(ctx context.Context) error {
	work, stop := context.WithCancel(context.WithoutCancel(ctx)) // what connections do outlives ctx until they have drained
	defer stop()
	a.setUp(work)
	bootstrap, err := a.bind()
	if err != nil {
		a.clients.closeListeners()
		return err
	}
	a.restore()
	var background sync.WaitGroup
	background.Go(func() { a.saveState(ctx) })
	greeting := make(chan struct{})
	background.Go(func() { a.greet(ctx, greeting) })
	within(greetTimeout, greeting)
	a.keepSpares()

	var addresses []string
	for i, ln := range bootstrap {
		a.clients.listen(work, ln, i, bootstrapNode)
		addresses = append(addresses, ln.Addr().String())
	}
	if a.Listening != nil {
		a.Listening(addresses)
	}
	<-ctx.Done()
	a.clients.drain(a.DrainTimeout, stop)
	background.Wait()
	return a.Upstream.close()
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
	a.clients.serve, a.clients.most = a.serve, a.MaxConnections // field by field, for Ready asks clients already
	a.clients.metrics, a.clients.log, a.clients.limiter, a.clients.names = a.Metrics, a.Logger, &a.limiter, a.Names
	a.nodes = nodes{
		nodeListeners: nodeListeners{
			listens: a.Listens, portBase: a.BrokerPortBase, overrides: a.NodeAddresses,
			serve:  func(ln net.Listener, listen int, node int32) { a.clients.listen(work, ln, listen, node) },
			listen: a.listenOn, log: a.Logger, names: a.Names,
		},
		metrics: a.Metrics, changed: a.noteChange,
	}
	a.nodes.init()
	a.finder = finder{nodes: &a.nodes, upstream: a.Upstream, dropped: a.dropCluster}
}

// bind binds the bootstrap addresses, all or none.
func (a *Agent) bind() ([]net.Listener, error) {
	var lns []net.Listener
	for _, l := range a.Listens {
		ln, err := net.Listen("tcp", l.Bind)
		if err != nil {
			for _, ln := range lns {
				ln.Close()
			}
			return nil, &ListenError{l.Bind, plainListenError(err)}
		}
		lns = append(lns, ln)
	}
	return lns, nil
}

// restore opens the ports of the last run and of the nodes that are expected.
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
		if err := a.nodes.recall("the state file", c.ClusterID, c.Nodes); err != nil {
			a.Logger.Error("state not restored", "err", err)
		}
	}
}

// maxSpares bounds the streams that are ready before clients come.
const maxSpares = 8

// keepSpares keeps as many streams ready as a client opens when it starts: one to
// each node, and one to find them.
func (a *Agent) keepSpares() { a.Upstream.spare(min(a.nodes.count()+1, maxSpares)) }

// noteChange is called when the nodes have changed. The state is saved soon.
func (a *Agent) noteChange() {
	a.keepSpares()
	select {
	case a.saves <- struct{}{}:
	default:
	}
}

// saveState writes the state file whenever the nodes have changed, and once
// more when ctx is done.
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
		s, _ := readState(a.StateFile) // an unreadable one is replaced
		if err := s.with(clusterState{a.Upstream.name(), cluster, tickets}).write(a.StateFile); err != nil {
			a.Logger.Warn("state not saved", "err", err)
		}
	}
}

// greet says hello to the gateway until it has answered, and closes done after
// the first try.
func (a *Agent) greet(ctx context.Context, done chan<- struct{}) {
	for failures := 0; ; failures++ {
		err := a.hello(ctx)
		if failures == 0 {
			close(done)
		}
		if err == nil || ctx.Err() != nil {
			return
		}
		level := slog.LevelWarn
		if failures > 0 {
			level = slog.LevelDebug
		}
		a.Logger.Log(ctx, level, "no answer yet, trying again", "upstream", a.Upstream.name(), "err", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(backoff.Delay(failures, 200*time.Millisecond, 30*time.Second)):
		}
	}
}

func (a *Agent) hello(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	welcome, err := a.Upstream.hello(ctx)
	if err != nil {
		return err
	}
	a.answered(welcome.Opened)
	if len(welcome.Tickets) == 0 {
		return nil
	}
	return a.nodes.recall("the gateway", welcome.Tickets[0].ClusterID, welcome.Tickets)
}

// answered records what a gateway said: that it is there, and which API versions it knows.
func (a *Agent) answered(o tunnel.Opened) {
	a.greeted.Store(true)
	if len(o.Reviewed) > 0 {
		caps := rewrite.Reviewed().Lower(o.Reviewed)
		a.caps.Store(&caps)
	}
}

// dropCluster ends the connections to the old cluster when another one has
// answered. A connection on which that answer came belongs to the new one and
// stays. No request meant for the old cluster may reach the new one.
func (a *Agent) dropCluster(old, now string) {
	a.limiter.warn(a.Logger, "another cluster answers: its predecessor's nodes are forgotten and its connections reset", "", "cluster_id", now, "former_cluster_id", old)
	current := int64(a.nodes.epoch())
	a.clients.each(func(c *agentConn) {
		if epoch := c.epoch.Load(); epoch >= 0 && epoch != current {
			c.kill(fmt.Errorf("cluster %s does not answer any more", old))
		}
	})
}
