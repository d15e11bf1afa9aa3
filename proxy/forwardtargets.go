package proxy

import (
	"context"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/metrics"
	"github.com/culvert-proxy/culvert/proxy/printable"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// forwardTargets are what a gateway dials for agents beside Kafka: what its setting says for a name,
// and nothing else. Nothing of it has to do with brokers, their addresses and tickets.
type forwardTargets struct {
	all     []*forward
	names   hints.Names
	log     *slog.Logger
	dialers map[string]*Brokers // by name
}

// newForwardTargets returns the targets of a gateway's forwards, which are reached as a bootstrap
// broker is, but without TLS: the bytes are the client's.
func newForwardTargets(g *Gateway) *forwardTargets {
	t := &forwardTargets{all: newForwards(g.Forwards, g.Metrics), names: g.Names, log: g.Logger, dialers: map[string]*Brokers{}}
	for _, f := range t.all {
		t.dialers[f.Name] = &Brokers{Bootstrap: []string{f.Address}, Resolver: g.Brokers.Resolver, Names: g.Names, Logger: g.Logger, forward: f.Name}
	}
	return t
}

// find returns the forward that a stream asks for, or why there is none.
func (t *forwardTargets) find(open *tunnel.Open) (*forward, *tunnel.Error) {
	name := strings.TrimPrefix(open.Target, tunnel.TargetForward)
	if f := named(t.all, name); f != nil {
		return f, nil
	}
	why := &notOffered{name: printable.Text(name, maxForwardName), offers: namesOf(t.all)}
	return nil, &tunnel.Error{Code: tunnel.CodeTarget, Message: why.Error(), Remedy: why.HintFor(t.names)}
}

// dial connects to the target of a forward.
func (t *forwardTargets) dial(ctx context.Context, f *forward) (net.Conn, *tunnel.Error) {
	c, err := t.dialers[f.Name].dial(ctx, f.Address)
	f.counts.Dialled(err)
	return c, dialError(err, t.names)
}

// watchForwards is how often a gateway looks whether it can reach what it could not.
const watchForwards = 30 * time.Second

// watch dials each target once, so that a mistake in a setting is found before a client does, and
// then those that could not be reached, until ctx is done.
func (t *forwardTargets) watch(ctx context.Context, every time.Duration) {
	for first := true; ; first = false {
		var looks sync.WaitGroup
		for _, f := range t.all {
			if first || f.outage.lasts(f.Name) {
				looks.Go(func() { t.look(ctx, f) })
			}
		}
		looks.Wait()
		if !sleep(ctx, every) {
			return
		}
	}
}

// look finds out whether a target can be reached.
func (t *forwardTargets) look(ctx context.Context, f *forward) {
	log := t.log.With("forward", f.Name)
	c, failed := t.dial(ctx, f)
	switch {
	case failed == nil:
		c.Close()
		f.reached(log)
	case ctx.Err() == nil:
		f.failed(log, failed)
	}
}

// isForward reports whether a stream asks for a forward.
func isForward(open *tunnel.Open) bool { return strings.HasPrefix(open.Target, tunnel.TargetForward) }

// serveForward dials the target of one stream, and relays until the stream has ended.
func (g *Gateway) serveForward(ctx context.Context, t *tunnel.Conn, open *tunnel.Open, peer *tunnel.Peer) {
	var f *forward
	var far net.Conn
	log := withPeer(g.Logger, *peer)
	onOwnStack(func() { f, far = g.dialForward(ctx, log, t, open, peer) })
	if far == nil {
		return
	}
	c := newForwardConn(t, f.counts)
	c.connect(far)
	if isProbe(open) { // it wants to know no more
		c.note(metrics.CloseClientFIN, nil)
		far.Close()
		t.CloseWrite()
		g.auditForwarded(c, f.Name, peer, c.why())
		return
	}
	defer g.Metrics.Stream(peer.Transport)()
	g.relays.add(c, *peer)
	defer func() { g.relays.remove(c, ctx.Err() != nil) }()
	end := c.run(ctx)
	g.auditForwarded(c, f.Name, peer, end)
	log.Debug("forward closed", "forward", f.Name, "cause", end.cause.OfForward(), "err", end.err)
}

// dialForward dials the target of one stream. It returns no connection if it has reset the stream
// instead.
func (g *Gateway) dialForward(ctx context.Context, log *slog.Logger, t *tunnel.Conn, open *tunnel.Open, peer *tunnel.Peer) (*forward, net.Conn) {
	f, refused := g.forwards.find(open)
	if refused != nil {
		g.limiter.warn(log, "forward refused", "", "err", refused)
		g.auditRefused(peer, auditForward(strings.TrimPrefix(open.Target, tunnel.TargetForward)), refused)
		t.Reset(refused)
		return nil, nil
	}
	log = log.With("forward", f.Name)
	far, failed := g.forwards.dial(ctx, f)
	if failed == nil {
		f.reached(log)
		return f, far
	}
	if !isProbe(open) { // otherwise, who asked is told
		f.counts.Closed(metrics.CloseDial)
		f.failed(log, failed)
	}
	g.auditRefused(peer, auditForward(f.Name), failed)
	t.Reset(failed)
	return f, nil
}

// isProbe reports whether an agent asks for itself: see [tunnel.FeatureProbe].
func isProbe(open *tunnel.Open) bool { return slices.Contains(open.Features, tunnel.FeatureProbe) }
