package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/culvert-proxy/culvert/proxy/status/document"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// Upstream is how an agent reaches brokers: through gateways, or directly. Make one with
// [NewTunnel] or [NewDirect]. Its methods may be called concurrently. The agent closes it.
type Upstream interface {
	// dial opens a stream to a destination. sent is how many bytes of to.first it has sent: all or
	// none. The caller closes c.
	dial(ctx context.Context, to destination) (c net.Conn, sent int, err error)
	// hello checks that the other end answers. It returns the tickets for the nodes that a gateway
	// knows.
	hello(ctx context.Context) (tunnel.Welcome, error)
	// states returns which transport is used to each gateway, by URL.
	states() map[string]tunnel.State
	// tunnels returns the same and more, in the order of the gateways, for the status document.
	tunnels() []document.Tunnel
	// bootstrap returns the addresses of brokers that it dials first; nil if gateways do that.
	bootstrap() []string
	// carriers returns what carries the streams to all gateways.
	carriers() []tunnel.CarrierStats
	// certificateExpires returns when the first of the certificates expires that the gateways, or
	// their ingresses, have shown; the zero time is not known.
	certificateExpires() time.Time
	// onLost has f called when there is no transport any more to a gateway. f must not block.
	onLost(f func())
	// spare sets how many streams to open ahead of dials. A direct upstream ignores it.
	spare(n int)
	// name identifies the upstream in logs and in the state file.
	name() string
	// transport returns the transport of all streams, for metrics, or "" if each stream has its
	// own.
	transport() string
	close() error
}

// destination is where a stream leads.
type destination struct {
	address string // as a broker has named it; "" is a bootstrap broker
	ticket  *tunnel.Ticket
	// onTicket is called with each ticket that arrives, during reads of the stream.
	onTicket func(tunnel.Ticket)
	// onTimes, if set, is called with what the gateway has timed, during reads of the stream.
	onTimes func(tunnel.Times)
	// first are bytes to send as early as possible. They may arrive twice, so they must be a
	// request that changes nothing; or nil.
	first []byte
	probe bool // we ask, and not a client
}

// NewTunnel returns an upstream through one or more gateways, which are tried in order. It owns the
// dialers.
func NewTunnel(gateways ...*tunnel.Dialer) Upstream {
	t := &tunnels{gateways: gateways}
	for _, g := range gateways {
		told := g.OnState
		g.OnState = func(s tunnel.State) {
			if told != nil {
				told(s)
			}
			t.tell(s)
		}
	}
	return t
}

type tunnels struct {
	gateways []*tunnel.Dialer
	lost     atomic.Pointer[func()]
}

// dial tries the gateways in order. If all of them drain, it waits and tries again: behind one
// address there may be several replicas, and a load balancer needs a moment to notice which of them
// drain.
func (t *tunnels) dial(ctx context.Context, to destination) (net.Conn, int, error) {
	for wait := drainingWait; ; wait *= 2 {
		c, err := t.dialOnce(ctx, to)
		if err == nil {
			return c, len(to.first), nil
		}
		if e, ok := errors.AsType[*tunnel.Error](err); !ok || e.Code != tunnel.CodeDraining {
			return nil, 0, err
		}
		select {
		case <-ctx.Done():
			return nil, 0, err
		case <-time.After(wait):
		}
	}
}

// drainingWait is the first wait after all gateways have said that they drain. It doubles each
// time, until the caller's context is done.
const drainingWait = 50 * time.Millisecond

// dialOnce tries each gateway once.
func (t *tunnels) dialOnce(ctx context.Context, to destination) (net.Conn, error) {
	open := tunnel.Open{Target: tunnel.TargetBootstrap}
	if to.address != "" {
		open.Target, open.Ticket = to.address, to.ticket
	}
	if to.probe {
		open.Features = append(open.Features, tunnel.FeatureProbe)
	}
	if to.onTimes != nil {
		open.Features = append(open.Features, tunnel.FeatureTimes)
	}
	var failed failures
	for i, g := range t.gateways {
		share, cancel := part(ctx, len(t.gateways)-i)
		c, err := g.Dial(share, open, to.first)
		cancel()
		if err == nil {
			c.OnTicket(to.onTicket)
			c.OnTimes(to.onTimes)
			return c, nil
		}
		failed = append(failed, err)
	}
	return nil, failed
}

