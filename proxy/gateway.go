package proxy

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-proxy/culvert/proxy/audit"
	"github.com/culvert-proxy/culvert/proxy/credentials"
	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/metrics"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
	"github.com/culvert-proxy/culvert/rewrite"
)

// Gateway runs beside the brokers. It accepts the tunnel's streams, decides which addresses may be
// dialled, and dials them. Set the fields, then call Run once. Run owns all goroutines and waits
// for them before it returns. Ready may be called at any time, from any goroutine.
type Gateway struct {
	Version string
	Brokers *Brokers
	// Forwards are what agents may reach beside Kafka: see [CheckForwards].
	Forwards []Forward
	// TicketKeys returns the keys of tickets, at least one. The first one signs, all of them
	// verify. Nil means a random key, which no other replica has.
	TicketKeys func() ([][]byte, error)
	TLS        *tls.Config // nil: plain HTTP, for a place behind an ingress
	// ResetKey is as in tunnel.Server.
	ResetKey []byte
	// Authenticate returns who makes a request, or why the request is refused. Nil accepts every
	// request.
	Authenticate func(*http.Request) (identity string, err error)
	// ProxyProtocol is as in tunnel.Server.
	ProxyProtocol []netip.Prefix
	// Grant and Judge are as in tunnel.Server. With them, a spare that was made with credentials
	// that are no longer accepted cannot become a stream.
	Grant func(*http.Request) any
	Judge func() func(grant any) error
	// RevokeStreams also ends open streams whose credentials are no longer accepted: see
	// relays.revoke.
	RevokeStreams bool
	// DrainTimeout bounds how long Run waits, when ctx is done, for streams to finish the requests
	// in flight. It cuts what is left then.
	DrainTimeout time.Duration
	// Linger is how long a draining gateway keeps answering, after its last stream has ended, so
	// that agents that still come to it learn that it drains. A gateway that had no streams does
	// not linger.
	Linger  time.Duration
	Limits  tunnel.Limits
	Metrics *metrics.Metrics
	Logger  *slog.Logger // nil: discard
	Names   hints.Names  // of settings, in what agents are told
	Audit   *audit.Log   // nil: none
	// Answered, if set, is called once, when a bootstrap broker has answered for the first time.
	Answered func(broker net.Addr, took time.Duration)

	// For tests.
	without       without
	checkEvery    time.Duration // revokeEvery
	watchForwards time.Duration // as the constant

	gatewayState
}

// gatewayState is the state of a running gateway. Run sets it up.
type gatewayState struct {
	listening  string // the address for agents; set before server
	transports string // that agents may use; likewise

	server   atomic.Pointer[tunnel.Server] // nil before Run
	tickets  issuer
	targets  brokerDialer
	forwards *forwardTargets
	relays   relays
	watch    brokerWatch
	limiter  logLimiter
}

// Ready returns nil when agents may connect. It returns an error until a broker has answered once,
// and when the gateway drains. That brokers do not answer later is what Missing says: each stream
// then reports why it failed, while an ingress without a ready gateway would only say that there is
// none.
//
// A draining gateway that has QUIC connections stays ready for up to half of DrainTimeout:
// Kubernetes stops routing UDP to a pod when the pod is not ready. Agents that connect meanwhile
// are told that the gateway drains.
func (g *Gateway) Ready() error {
	draining, server := g.relays.drainingSince(), g.server.Load()
	switch {
	case !draining.IsZero() && (server.QUICConns() == 0 || server.Drained() || time.Since(draining) >= g.DrainTimeout/2):
		return errDraining
	}
	if ever, missing := g.watch.state(); !ever {
		return missing
	}
	return nil
}

// Missing returns why no bootstrap broker answers; nil means that one does.
func (g *Gateway) Missing() error {
	_, missing := g.watch.state()
	return missing
}

