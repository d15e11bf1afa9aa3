package proxy

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/culvert-proxy/culvert/protocol"
	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/metrics"
	"github.com/culvert-proxy/culvert/proxy/printable"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
	"github.com/culvert-proxy/culvert/rewrite"
)

// agentConn is a client's connection at the agent, and its [policy]: it refuses requests whose
// responses it cannot rewrite, and rewrites addresses in the others. serve owns it, and the
// goroutines of its conn.
type agentConn struct {
	*conn
	agent  *Agent
	listen int   // index of the agent's bootstrap address that the client's listener belongs to
	nodeID int32 // of the listener, or of the name that the client asked for; bootstrapNode for a bootstrap address
	// bootstrapOnly is set if the node is unknown and a bootstrap broker takes its place. Then only
	// requests are relayed that anyBrokerAnswers.
	bootstrapOnly bool
	address       atomic.Pointer[string]      // where the node is dialled; nil: a bootstrap broker is
	epoch         atomic.Int64                // of the node table when the stream was opened; -1 before
	stream        atomic.Pointer[tunnel.Conn] // nil before it is opened, or without a tunnel
	looked        uint32                      // requests.frames when the mover looked last, which owns this
	stop          context.CancelCauseFunc     // ends what serve is waiting for

	names rewrite.Rewriter // of responses that say which brokers there are
	hints rewrite.Rewriter // of responses that only hint at a leader
}

// serveNode returns what serves the clients of a listener. It is nil for [placeholderNode], which
// serves nobody.
func (a *Agent) serveNode(listen int, nodeID int32) serveFunc {
	if nodeID == placeholderNode {
		return nil
	}
	return func(ctx context.Context, nc net.Conn) { a.serve(ctx, nc, listen, nodeID) }
}

// serve relays one client's connection and returns when it has ended. It closes nc.
func (a *Agent) serve(ctx context.Context, nc net.Conn, listen int, nodeID int32) {
	defer nc.Close()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var c *agentConn
	onOwnStack(func() { c = a.newConn(ctx, nc, listen, nodeID, stop) })
	if c == nil {
		return
	}
	a.clients.add(c)
	defer a.clients.remove(c)
	defer c.requests.release()
	if err := c.requests.readFirst(); err != nil {
		c.refuseFirst(err)
		return
	}
	if !c.opened(ctx) {
		return
	}
	defer a.Metrics.Connection(c.nodeID)()
	defer a.Metrics.Stream(c.transport())()
	c.run(ctx)
	c.noteStaleNode()
	if e, ok := errors.AsType[*tunnel.Error](c.ending.why().err); ok && e.Code == tunnel.CodeDial {
		a.Upstream.doubt(c.stream.Load())
	}
}

// newConn returns the connection of a client, once it has done its TLS handshake, which may say that
// it wants another node than that of the listener. It returns nil if that fails.
func (a *Agent) newConn(ctx context.Context, nc net.Conn, listen int, nodeID int32, stop context.CancelCauseFunc) *agentConn {
	log := a.Logger.With("client_addr", nc.RemoteAddr(), "listener", nc.LocalAddr())
	if a.ListenTLS != nil {
		if nc, nodeID = a.handshake(ctx, nc, nodeID, log); nc == nil {
			return nil
		}
	}
	log = log.With("node_id", nodeID)
	c := &agentConn{agent: a, listen: listen, nodeID: nodeID, stop: stop}
	c.epoch.Store(-1)
	c.conn = newConn(nc, connSettings{
		policy: c, settingNames: a.Names, headTimeout: a.headTimeout, without: a.without,
		report: reporter{a.Metrics, log, &a.limiter, &a.watch, strconv.Itoa(int(nodeID)), agentBroker(nodeID)},
	})
	c.names.Directory, c.names.RelayUnknown = directory{c, false}, a.RelayUnknownAPIs
	c.hints.Directory = directory{c, true}
	return c
}

// opened opens the stream, and reports whether that worked. If not, it ends the client's side.
func (c *agentConn) opened(ctx context.Context) bool {
	var err error
	onOwnStack(func() { err = c.open(ctx) })
	if err == nil {
		return true
	}
	c.ending.note(metrics.CloseDial, err)
	c.noteStaleNode()
	c.report.closed(c.ending.why(), c.settingNames)
	c.ending.near.reset(nil)
	return false
}

// agentBroker names the broker behind a listener, for the log.
func agentBroker(node int32) string {
	if node == bootstrapNode {
		return "a bootstrap broker"
	}
	return fmt.Sprintf("broker %d", node)
}

