// Package dialer connects a Kafka client in this process to brokers behind a culvert gateway. It
// takes the place of an agent for clients that accept a function or a type that dials, as franz-go,
// sarama and segmentio/kafka-go do:
//
//	d, err := dialer.New(dialer.Config{GatewayURLs: []string{"https://kafka.example.com"}, TokenFile: "token"})
//	…
//	defer d.Close()
//	client, err := kgo.NewClient(kgo.SeedBrokers(dialer.Bootstrap), kgo.Dialer(d.DialContext))
//
// Nothing listens, and no response is rewritten: the client dials the addresses that the brokers
// advertise, and the gateway dials them at the other end. Which addresses it dials is decided as for
// an agent: those of bootstrap brokers, those that brokers have named, and those that a setting of
// the gateway allows.
//
// This package is the only one of its module that keeps to semantic versioning: what is exported
// here stays compatible until the next major version. All other packages may change in any release.
package dialer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/culvert-proxy/culvert/proxy"
)

// Bootstrap is an address that stands for the gateway's bootstrap brokers, whichever of them
// answers. Give it to a client as its only seed. The name resolves nowhere; only a [Dialer] knows
// it.
const Bootstrap = "bootstrap.culvert.invalid:9092"

// A Dialer opens connections to brokers through a gateway. Make one with [New] and keep it as long as
// its clients; several clients of the same cluster may share it. Its methods may be called
// concurrently.
type Dialer struct {
	streams *proxy.Streams
	release func() error // ends what the configuration has started

	mu      sync.Mutex
	closed  bool
	closing sync.WaitGroup // connections that are being closed in good order
}

// New returns a Dialer, or what is wrong with a setting. It reads the files that the configuration
// names, and does not wait for a gateway to answer. The caller calls Close.
func New(c Config) (*Dialer, error) {
	parts, err := c.parts()
	if err != nil {
		return nil, fmt.Errorf("culvert dialer: %w", explained(err))
	}
	return &Dialer{streams: proxy.NewStreams(parts.dialers...), release: parts.close}, nil
}

// DialContext opens a connection to a broker, by the address that the broker advertises, or to a
// bootstrap broker by [Bootstrap]. network must be tcp, tcp4 or tcp6; which of them is used is up to
// the gateway, which also resolves the name.
//
// It returns when a gateway has answered, and within ten seconds in any case. The gateway dials the
// broker after that: if it may not, or cannot, the first Read returns an [Error] that says why. ctx
// bounds the call and not the connection.
//
// The connection is a TCP connection to its user. It has deadlines, and the method CloseWrite of
// *[net.TCPConn]. Close does not block, and the broker still receives what was written before it. If
// the tunnel breaks, the connection ends with an error that is a [syscall.ECONNRESET], and never with
// [io.EOF]: bytes may be missing then.
func (d *Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	remote, target := addr{address}, address
	switch network {
	case "tcp", "tcp4", "tcp6":
	default:
		return nil, dialError(network, remote, net.UnknownNetworkError(network))
	}
	if address == Bootstrap {
		target = ""
	} else if err := proxy.CheckAddress(address); err != nil {
		return nil, dialError(network, remote, &net.AddrError{Err: err.Error(), Addr: address})
	}
	stream, err := d.streams.Dial(ctx, target)
	return d.dialled(ctx, network, remote, stream, err)
}

// DialForward opens a connection to what the gateway calls name and offers beside Kafka: a schema
// registry, for example. It is otherwise as DialContext. If no gateway offers it, the error is
// [ErrNotAllowed] and says which names there are.
func (d *Dialer) DialForward(ctx context.Context, name string) (net.Conn, error) {
	if err := proxy.CheckForwards([]proxy.Forward{{Name: name}}); err != nil {
		return nil, dialError("tcp", addr{name}, &net.AddrError{Err: err.Error(), Addr: name})
	}
	stream, err := d.streams.DialForward(ctx, name)
	return d.dialled(ctx, "tcp", addr{name}, stream, err)
}

// dialled returns the connection over a stream, or the error of its dial.
func (d *Dialer) dialled(ctx context.Context, network string, remote addr, stream *proxy.Stream, err error) (net.Conn, error) {
	switch {
	case err == nil:
		return &conn{stream: stream, dialer: d, remote: remote}, nil
	case errors.Is(err, net.ErrClosed):
		err = errClosed
	case ctx.Err() != nil && errors.Is(context.Cause(ctx), context.Canceled):
		err = context.Canceled
	default:
		err = newError(err)
	}
	return nil, dialError(network, remote, err)
}

func dialError(network string, remote addr, err error) error {
	return &net.OpError{Op: "dial", Net: network, Addr: remote, Err: err}
}

// Dial is DialContext without a context. Clients that were written before there were contexts, as
// sarama was, call it.
func (d *Dialer) Dial(network, address string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, address) // the caller has none; DialContext bounds its time
}

// errClosed is what DialContext returns after Close.
var errClosed = fmt.Errorf("the dialer is closed: %w", net.ErrClosed)

// Close ends the Dialer. Connections that are open break; those that were closed before have some
// seconds to deliver what was written. Close the clients first.
func (d *Dialer) Close() error {
	d.mu.Lock()
	again := d.closed
	d.closed = true
	d.mu.Unlock()
	if again {
		return net.ErrClosed
	}
	d.closing.Wait()
	return errors.Join(d.streams.Close(), d.release())
}

// finish runs f, which closes a connection in good order, in the background. It returns false after
// Close.
func (d *Dialer) finish(f func()) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return false
	}
	d.closing.Go(f)
	return true
}