// Run serves streams from both listeners until ctx is done. Then it drains and returns nil. It
// returns early, with an error, if serving fails. udp may be nil. Run closes both listeners.
func (g *Gateway) Run(ctx context.Context, tcp net.Listener, udp net.PacketConn) error {
	if g.Logger == nil {
		g.Logger = slog.New(slog.DiscardHandler)
	}
	signer := newSigner(g.TicketKeys)
	g.tickets = issuer{signer: signer, relayed: &relayedNodes{changed: g.Metrics.SetNodes}, metrics: g.Metrics, log: g.Logger, limiter: &g.limiter}
	g.targets = brokerDialer{g.Brokers, signer, g.Metrics, g.Names}
	g.watch.ask, g.watch.every, g.watch.early, g.watch.log = g.probe, checkEveryGateway, make(chan struct{}, 1), g.Logger
	g.watch.lost = "no bootstrap broker answers"
	g.forwards = newForwardTargets(g)
	reviewed, instance, forwards := rewrite.Reviewed(), rand.Text(), namesOf(g.forwards.all)
	server := &tunnel.Server{
		Authenticate: g.Authenticate,
		Grant:        g.Grant,
		Judge:        g.Judge,
		User:         credentials.User,
		OnRefused:    g.logRefused,

		ProxyProtocol: g.ProxyProtocol,
		OnProxyHeader: g.headerRefused,

		Serve: g.serve,
		Opened: func() tunnel.Opened {
			return tunnel.Opened{Gateway: g.Version, Instance: instance, Forwards: forwards, Reviewed: reviewed[:], Keys: signer.ids()}
		},
		Tickets:      g.tickets.relayedTickets,
		TLS:          g.TLS,
		Linger:       g.Linger,
		ResetKey:     g.ResetKey,
		OnUDPBuffers: g.Metrics.UDPBuffers,
		Limits:       g.Limits,
		OnLimit:      g.limited,
		Names:        g.Names,
		Logger:       g.Logger,
	}
	g.listening, g.transports = tcp.Addr().String(), "ws, h2"
	if udp != nil {
		g.transports = "h3, ws, h2"
	}
	g.server.Store(server)
	g.Metrics.AskReady(g.Ready)
	g.Metrics.AskLimits(func() []metrics.LimitUse { return limitUses(server) })
	g.Metrics.AskCarriers(server.CarrierStats)
	var background sync.WaitGroup
	defer background.Wait()
	reaching, stop := context.WithCancel(ctx)
	defer stop()
	background.Go(func() { g.watch.run(reaching) })
	background.Go(func() { g.watchCredentials(reaching) })
	background.Go(func() { g.forwards.watch(reaching, cmp.Or(g.watchForwards, watchForwards)) })
	background.Go(func() { g.Metrics.Sample(reaching) })
	background.Go(func() { new(spentMemory).run(reaching) })
	defer tcp.Close()
	if udp != nil {
		defer udp.Close()
	}
	if err := server.Run(ctx, tcp, udp); err != nil {
		over, cancel := context.WithCancel(ctx)
		cancel()
		server.Shutdown(over) // closes what is still served, without waiting for streams
		return err
	}
	began, all := time.Now(), g.relays.drain()
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), g.DrainTimeout)
	defer cancel()
	server.Shutdown(drain)
	logStop(ctx, g.Logger, "stopped: streams did not end in time and were cut", all, g.relays.cutByEnd(), time.Since(began))
	return nil
}

// limited counts and logs what the server refused because of a limit.
func (g *Gateway) limited(l tunnel.Limit, e *tunnel.Error, p tunnel.Peer) {
	g.Metrics.Limited(metrics.LimitOf(string(l)))
	what := "stream refused"
	if l == tunnel.LimitUnauthenticated {
		what = "connection without credentials closed"
	}
	g.limiter.warn(withPeer(g.Logger, p), what, string(l), "err", e)
	g.auditLimited(p, l, e)
}

// limitUses returns how much of each limit of a server is used.
func limitUses(s *tunnel.Server) (uses []metrics.LimitUse) {
	for _, u := range s.LimitUses() {
		uses = append(uses, metrics.LimitUse{Limit: metrics.LimitOf(string(u.Limit)), Used: u.Used, Max: u.Max})
	}
	return uses
}

// logRefused logs a request without valid credentials.
func (g *Gateway) logRefused(why error, p tunnel.Peer) {
	g.limiter.warn(withPeer(g.Logger, p), "request refused", "", "err", why)
	g.auditLogin(p, why)
}

// headerRefused counts and logs a connection that began with a PROXY header, or without one.
func (g *Gateway) headerRefused(why error, p tunnel.Peer) {
	g.Metrics.Refused(metrics.RefusedProxyHeader)
	g.limiter.warn(withPeer(g.Logger, p), "connection refused", metrics.RefusedProxyHeader.String(), "err", why)
	g.auditHeader(p, why)
}

// withPeer returns a logger that adds what is known about the agent.
func withPeer(log *slog.Logger, p tunnel.Peer) *slog.Logger {
	if p.User != "" {
		log = log.With("user", p.User)
	}
	return log.With("client_addr", p.Addr, "identity", p.Identity, "transport", p.Transport)
}

