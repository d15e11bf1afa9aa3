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
	"strings"

	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/remedies"
)

// A route leads to the gateway: its address, and the proxy on the way.
type route struct {
	url         *url.URL
	tls         *tls.Config                                                       // for TLS to the gateway
	dialContext func(ctx context.Context, network, addr string) (net.Conn, error) // nil means a net.Dialer
	log         *slog.Logger

	proxy    *url.URL    // nil means none
	proxyErr error       // why the proxy cannot be used
	proxyTLS *tls.Config // for TLS to the proxy, in tests; nil means the system's roots
	tcp      tuner
}

// newRoute returns the route to u without a proxy. base is the TLS configuration; nil means the
// system's roots.
func newRoute(u *url.URL, base *tls.Config, log *slog.Logger) *route {
	r := &route{url: u, tls: &tls.Config{}, log: log}
	if base != nil {
		r.tls = base.Clone()
	}
	if r.tls.ServerName == "" {
		r.tls.ServerName = u.Hostname()
	}
	if r.tls.ClientSessionCache == nil {
		r.tls.ClientSessionCache = tls.NewLRUClientSessionCache(64)
	}
	r.tls.DynamicRecordSizingDisabled = true
	return r
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

// lookup returns the IP addresses of the gateway.
func (r *route) lookup(ctx context.Context) ([]netip.Addr, error) {
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", r.url.Hostname())
	if err != nil {
		return nil, r.explain(ctx, err)
	}
	return ips, nil
}

// dialAddr connects to the gateway or to its proxy, and sets the socket options for a tunnel.
func (r *route) dialAddr(ctx context.Context, network, addr string) (c net.Conn, err error) {
	if r.dialContext != nil {
		c, err = r.dialContext(ctx, network, addr)
	} else {
		c, err = new(net.Dialer).DialContext(ctx, network, addr)
	}
	if err != nil {
		return nil, err
	}
	r.tcp.tune(c, r.log)
	return c, nil
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
