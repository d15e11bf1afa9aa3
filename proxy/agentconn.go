package proxy

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"

	"github.com/culvert-proxy/culvert/protocol"
	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/metrics"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
	"github.com/culvert-proxy/culvert/rewrite"
)

// agentConn is a client's connection at the agent.
type agentConn struct {
	*conn
	agent  *Agent
	listen int   // through which of the agent's addresses the client came
	nodeID int32 // whom the listener is for
	// introductionsOnly is set where the node is unknown and a bootstrap broker takes
	// its place: see introduces.
	introductionsOnly bool
	address           string       // of the node; "" is a bootstrap broker
	epoch             atomic.Int64 // of the table that the connection belongs to; -1 until it is opened
	stop              context.CancelCauseFunc

	names, hints rewrite.Rewriter
}

// serve relays one client's connection until it is over.
func (a *Agent) serve(ctx context.Context, nc net.Conn, listen int, nodeID int32) {
	defer nc.Close()
	log := a.Logger.With("client_addr", nc.RemoteAddr(), "listener", nc.LocalAddr(), "node_id", nodeID)
	if a.ListenTLS != nil {
		t := tls.Server(nc, a.ListenTLS)
		ctx, cancel := context.WithTimeout(ctx, tlsHandshakeTimeout)
		defer cancel()
		if err := t.HandshakeContext(ctx); err != nil {
			a.noHandshake(log, err)
			return
		}
		nc = t
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	c := &agentConn{agent: a, listen: listen, nodeID: nodeID, stop: stop}
	c.epoch.Store(-1)
	c.conn = newConn(nc, connSettings{
		policy: c, report: reporter{a.Metrics, log, &a.limiter}, wording: a.Names, headTimeout: a.headTimeout, without: a.without,
	})
	c.names.Directory, c.names.RelayUnknown = directory{c, false}, a.RelayUnknownAPIs
	c.hints.Directory = directory{c, true}
	a.clients.add(c)
	defer a.clients.remove(c)

	defer c.requests.release()
	if err := c.requests.readFirst(); err != nil {
		c.refuseFirst(err)
		return
	}
	if err := c.open(ctx); err != nil {
		c.ending.note(metrics.CloseDial, err)
		c.doubtNode()
		c.report.closed(c.ending.why())
		c.ending.resetClient()
		return
	}
	defer a.Metrics.Connection(nodeID)()
	defer a.Metrics.Stream(c.transport())()
	c.run(ctx)
	c.doubtNode()
}

// refuseFirst says why a connection ends whose first bytes are no Kafka request.
// HTTP gets an answer that a person can read.
func (c *agentConn) refuseFirst(err error) {
	var refused *refusal
	if !errors.As(err, &refused) {
		return // a probe that sends nothing, or a client that is gone
	}
	c.report.metrics.Refused(refused.reason)
	c.report.metrics.Closed(metrics.CloseRefused)
	c.report.refused(refused, "hint", c.wording.Sprintf("this port speaks Kafka; does the client's security.protocol fit the agent's %s?", hints.ListenTLSCertFile))
	if errors.Is(err, protocol.HTTPRequest) {
		const answer = "culvert: this port speaks Kafka, not HTTP\n"
		fmt.Fprintf(c.near, "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(answer), answer)
	}
}

// transport is what carries the stream, for metrics.
func (c *agentConn) transport() string {
	if t, ok := c.far.Conn.(*tunnel.Conn); ok {
		return t.Transport()
	}
	return c.agent.Upstream.transport()
}

// open opens the stream to where the listener leads. Nothing of the client's but
// a first request that is repeatable leaves before the gateway has answered.
func (c *agentConn) open(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	to := destination{onTicket: c.agent.nodes.addTicket, first: c.requests.repeatable()}
	c.epoch.Store(int64(c.agent.nodes.epoch())) // before the table is asked: see dropCluster
	if c.nodeID != bootstrapNode {
		found, err := c.agent.finder.find(ctx, c.nodeID)
		if err != nil {
			c.introductionsOnly = true
			c.report.log.Info("node unknown, a bootstrap broker is lent for introductions", "err", err)
		} else {
			c.address, to.ticket = found.address, found.ticket
		}
	}
	to.address = c.address
	far, sent, err := c.agent.Upstream.dial(ctx, to)
	if err != nil {
		return errNoStream(cmp.Or(c.address, "a bootstrap broker"), err)
	}
	c.connect(far)
	c.requests.sentAhead(sent)
	return nil
}

// doubtNode has the next client ask anew where the node is, when the way to it was
// open but not the node: the gateway refused the address, because the ticket has
// expired or was another gateway's, or the broker was not reached there and may
// have moved.
func (c *agentConn) doubtNode() {
	end := c.ending.why()
	if _, ok := errors.AsType[brokerError](end.err); ok {
		c.agent.nodes.doubt(c.nodeID, c.address, false)
	}
	if e, ok := errors.AsType[*tunnel.Error](end.err); ok {
		switch e.Code {
		case tunnel.CodeTicket, tunnel.CodeTarget:
			c.agent.nodes.doubt(c.nodeID, c.address, true)
		case tunnel.CodeDial:
			c.agent.nodes.doubt(c.nodeID, c.address, false)
		}
	}
}

// kill ends the connection, and what is being done for it.
func (c *agentConn) kill(why error) {
	c.ending.note(metrics.CloseDrain, why)
	c.stop(why)
	c.ending.resetClient()
}

// screen refuses what could name addresses in ways that nobody has reviewed,
// and what must not reach a broker that is for introductions only.
func (c *agentConn) screen(r protocol.Request) (answer []byte, err error) {
	caps := c.agent.caps.Load()
	switch {
	case !r.Key.Known():
		if c.agent.RelayUnknownAPIs {
			return nil, nil
		}
		return nil, refuse(metrics.RefusedUnknownKey, "request of API key %d, which this version of culvert does not know: its response could name broker addresses; %s lets it pass", int16(r.Key), c.wording.Of(hints.RelayUnknownAPIs))
	case r.Key == protocol.APIVersions && r.Version > caps[r.Key]:
		return rewrite.UnsupportedAPIVersions(r.CorrelationID, caps[r.Key]), nil
	case !caps.Allow(r.Key, r.Version):
		return nil, refuse(metrics.RefusedUnsupportedVersion, "request %s v%d: this agent and its gateway know versions up to %d, and the response could name broker addresses; ApiVersions said so, does the client not ask?", r.Key, r.Version, caps[r.Key])
	case c.introductionsOnly && !introduces(r.Key):
		return nil, refuse(metrics.RefusedIntroduction, "request %s on a connection to node %d, which is not known yet: the client has to fetch metadata first", r.Key, c.nodeID)
	}
	return nil, nil
}

// introduces reports whether any broker may answer the request in the place of
// another one. Others would act on the wrong broker, or be answered by a
// follower that lags. What a response names does not say this, so it is a list of
// its own.
func introduces(k protocol.APIKey) bool {
	switch k {
	case protocol.APIVersions, protocol.SASLHandshake, protocol.SASLAuthenticate,
		protocol.Metadata, protocol.FindCoordinator, protocol.DescribeCluster:
		return true
	}
	return false
}

// lenient is not what an agent may be: an address could pass.
func (c *agentConn) lenient() bool { return false }

func (c *agentConn) touches(k protocol.APIKey, version int16) bool {
	return rewrite.Touches(k, version)
}

// relay relays a response with its addresses replaced.
func (c *agentConn) relay(f *protocol.Flow, r protocol.Request, size int64) (rewrite.Result, error) {
	switch {
	case rewrite.NamedBy(r.Key, r.Version) == rewrite.Leaders:
		return c.hints.Relay(f, r.Key, r.Version, size)
	case r.Key == protocol.APIVersions:
		c.noteOpened()
		c.names.Caps = c.agent.caps.Load()
	}
	return c.names.Relay(f, r.Key, r.Version, size)
}

// noteOpened takes note of what the gateway said when the stream was opened,
// which has come ahead of the response.
func (c *agentConn) noteOpened() {
	t, ok := c.far.Conn.(*tunnel.Conn)
	if !ok {
		return
	}
	if o, err := t.Opened(context.Background()); err == nil { // it is here, so that there is no wait to end
		c.agent.answered(o)
	}
}

// directory is what the rewriter asks about brokers.
type directory struct {
	c    *agentConn
	hint bool // of a leader, not an answer to who the brokers are
}

func (d directory) Learn(cluster string, brokers []rewrite.Broker) error {
	now, dropped, err := d.c.agent.nodes.learn(int(d.c.epoch.Load()), cluster, brokers)
	if cluster != "" && err == nil {
		d.c.epoch.Store(int64(now))
	}
	if dropped != "" {
		d.c.agent.dropCluster(dropped, cluster)
	}
	return err
}

func (d directory) Local(b rewrite.Broker) (host string, port int32, ok bool) {
	if d.hint && !d.c.agent.nodes.is(b) {
		return "", 0, false // a client that follows it would be led past the table
	}
	e, ok := d.c.agent.nodes.local(d.c.listen, b.NodeID)
	return e.host, e.port, ok
}

var _ rewrite.Directory = directory{}

// noHandshake says why a client's TLS handshake has failed. Who says nothing at
// all probes whether the port is open.
func (a *Agent) noHandshake(log *slog.Logger, err error) {
	if isGone(err) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		log.Debug("client's TLS handshake not finished", "err", err)
		return
	}
	a.Metrics.Refused(metrics.RefusedTLS)
	hint := clientHint(err, a.Names)
	a.limiter.warn(log, "client's TLS handshake failed", hint, "err", err, "hint", hint)
}