// probe asks a bootstrap broker once.
func (g *Gateway) probe(ctx context.Context) error {
	broker, took, err := g.Brokers.probe(ctx)
	if ever, _ := g.watch.state(); err == nil && !ever && g.Answered != nil {
		g.Answered(broker, took)
	}
	return err
}

// serve dials the broker of one stream, and relays until the stream has ended.
func (g *Gateway) serve(ctx context.Context, t *tunnel.Conn, open *tunnel.Open, peer *tunnel.Peer) {
	if isForward(open) {
		g.serveForward(ctx, t, open, peer)
		return
	}
	var c *conn
	var node int32
	onOwnStack(func() { c, node = g.dial(ctx, t, open, peer) })
	if c != nil {
		g.relay(ctx, c, node, peer)
	}
}

// dial dials the broker of one stream. It returns nil if it has reset the stream instead.
func (g *Gateway) dial(ctx context.Context, t *tunnel.Conn, open *tunnel.Open, peer *tunnel.Peer) (c *conn, node int32) {
	log := withPeer(g.Logger, *peer).With("target", open.Target)
	report := reporter{metrics: g.Metrics, log: log, limiter: &g.limiter, watch: &g.watch, node: open.Target}
	node, refused := g.targets.mayDial(*open)
	if refused != nil {
		report.streamRefused(refused)
		g.auditRefused(peer, auditBroker(open.Target, node), refused)
		t.Reset(refused)
		return nil, node
	}
	if isProbe(open) { // what it may not ask for is told all the same
		report = report.ofProbe()
	}
	broker, failed := g.targets.dial(ctx, open.Target)
	if failed != nil {
		report.brokerUnreached(failed)
		g.auditRefused(peer, auditBroker(open.Target, node), failed)
		t.Reset(failed)
		return nil, node
	}
	report.reached()
	report.broker = gatewayBroker(node, open.Target)
	log.Debug("stream opened", "node_id", node)
	return g.newConn(t, broker, report), node
}

// newConn returns the connection of a stream.
func (g *Gateway) newConn(t *tunnel.Conn, broker net.Conn, report reporter) *conn {
	c := newConn(t, connSettings{
		policy:       g.tickets.on(t),
		report:       report,
		settingNames: g.Names,
		headTimeout:  defaultHeadTimeout,
		without:      g.without,
	})
	c.connect(broker)
	c.requests.expectFirst() // the agent opens a stream only when it has the first request
	return c
}

// gatewayBroker names the broker of a stream, for the log.
func gatewayBroker(node int32, target string) string {
	switch node {
	case metrics.Bootstrap:
		return "a bootstrap broker"
	case metrics.UnknownNode:
		return "broker at " + target
	}
	return "broker " + strconv.Itoa(int(node))
}

// relay relays one stream until it has ended. It closes both sides.
func (g *Gateway) relay(ctx context.Context, c *conn, node int32, peer *tunnel.Peer) {
	defer g.enter(ctx, c, node, peer)()
	c.run(ctx)
}

// enter counts a connection, and has it drained with the others. The caller calls leave when it has
// ended.
func (g *Gateway) enter(ctx context.Context, c *conn, node int32, peer *tunnel.Peer) (leave func()) {
	opened, disconnected, closed := time.Now(), g.Metrics.Connection(node), g.Metrics.Stream(peer.Transport)
	g.relays.add(c, *peer)
	return func() {
		g.auditRelayed(c, node, peer, opened)
		g.relays.remove(c, ctx.Err() != nil)
		closed()
		disconnected()
	}
}

// watchCredentials ends spares whose credentials are no longer accepted and, with RevokeStreams,
// streams too. It returns when ctx is done and the streams that it cuts have been cut.
func (g *Gateway) watchCredentials(ctx context.Context) {
	if g.Judge == nil {
		return
	}
	var cuts sync.WaitGroup
	defer cuts.Wait()
	tick := time.NewTicker(cmp.Or(g.checkEvery, revokeEvery))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		g.server.Load().EndRevokedSpares()
		if !g.RevokeStreams {
			continue
		}
		for identity, n := range g.relays.revoke(g.Judge(), g.DrainTimeout, &cuts) {
			g.Logger.Warn("ending streams: their credentials are no longer accepted", "identity", identity, "streams", n)
		}
	}
}