// handshake speaks TLS with a client of the listener of a node, and returns the node that the
// client wants. It reports why if that fails; c is nil then.
func (a *Agent) handshake(ctx context.Context, nc net.Conn, node int32, log *slog.Logger) (c net.Conn, _ int32) {
	ctx, cancel := context.WithTimeout(ctx, tlsHandshakeTimeout)
	defer cancel()
	config, asked := a.ListenTLS, serverName{node: node}
	if a.serverNames != nil {
		config, ctx = a.serverNames.tls, context.WithValue(ctx, serverNameKey{}, &asked)
	}
	secure := tls.Server(nc, config)
	err := secure.HandshakeContext(ctx)
	switch {
	case err == nil:
		return secure, asked.node
	case asked.refusal != nil:
		a.nameRefused(log, asked)
	default:
		a.handshakeFailed(log.With("node_id", asked.node), err)
	}
	return nil, 0
}

// nameRefused reports a client that wanted a name which leads nowhere.
func (a *Agent) nameRefused(log *slog.Logger, asked serverName) {
	a.Metrics.Refused(metrics.RefusedServerName)
	about := "unknown for now"
	switch {
	case asked.name == "":
		about = "none"
	case asked.refusal.alert:
		about = "unknown"
	}
	a.limiter.warn(log, "client's TLS handshake refused: its server name leads to no broker", about,
		"server_name", printable.Text(asked.name, printable.Name), "hint", asked.refusal.hint, "err", asked.refusal)
}

// handshakeFailed reports why a client's TLS handshake failed. A client that ends it without a TLS
// alert is most likely a probe that checks whether the port is open, so that is logged at debug
// level only.
func (a *Agent) handshakeFailed(log *slog.Logger, err error) {
	if connClosed(err) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		log.Debug("client did not finish its TLS handshake", "err", err)
		return
	}
	a.Metrics.Refused(metrics.RefusedTLS)
	hint := clientHint(err, a.Names)
	a.limiter.warn(log, "client's TLS handshake failed", hint, "hint", hint, "err", err)
}

// refuseFirst reports why a connection ends whose first bytes are not a Kafka request. A client
// that speaks HTTP gets an answer that a person can read.
func (c *agentConn) refuseFirst(err error) {
	var refused *refusal
	if !errors.As(err, &refused) {
		return // a probe that sends nothing, or a client that disconnected
	}
	c.report.metrics.Refused(refused.reason)
	c.report.metrics.Closed(metrics.CloseRefused)
	var more []any
	if hint := firstBytesHint(err, c.settingNames); hint != "" {
		more = []any{"hint", hint}
	}
	c.report.refused(refused, more...)
	if errors.Is(err, protocol.HTTPRequest) {
		const answer = "culvert: this port speaks Kafka, not HTTP\n"
		fmt.Fprintf(c.near, "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(answer), answer)
	}
}

// transport returns the name of the stream's transport, for metrics.
func (c *agentConn) transport() string {
	if t, ok := c.far.Conn.(*tunnel.Conn); ok {
		return t.Transport()
	}
	return c.agent.Upstream.transport()
}

// open opens the stream to the listener's node or to a bootstrap broker. A first request that is
// repeatable goes with it, which saves a round trip. Everything else waits for the gateway's
// answer.
func (c *agentConn) open(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	to := destination{onTicket: c.agent.nodes.addTicket, onTimes: c.agent.gatewayTimed, first: c.requests.repeatable()}
	c.epoch.Store(int64(c.agent.nodes.epoch())) // before the lookup: if the table changes in between, dropCluster resets this connection
	if c.nodeID != bootstrapNode {
		found, err := c.findNode(ctx)
		if err != nil {
			c.bootstrapOnly = true
			c.report.log.Info("node unknown, a bootstrap broker answers login and metadata requests in its place", "err", err)
		} else {
			to.address, to.ticket = found.address, found.ticket
		}
	}
	far, sent, err := c.agent.Upstream.dial(ctx, to)
	if err != nil {
		return errNoStream(cmp.Or(to.address, "a bootstrap broker"), err)
	}
	c.connect(far)
	if s, ok := far.(*tunnel.Conn); ok {
		c.stream.Store(s)
	}
	c.requests.sentAhead(sent)
	return nil
}

// findNode returns how to reach the listener's node, and records the address for resetMoved. If the
// node moves between the two, resetMoved may miss this connection, so the address is compared with
// the table once more.
func (c *agentConn) findNode(ctx context.Context) (route, error) {
	for {
		found, err := c.agent.finder.find(ctx, c.nodeID)
		if err != nil {
			c.address.Store(nil)
			return route{}, err
		}
		c.address.Store(&found.address)
		if c.agent.nodes.isAt(c.nodeID, found.address) {
			return found, nil
		}
	}
}

// noteStaleNode marks the node as stale if the upstream worked but the node's address did not.
// Either the gateway refused the address, because the ticket has expired or came from another
// gateway, or the broker was not reached and may have moved. The next client's connection then asks
// the cluster for the address first.
func (c *agentConn) noteStaleNode() {
	end, address := c.ending.why(), c.address.Load()
	if address == nil {
		return
	}
	if _, ok := errors.AsType[brokerError](end.err); ok {
		c.agent.nodes.markStale(c.nodeID, *address, false)
	}
	if e, ok := errors.AsType[*tunnel.Error](end.err); ok {
		switch e.Code {
		case tunnel.CodeTicket, tunnel.CodeTarget:
			c.agent.nodes.markStale(c.nodeID, *address, true)
		case tunnel.CodeDial:
			c.agent.nodes.markStale(c.nodeID, *address, false)
		}
	}
}

// kill resets the connection, and stops what serve is waiting for. Any goroutine may call it.
func (c *agentConn) kill(cause metrics.Close, why error) {
	c.ending.note(cause, why)
	c.stop(why)
	c.ending.near.reset(nil)
}

// move ends the connection between two requests, so that the client's next one leads to another
// gateway. It does not block.
func (c *agentConn) move() {
	c.ending.note(metrics.CloseSpread, nil)
	c.drain()
}

// screen refuses a request whose response could contain addresses that we cannot rewrite, because
// its API or version has not been reviewed. It also refuses a request that must not reach a
// bootstrap broker in place of another node.
func (c *agentConn) screen(r protocol.Request) (answer []byte, err error) {
	caps := c.agent.caps.Load()
	switch {
	case !r.Key.Known():
		if c.agent.RelayUnknownAPIs {
			return nil, nil
		}
		return nil, refuse(metrics.RefusedUnknownKey, "request with API key %d, unknown to this version of culvert: the response could contain broker addresses; %s relays it anyway", int16(r.Key), c.settingNames.Of(hints.RelayUnknownAPIs))
	case r.Key == protocol.APIVersions && r.Version > caps[r.Key]:
		return rewrite.UnsupportedAPIVersions(r.CorrelationID, caps[r.Key]), nil
	case !caps.Allow(r.Key, r.Version):
		return nil, refuse(metrics.RefusedUnsupportedVersion, "request %s v%d: this agent and its gateway support versions up to %d, and the response could contain broker addresses; does the client send ApiVersions first?", r.Key, r.Version, caps[r.Key])
	case c.bootstrapOnly && !anyBrokerAnswers(r.Key):
		return nil, refuse(metrics.RefusedIntroduction, "request %s on a connection to node %d, which is not known yet: the client must fetch metadata first", r.Key, c.nodeID)
	}
	return nil, nil
}

// timed does nothing: the agent's own metrics have it.
func (c *agentConn) timed(protocol.APIKey, time.Duration) {}

// lenient is false: bytes that an agent does not decode could contain an address.
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
		if !c.bootstrapOnly { // which says nothing about the node
			c.report.reached()
		}
		c.noteOpened()
		c.names.Caps = c.agent.caps.Load()
	}
	return c.names.Relay(f, r.Key, r.Version, size)
}

