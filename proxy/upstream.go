package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
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
	// streams returns how many streams lead to each gateway, by its host and port; nil if there is no
	// tunnel.
	streams() map[string]int
	// certificateExpires returns when the first of the certificates expires that the gateways, or
	// their ingresses, have shown; the zero time is not known.
	certificateExpires() time.Time
	// onLost has f called when there is no transport any more to a gateway. f must not block.
	onLost(f func())
	// doubt is told that the other end of a stream did not reach the broker.
	doubt(stream *tunnel.Conn)
	// run does what is due in the background, until ctx is done. each calls a function for every
	// connection of a client.
	run(ctx context.Context, each func(func(*agentConn)))
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
	forward string // the name of a forward, in place of a broker; ""
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

// NewDirect returns an upstream that dials brokers itself, without a tunnel.
func NewDirect(b *Brokers) Upstream {
	b.direct = true
	return direct{b}
}

type direct struct{ brokers *Brokers }

// dial needs no ticket: this process has read the address in a broker's response itself.
func (d direct) dial(ctx context.Context, to destination) (c net.Conn, sent int, err error) {
	if to.forward != "" {
		return nil, 0, errors.New("a forward needs a gateway") // the command line refuses it
	}
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

func (d direct) doubt(*tunnel.Conn) {}

func (d direct) run(context.Context, func(func(*agentConn))) {}

func (d direct) onLost(func()) {}

func (d direct) tunnels() []document.Tunnel {
	return []document.Tunnel{{Transport: d.transport(), Tried: []document.Tried{}, Carriers: []document.Carrier{}}}
}

func (d direct) bootstrap() []string { return d.brokers.Bootstrap }

func (d direct) carriers() []tunnel.CarrierStats { return nil }

func (d direct) streams() map[string]int { return nil }

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
