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
	// dial opens a stream to a bootstrap broker (address "") or to the address
	// that a broker has named, with the ticket for it, if any. onTicket is
	// given tickets that come, from within reads of the stream.
	dial(ctx context.Context, address string, t *tunnel.Ticket, onTicket func(tunnel.Ticket)) (net.Conn, error)
	// hello finds out whether the other end is there and gives the tickets that
	// it remembers.
	hello(ctx context.Context, onTicket func(tunnel.Ticket)) (tunnel.Opened, error)
	// name says what it leads to, in logs and in the state file.
	name() string
	transport() string // of streams, in metrics; "" where each stream says it
	close() error
}

// NewTunnel returns an upstream through one or more gateways, which are tried
// in order. Its agent closes the dialers.
func NewTunnel(gateways ...*tunnel.Dialer) Upstream { return &tunnels{gateways} }

type tunnels struct{ gateways []*tunnel.Dialer }

func (t *tunnels) dial(ctx context.Context, address string, tk *tunnel.Ticket, onTicket func(tunnel.Ticket)) (net.Conn, error) {
	open := tunnel.Open{Target: tunnel.TargetBootstrap}
	if address != "" {
		open.Target, open.Ticket = address, tk
	}
	var failed failures
	for _, g := range t.gateways {
		c, err := g.Dial(ctx, open)
		if err == nil {
			c.OnTicket(onTicket)
			return c, nil
		}
		failed = append(failed, err)
	}
	return nil, failed
}

func (t *tunnels) hello(ctx context.Context, onTicket func(tunnel.Ticket)) (tunnel.Opened, error) {
	var failed failures
	for _, g := range t.gateways {
		opened, err := g.Hello(ctx, onTicket)
		if err == nil {
			return opened, nil
		}
		failed = append(failed, err)
	}
	return tunnel.Opened{}, failed
}

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
func (d direct) dial(ctx context.Context, address string, _ *tunnel.Ticket, _ func(tunnel.Ticket)) (net.Conn, error) {
	if address == "" {
		return d.brokers.dialBootstrap(ctx)
	}
	c, err := d.brokers.dial(ctx, address)
	if err != nil {
		return nil, brokerError{err}
	}
	return c, nil
}

// brokerError is why a broker could not be reached, where the way to it is open.
type brokerError struct{ error }

func (e brokerError) Unwrap() error { return e.error }

func (d direct) hello(ctx context.Context, _ func(tunnel.Ticket)) (tunnel.Opened, error) {
	c, err := d.brokers.dialBootstrap(ctx)
	if err != nil {
		return tunnel.Opened{}, err
	}
	return tunnel.Opened{}, c.Close()
}

func (d direct) name() string      { return "tcp://" + strings.Join(d.brokers.Bootstrap, ",") }
func (d direct) transport() string { return "direct" }
func (d direct) close() error      { return nil }

// dialTimeout bounds how long a client, which believes to be connected already,
// waits for a stream.
const dialTimeout = 10 * time.Second

// errNoStream wraps why no stream could be opened.
func errNoStream(to string, err error) error { return fmt.Errorf("open stream to %s: %w", to, err) }