// noteOpened records what the gateway said when it opened the stream. That has arrived ahead of any
// response, so it does not block.
func (c *agentConn) noteOpened() {
	t, ok := c.far.Conn.(*tunnel.Conn)
	if !ok {
		return
	}
	if o, err := t.Opened(context.Background()); err == nil { // it has arrived, so there is no wait for a context to end
		c.agent.answered(o)
	}
}

// fromElsewhere reports whether the client seems to be on another machine, or in a container.
func (c *agentConn) fromElsewhere() bool {
	remote, ok := c.near.RemoteAddr().(*net.TCPAddr)
	local, _ := c.near.LocalAddr().(*net.TCPAddr)
	return ok && !remote.IP.IsLoopback() && !remote.IP.Equal(local.IP)
}

// toldLoopback warns that a client from elsewhere is told an address that means itself there. If
// the agent's ports are published to the client's machine, as Docker does, that is right.
func (c *agentConn) toldLoopback(host string) {
	c.report.limiter.once(c.report.log, "client from another address is told a loopback address", host,
		"hint", c.settingNames.Sprintf("if the client runs on another machine or in a container, name a host that it can reach: %s ADDRESS=HOST", hints.Listen),
		"err", fmt.Sprintf("client %s is told that brokers are at %s, which for that client is its own machine", c.near.RemoteAddr(), host))
}

// directory tells the rewriter which addresses to write. It is the node table, as seen from one
// connection.
type directory struct {
	c    *agentConn
	hint bool // for leader hints: only brokers that the table knows
}

// Learn puts the brokers of a response into the node table. See [nodes.learn] for errors.
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

// Local returns the address that stands for a broker in responses to this client.
func (d directory) Local(b rewrite.Broker) (host string, port int32, ok bool) {
	if d.hint && !d.c.agent.nodes.isAt(b.NodeID, addressOf(b)) {
		return "", 0, false // the listener of this node leads to the address in the table, not to this one
	}
	e, ok := d.c.agent.nodes.local(d.c.listen, b.NodeID)
	if ok && isLoopback(e.host) && d.c.fromElsewhere() {
		d.c.toldLoopback(e.host)
	}
	return e.host, e.port, ok
}

var _ rewrite.Directory = directory{}
