package proxy

import (
	"context"
	"errors"
	"net"
	"strconv"
	"time"

	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// Path is what an agent knows when a broker has answered through it for the first time.
type Path struct {
	ClusterID string      // "" if nobody has named it yet: brokers that want a login tell only clients
	Nodes     []LocalNode // by node id; none if nobody has named them yet
	Transport string      // h3, ws or h2; or direct
	// RoundTrip is how long the broker's last answer took, from the agent's request on.
	RoundTrip time.Duration
}

// LocalNode is a node, and where clients of the first bootstrap address reach it.
type LocalNode struct {
	ID      int32
	Address string // host:port
}

// setUpWatch makes the watch of the brokers.
func (a *Agent) setUpWatch() {
	a.watch.ask, a.watch.every, a.watch.early, a.watch.log = a.ask, checkEveryAgent, make(chan struct{}, 1), a.Logger
	if a.ask == nil {
		a.watch.ask = a.probe
	}
	a.watch.clients, a.watch.lost = true, "the gateway answers, the brokers do not"
	if a.Upstream.states() == nil { // there is no gateway
		a.watch.lost = "no broker answers"
	}
	a.Upstream.onLost(a.watch.suspect)
}

// probe asks a broker through the upstream, as a client would. An answer to ApiVersions is enough,
// since brokers give it before a login. Until one has answered, probe also asks which brokers there
// are, and takes those that it is told.
func (a *Agent) probe(ctx context.Context) error {
	if !a.reached.Load() {
		if err := a.hello(ctx); err != nil {
			return a.notReached(err)
		}
	}
	epoch := a.nodes.epoch()
	dial, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	c, _, err := a.Upstream.dial(dial, destination{onTicket: a.nodes.addTicket, probe: true})
	if err != nil {
		return a.notReached(err)
	}
	defer c.Close()
	// A gateway opens the stream at once, and dials then: its reason must arrive before we give up.
	took, err := askVersions(ctx, c, ownClientID, bootstrapTimeout+askTimeout)
	if err != nil {
		if errors.Is(err, tunnel.ErrCut) {
			return a.notReached(err)
		}
		if e, ok := errors.AsType[*tunnel.Error](err); ok {
			if s, ok := c.(*tunnel.Conn); ok && e.Code == tunnel.CodeDial {
				a.Upstream.doubt(s)
			}
			return e // the gateway's own words
		}
		return explainAnswer(err, a.Names)
	}
	if ever, _ := a.watch.state(); !ever {
		took = a.introduce(ctx, c, epoch, took)
		if a.Answered != nil {
			a.Answered(a.path(c, took))
		}
	}
	closeWrite(c)
	return nil
}

// introduce asks which brokers there are, on a connection on which the broker has answered already.
// That it does not answer this is no error: most likely it wants a login first. introduce returns
// how long the answer took, or took if there was none.
func (a *Agent) introduce(ctx context.Context, c net.Conn, epoch int, took time.Duration) time.Duration {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	asked := time.Now()
	cluster, brokers, err := askForBrokers(ctx, c, brokersRequest(ownClientID))
	if err == nil {
		took = time.Since(asked)
		err = a.finder.learn(epoch, cluster, brokers)
	}
	if errors.Is(err, ErrUnanswered) {
		a.finder.needsCredentials()
	}
	if err != nil {
		a.Logger.Debug("brokers are known only after a client asks for them", "err", err)
	}
	return took
}

// path returns what is known about the path to brokers that c took.
func (a *Agent) path(c net.Conn, took time.Duration) Path {
	p := Path{Transport: a.Upstream.transport(), RoundTrip: took}
	if t, ok := c.(*tunnel.Conn); ok {
		p.Transport = t.Transport()
	}
	cluster, nodes := a.nodes.snapshot()
	p.ClusterID = cluster
	for _, n := range nodes {
		if e, ok := a.nodes.local(0, n.NodeID); ok {
			p.Nodes = append(p.Nodes, LocalNode{n.NodeID, net.JoinHostPort(e.host, strconv.Itoa(int(e.port)))})
		}
	}
	return p
}

// notReached is the error of an upstream that gave no stream. Without a tunnel that is a broker's
// fault. A tunnel logs by itself that it reaches no gateway.
func (a *Agent) notReached(err error) error {
	states := a.Upstream.states()
	if states == nil {
		return err
	}
	inUse := false
	for _, s := range states {
		inUse = inUse || s.Transport != ""
	}
	return upstreamError{err, !inUse}
}
