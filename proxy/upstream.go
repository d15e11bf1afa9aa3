package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// Upstream is how an agent reaches brokers: through gateways, or itself. Make
// one with [NewTunnel] or [NewDirect].
type Upstream interface {
	// dial opens a stream to where it says. It may send the first bytes ahead,
	// and says how many of them it has.
	dial(ctx context.Context, to destination) (c net.Conn, sent int, err error)
	// hello finds out whether the other end is there and gives the tickets that
	// it remembers.
	hello(ctx context.Context) (tunnel.Welcome, error)
	// states says what is known of each way.
	states() map[string]tunnel.State
	// spare has as many streams ready before they are asked for, where that
	// saves time.
	spare(n int)
	// name says what it leads to, in logs and in the state file.
	name() string
	transport() string // of streams, in metrics; "" where each stream says it
	close() error
}

// Open opens one stream as an agent does, for those who look into what is wrong:
// to an address that a broker has named, with the ticket for it, or to a bootstrap
// broker if address is empty. onTicket is given the tickets that come with what
// is read, and may be nil. The caller closes the stream.
func Open(ctx context.Context, up Upstream, address string, ticket *tunnel.Ticket, onTicket func(tunnel.Ticket)) (net.Conn, error) {
	if onTicket == nil {
		onTicket = func(tunnel.Ticket) {}
	}
	c, _, err := up.dial(ctx, destination{address: address, ticket: ticket, onTicket: onTicket})
	return c, err
}

// destination is where a stream leads.
type destination struct {
	address string // that a broker has named; "" is a bootstrap broker
	ticket  *tunnel.Ticket
	// onTicket is given tickets that come, from within reads of the stream.
	onTicket func(tunnel.Ticket)
	// first are bytes for the other end to have as soon as can be. They may
	// arrive twice, so they must be a request that changes nothing.
	first []byte
}

// NewTunnel returns an upstream through one or more gateways, which are tried
// in order. Its agent closes the dialers.
func NewTunnel(gateways ...*tunnel.Dialer) Upstream { return &tunnels{gateways} }

type tunnels struct{ gateways []*tunnel.Dialer }

// dial goes elsewhere while gateways drain, and comes back to the first one
// when all do: behind the address of one there may be others, and a balancer
// needs a moment to see which of them go.
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

// drainingWait is for how long at first a gateway is left alone that drains.
const drainingWait = 50 * time.Millisecond

func (t *tunnels) dialOnce(ctx context.Context, to destination) (net.Conn, error) {
	open := tunnel.Open{Target: tunnel.TargetBootstrap}
	if to.address != "" {
		open.Target, open.Ticket = to.address, to.ticket
	}
	var failed failures
	for i, g := range t.gateways {
		share, cancel := part(ctx, len(t.gateways)-i)
		c, err := g.Dial(share, open, to.first)
		cancel()
		if err == nil {
			c.OnTicket(to.onTicket)
			return c, nil
		}
		failed = append(failed, err)
	}
	return nil, failed
}

// part is the time that one of n gateways may take, which all have to share.
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

// states are by URL.
func (t *tunnels) states() map[string]tunnel.State {
	all := make(map[string]tunnel.State)
	for _, g := range t.gateways {
		all[g.URL.String()] = g.State()
	}
	return all
}

// spare has spares to the first gateway: the others are for when it fails.
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
func NewDirect(b *Brokers) Upstream { return direct{b} }

type direct struct{ brokers *Brokers }

// dial needs no ticket: the address comes from a broker's response that this
// process has read itself.
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

func (d direct) states() map[string]tunnel.State { return nil }

// brokerError is why a broker could not be reached, where the way to it is open.
type brokerError struct{ error }

func (e brokerError) Unwrap() error { return e.error }

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

// dialTimeout bounds how long a client, which believes to be connected already,
// waits for a stream.
const dialTimeout = 10 * time.Second

// errNoStream wraps why no stream could be opened.
func errNoStream(to string, err error) error { return fmt.Errorf("open stream to %s: %w", to, err) }
