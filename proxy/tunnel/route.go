package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/internal/happyeyeballs"
	"github.com/culvert-proxy/culvert/proxy/remedies"
)

// A route leads to the gateway: its address, and the proxy on the way.
type route struct {
	url         *url.URL
	tls         *tls.Config                                                       // for TLS to the gateway
	dialContext func(ctx context.Context, network, addr string) (net.Conn, error) // given names; nil means a net.Dialer
	lookup      func(ctx context.Context, host string) ([]netip.Addr, error)
	history     happyeyeballs.History // of the addresses of the gateway and its proxy
	log         *slog.Logger

	proxy    *url.URL    // nil means none
	proxyErr error       // why the proxy cannot be used
	proxyTLS *tls.Config // for TLS to the proxy, in tests; nil means the system's roots
	sessions sessions
	tcp      tuner
	links    linkCounts
	front    front
}

// newRoute returns the route to u without a proxy. base is the TLS configuration; nil means the
// system's roots.
func newRoute(u *url.URL, base *tls.Config, log *slog.Logger) *route {
	r := &route{url: u, tls: &tls.Config{}, lookup: lookup, history: happyeyeballs.History{Log: log}, log: log}
	if base != nil {
		r.tls = base.Clone()
	}
	if r.tls.ServerName == "" {
		r.tls.ServerName = u.Hostname()
	}
	r.tls.DynamicRecordSizingDisabled = true
	return r
}

// config returns the TLS configuration of one handshake with the gateway, for an ALPN protocol.
func (r *route) config(alpn string) *tls.Config {
	c := r.tls.Clone()
	c.NextProtos = []string{alpn}
	c.ClientSessionCache = r.sessions.current(r.tls)
	return c
}

// addr returns host and port of the gateway.
func (r *route) addr() string {
	port := r.url.Port()
	switch {
	case port != "":
	case r.url.Scheme == "http":
		port = "80"
	default:
		port = "443"
	}
	return net.JoinHostPort(r.url.Hostname(), port)
}

// target returns the URL of the tunnel.
func (r *route) target() *url.URL {
	u := *r.url
	u.Path = strings.TrimSuffix(u.Path, "/") + Path
	u.RawPath, u.RawQuery, u.Fragment, u.User = "", "", "", nil
	return &u
}

// proxied reports whether TCP to the gateway goes through a proxy. Networks that require a proxy
// usually let no UDP through.
func (r *route) proxied() bool { return r.proxy != nil || r.proxyErr != nil }

// lookup asks the system's resolver.
func lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

// dialHost connects to one of the addresses that the name in addr has, see [happyeyeballs.Dial].
func dialHost[C any](ctx context.Context, r *route, network, addr string, dial func(context.Context, netip.AddrPort) (C, error), discard func(C)) (none C, err error) {
	host, service, err := net.SplitHostPort(addr)
	if err != nil {
		return none, err
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return none, err
	}
	ips, err := r.lookup(ctx, host)
	if err != nil {
		return none, err
	}
	for i, ip := range ips {
		ips[i] = ip.Unmap()
	}
	return happyeyeballs.Dial(ctx, &r.history, happyeyeballs.Host{Network: network, Name: addr}, ips, func(ctx context.Context, ip netip.Addr) (C, error) {
		return dial(ctx, netip.AddrPortFrom(ip, uint16(port)))
	}, discard)
}

// leave makes new connections prefer another address of the gateway than that of a peer, which
// drains.
func (r *route) leave(network string, peer net.Addr) {
	at, err := netip.ParseAddrPort(peer.String())
	if err == nil && (network == "udp" || !r.proxied()) {
		r.history.Leave(happyeyeballs.Host{Network: network, Name: r.addr()}, at.Addr().Unmap())
	}
}

// dialSecure connects to the gateway, or to its proxy, over TCP. It then calls secure, which does
// what remains of the handshake; an address that does not go along with it has not answered.
func dialSecure[C net.Conn](ctx context.Context, r *route, addr string, secure func(context.Context, net.Conn) (C, error)) (C, error) {
	handshake := func(ctx context.Context, addr string) (c C, err error) {
		tcp, err := r.dialAddr(ctx, addr)
		if err != nil {
			return c, err
		}
		if c, err = secure(ctx, tcp); err != nil {
			tcp.Close()
		}
		return c, err
	}
	if r.dialContext != nil {
		return handshake(ctx, addr)
	}
	return dialHost(ctx, r, "tcp", addr, func(ctx context.Context, at netip.AddrPort) (C, error) {
		return handshake(ctx, at.String())
	}, func(c C) { c.Close() })
}

// dialAddr makes a TCP connection and sets the socket options for a tunnel.
func (r *route) dialAddr(ctx context.Context, addr string) (c net.Conn, err error) {
	if r.dialContext != nil {
		c, err = r.dialContext(ctx, "tcp", addr)
	} else {
		c, err = new(net.Dialer).DialContext(ctx, "tcp", addr)
	}
	if err != nil {
		return nil, err
	}
	r.tcp.tune(c, r.log)
	return r.links.dialled(ctx, c), nil
}

// explain adds to the error of a dial or lookup of the gateway what to do about it.
func (r *route) explain(ctx context.Context, err error) error {
	cause := remedies.CauseOf(err)
	if late := context.Cause(ctx); late != nil && !errors.Is(err, late) {
		err = fmt.Errorf("%w: %w", err, late)
	}
	switch cause {
	case remedies.NoDescriptors:
		return hints.New(err, remedies.Descriptors)
	case remedies.NoSuchName:
		return hints.New(err, "is the host in %s right, and can this machine resolve it? If only a proxy can, set "+variable(r.url), hints.GatewayURL)
	case remedies.NoNameServer:
		return hints.New(err, "does DNS work on this machine? If this network has a proxy, set "+variable(r.url)+": the proxy then resolves names")
	case remedies.Refused:
		return hints.New(err, "nothing listens there: is the gateway or its ingress running, and is the port in %s right?", hints.GatewayURL)
	case remedies.NoRoute:
		return hints.New(err, "this machine has no route to that address: is its network up, and its VPN if it needs one?")
	case remedies.Silence:
		return hints.New(err, "does a firewall block that port? If this network has a proxy, set "+variable(r.url))
	}
	return err
}

// plain is the handshake of a connection that has none beyond TCP.
func plain(_ context.Context, c net.Conn) (net.Conn, error) { return c, nil }
