package proxy

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-proxy/culvert/proxy/credentials"
	"github.com/culvert-proxy/culvert/proxy/hints"
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
	// RevokeStreams also ends open streams: see relays.revoke.
	RevokeStreams bool
	// DrainTimeout bounds how long streams may take to end between two requests
	// when the gateway does.
	DrainTimeout time.Duration
	// Linger is how long a gateway that was told to stop goes on telling new agents
	// that it drains, after its last stream has ended. Without streams it does not.
	Linger  time.Duration
	Limits  tunnel.Limits
	Metrics *metrics.Metrics
	Logger  *slog.Logger // nil: discard
	Names   hints.Names  // of settings, in what agents are told

	// For tests.
	without   without
	lookEvery time.Duration // revokeEvery

	gatewayState
}

// gatewayState is the state of a gateway that runs. Run makes it.
type gatewayState struct {
	server  atomic.Pointer[tunnel.Server] // nil before Run
	tickets issuer
	targets brokerDialer
	relays  relays
	limiter logLimiter
}

// Ready returns nil if clients may come, else an error that says why not: no broker
// has answered since the start, or the gateway drains. One answer is enough for good:
// what fails later is reported on each stream, which says more than an ingress that
// finds no gateway ready.
//
// A gateway that drains stays ready as long as there are QUIC connections, for
// half of its time: Kubernetes cuts off a pod's UDP as soon as it is not ready.
// Agents that come meanwhile are told to go elsewhere.
func (g *Gateway) Ready() error {
	draining, server := g.relays.drainingSince(), g.server.Load()
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
	signer := newSigner(g.TicketKeys)
	g.tickets = issuer{signer: signer, memory: &memory{changed: g.Metrics.SetNodes}, metrics: g.Metrics, log: g.Logger, limiter: &g.limiter}
	g.targets = brokerDialer{g.Brokers, signer, g.Metrics, g.Names}
	reviewed := rewrite.Reviewed()
	server := &tunnel.Server{
		Authenticate: g.Authenticate,
		Grant:        g.Grant,
		Judge:        g.Judge,
		User:         credentials.User,
		OnRefused:    g.turnedAway,
		Serve:        g.serve,
		Opened:       func() tunnel.Opened { return tunnel.Opened{Gateway: g.Version, Reviewed: reviewed[:]} },
		Tickets:      g.tickets.remembered,
		TLS:          g.TLS,
		Linger:       g.Linger,
		ResetKey:     g.ResetKey,
		OnUDPBuffers: g.Metrics.UDPBuffers,
		Limits:       g.Limits,
		OnLimit:      g.limited,
		Names:        g.Names,
		Logger:       g.Logger,
	}
	g.server.Store(server)
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
	g.relays.drain()
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

// turnedAway logs who was not let in, and why.
func (g *Gateway) turnedAway(why error, p tunnel.Peer) {
	g.limiter.warn(withPeer(g.Logger, p), "request refused", "", "err", why)
}

// withPeer adds what is known of a stream's agent to a logger.
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
	broker, node, refused := g.targets.dial(ctx, open)
	if refused != nil {
		g.limiter.warn(log, "stream refused", string(refused.Code), "err", refused)
		g.Metrics.Closed(metrics.CloseDial)
		t.Reset(refused)
		return
	}
	log.Debug("stream opened", "node_id", node)
	defer g.Metrics.Connection(node)()
	defer g.Metrics.Stream(peer.Transport)()
	c := newConn(t, connSettings{
		policy:      g.tickets.on(t),
		report:      reporter{g.Metrics, log, &g.limiter},
		wording:     g.Names,
		headTimeout: defaultHeadTimeout,
		without:     g.without,
	})
	c.connect(broker)
	c.requests.expectFirst() // the agent has it, or would not have opened the stream
	g.relays.add(c, peer)
	defer g.relays.remove(c)
	c.run(ctx)
}

// watchCredentials ends, until ctx is done, what was opened with credentials that
// are not accepted any more.
func (g *Gateway) watchCredentials(ctx context.Context) {
	if g.Judge == nil {
		return
	}
	var cuts sync.WaitGroup
	defer cuts.Wait()
	tick := time.NewTicker(cmp.Or(g.lookEvery, revokeEvery))
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
			g.Logger.Warn("streams end, what opened them is not accepted any more", "identity", identity, "streams", n)
		}
	}
}