// part returns a context with the time that one of n remaining gateways may take.
func part(ctx context.Context, n int) (context.Context, context.CancelFunc) {
	by, ok := ctx.Deadline()
	if !ok || n == 1 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Until(by)/time.Duration(n))
}

func (t *tunnels) hello(ctx context.Context) (tunnel.Welcome, error) {
	var failed failures
	for i, g := range t.gateways {
		share, cancel := part(ctx, len(t.gateways)-i)
		welcome, err := g.Hello(share)
		cancel()
		if err == nil {
			return welcome, nil
		}
		failed = append(failed, err)
	}
	return tunnel.Welcome{}, failed
}

func (t *tunnels) states() map[string]tunnel.State {
	all := make(map[string]tunnel.State)
	for _, g := range t.gateways {
		all[g.URL.String()] = g.State()
	}
	return all
}

func (t *tunnels) tunnels() (all []document.Tunnel) {
	for _, g := range t.gateways {
		all = append(all, tunnelVia(g))
	}
	return all
}

func (t *tunnels) carriers() (all []tunnel.CarrierStats) {
	for _, g := range t.gateways {
		all = append(all, g.CarrierStats()...)
	}
	return all
}

func (t *tunnels) bootstrap() []string { return nil }

func (t *tunnels) certificateExpires() (first time.Time) {
	for _, g := range t.gateways {
		if at := g.CertificateExpires(); !at.IsZero() && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	return first
}

func (t *tunnels) onLost(f func()) { t.lost.Store(&f) }

// tell calls what onLost has set.
func (t *tunnels) tell(s tunnel.State) {
	if f := t.lost.Load(); f != nil && s.Transport == "" {
		(*f)()
	}
}

// spare opens streams to the first gateway only: the others are used when it fails.
func (t *tunnels) spare(n int) { t.gateways[0].SetSpares(n) }

func (t *tunnels) name() string {
	var urls []string
	for _, g := range t.gateways {
		urls = append(urls, g.URL.String())
	}
	return strings.Join(urls, ",")
}

func (t *tunnels) transport() string { return "" }

func (t *tunnels) close() error {
	var errs []error
	for _, g := range t.gateways {
		errs = append(errs, g.Close())
	}
	return errors.Join(errs...)
}

// NewDirect returns an upstream that dials brokers itself, without a tunnel.
func NewDirect(b *Brokers) Upstream {
	b.direct = true
	return direct{b}
}

type direct struct{ brokers *Brokers }

// dial needs no ticket: this process has read the address in a broker's response itself.
func (d direct) dial(ctx context.Context, to destination) (c net.Conn, sent int, err error) {
	if to.address == "" {
		c, err = d.brokers.dialBootstrap(ctx)
		return c, 0, err
	}
	c, err = d.brokers.dial(ctx, to.address)
	if err != nil {
		return nil, 0, brokerError{err}
	}
	return c, 0, nil
}

func (d direct) spare(int) {}

func (d direct) onLost(func()) {}

func (d direct) tunnels() []document.Tunnel {
	return []document.Tunnel{{Transport: d.transport(), Tried: []document.Tried{}, Carriers: []document.Carrier{}}}
}

func (d direct) bootstrap() []string { return d.brokers.Bootstrap }

func (d direct) carriers() []tunnel.CarrierStats { return nil }

func (d direct) certificateExpires() time.Time { return time.Time{} }

func (d direct) states() map[string]tunnel.State { return nil }

func (d direct) hello(ctx context.Context) (tunnel.Welcome, error) {
	c, err := d.brokers.dialBootstrap(ctx)
	if err != nil {
		return tunnel.Welcome{}, err
	}
	return tunnel.Welcome{}, c.Close()
}

func (d direct) name() string      { return "tcp://" + strings.Join(d.brokers.Bootstrap, ",") }
func (d direct) transport() string { return "direct" }
func (d direct) close() error      { return nil }

// brokerError is the error of a broker that could not be reached directly.
type brokerError struct{ error }

func (e brokerError) Unwrap() error { return e.error }

// dialTimeout bounds the time to open a stream for a client. The client's TCP connection is open
// already, so its connection timeout does not apply; its request timeout is 30 s or more, and it
// should learn the error before.
const dialTimeout = 10 * time.Second

// errNoStream wraps the error of a stream that could not be opened.
func errNoStream(to string, err error) error { return fmt.Errorf("open stream to %s: %w", to, err) }
