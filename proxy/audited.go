package proxy

import (
	"errors"
	"time"

	"github.com/culvert-proxy/culvert/proxy/audit"
	"github.com/culvert-proxy/culvert/proxy/metrics"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// causeRevoked is the cause of streams that end because their credentials are no longer accepted.
// The others are those of [metrics.Close], and the codes of [tunnel.Error] for what was refused.
const causeRevoked = "revoked"

// auditPeer is what the audit log says of an agent.
func auditPeer(p *tunnel.Peer) audit.Peer {
	return audit.Peer{Identity: p.Identity, User: p.User, ClientAddr: p.Addr, ProxyAddr: p.Proxy, ForwardedFor: p.Forwarded, Transport: p.Transport}
}

// auditBroker is what it says of the target of a stream to a broker.
func auditBroker(target string, node int32) audit.Target {
	t := audit.Target{Kind: audit.Broker, Target: target}
	if node != metrics.Bootstrap && node != metrics.UnknownNode {
		t.NodeID = &node
	}
	return t
}

// auditForward is what it says of a forward.
func auditForward(name string) audit.Target { return audit.Target{Kind: audit.Forward, Target: name} }

// auditEnded writes the line of a stream that has ended. err may be nil.
func (g *Gateway) auditEnded(t *tunnel.Conn, p *tunnel.Peer, to audit.Target, opened time.Time, cause string, err error) {
	fromClient, toClient := t.Moved()
	r := audit.Record{
		Event: audit.StreamEnded, Peer: auditPeer(p), Target: to, Cause: cause,
		Passage: &audit.Passage{Opened: opened, Duration: audit.Seconds(time.Since(opened)), FromClient: fromClient, ToClient: toClient},
	}
	if err != nil && !errors.Is(err, errDraining) {
		r.Error = err.Error()
	}
	g.Audit.Add(r)
}

// auditRefused writes the line of a stream that was not opened.
func (g *Gateway) auditRefused(p *tunnel.Peer, to audit.Target, why *tunnel.Error) {
	g.Audit.Add(audit.Record{Event: audit.StreamRefused, Peer: auditPeer(p), Target: to, Cause: string(why.Code), Error: why.Message})
}

// auditRelayed writes the line of a relayed connection to a broker.
func (g *Gateway) auditRelayed(c *conn, node int32, p *tunnel.Peer, opened time.Time) {
	if g.Audit == nil {
		return
	}
	to, end := auditBroker(c.report.node, node), c.ending.why()
	to.Address = c.far.RemoteAddr().String()
	cause := end.cause.String()
	if end.cause == metrics.CloseDrain && g.relays.isRevoked(c) {
		cause = causeRevoked
	}
	g.auditEnded(c.near.Conn.(*tunnel.Conn), p, to, opened, cause, end.err)
}

// auditForwarded writes the line of a relayed connection of a forward.
func (g *Gateway) auditForwarded(c *forwardConn, name string, p *tunnel.Peer, end forwardEnd) {
	if g.Audit == nil {
		return
	}
	to := auditForward(name)
	to.Address = c.far.conn.RemoteAddr().String()
	cause := end.cause.OfForward()
	if end.cause == metrics.CloseDrain && g.relays.isRevoked(c) {
		cause = causeRevoked
	}
	g.auditEnded(c.near.conn.Conn.(*tunnel.Conn), p, to, c.began, cause, end.err)
}

// auditLogin writes the line of a request without valid credentials.
func (g *Gateway) auditLogin(p tunnel.Peer, why error) {
	g.Audit.Add(audit.Record{Event: audit.LoginRefused, Peer: auditPeer(&p), Cause: "credentials", Error: why.Error()})
}

// auditHeader writes the line of a connection that began with a PROXY header, or without one.
func (g *Gateway) auditHeader(p tunnel.Peer, why error) {
	g.Audit.Add(audit.Record{Event: audit.ConnectionRefused, Peer: auditPeer(&p), Cause: metrics.RefusedProxyHeader.String(), Error: why.Error()})
}

// auditLimited writes the line of what was refused because of a limit. Spares are no streams yet: an
// agent holds them ready, and opens streams without them.
func (g *Gateway) auditLimited(p tunnel.Peer, l tunnel.Limit, why *tunnel.Error) {
	events := map[tunnel.Limit]audit.Event{
		tunnel.LimitStreams: audit.StreamRefused, tunnel.LimitStreamsPerIdentity: audit.StreamRefused, tunnel.LimitMemory: audit.StreamRefused,
		tunnel.LimitUnauthenticated: audit.ConnectionRefused,
	}
	if event, audited := events[l]; audited {
		g.Audit.Add(audit.Record{Event: event, Peer: auditPeer(&p), Cause: string(tunnel.CodeLimit), Error: why.Message})
	}
}
