package doctor

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/culvert-proxy/culvert/proxy/hints"
)

// Plain examines Kafka without culvert, from where clients are: which addresses the brokers
// advertise, and which of those can be reached from here. bootstrap are host:port.
func (d *Doctor) Plain(ctx context.Context, bootstrap []string) {
	p := &plainCluster{cluster: cluster{Doctor: d, plain: true, nodes: map[int32]node{}}, bootstrap: bootstrap}
	p.cluster.open, d.tally.plain = p.open, true
	if d.hop(ctx, "name", p.names) && d.hop(ctx, "tcp", p.tcp) && p.tls(ctx) {
		p.examine(ctx)
	}
}

// plainCluster is a cluster that is dialled as a client without culvert dials it.
type plainCluster struct {
	cluster
	bootstrap []string
	remote    bool // no bootstrap address is on this machine
}

// names looks the bootstrap addresses up. One that resolves is enough.
func (p *plainCluster) names(ctx context.Context) Finding {
	var found []string
	var errs []error
	p.remote = true
	for _, address := range p.bootstrap {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return Finding{Result: Fail, Text: err.Error(), Remedy: "write it as HOST:PORT"}
		}
		ips, err := net.DefaultResolver.LookupHost(ctx, host)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		is := host + " is " + strings.Join(ips, ", ")
		if net.ParseIP(host) != nil {
			is = host + " needs no lookup"
		}
		if !slices.Contains(found, is) {
			found = append(found, is)
		}
		p.remote = p.remote && !slices.ContainsFunc(ips, isLoopback)
	}
	if len(found) == 0 {
		return p.failure(ctx, errors.Join(errs...)).or(p.Names.Sprintf("is the host in %s right?", hints.Bootstrap))
	}
	return ok("%s", listed(found))
}

func isLoopback(ip string) bool { return net.ParseIP(ip).IsLoopback() }

func (p *plainCluster) tcp(ctx context.Context) Finding {
	start := time.Now()
	conn, _, err := p.dialBootstrap(ctx)
	if err != nil {
		return p.failure(ctx, err).or("is that the brokers' port, and does a firewall block it? If the network lets in only HTTPS, use culvert")
	}
	defer conn.Close()
	return ok("%s accepts connections after %s", conn.RemoteAddr(), millis(time.Since(start)))
}

// tls shakes hands as the client of the settings does, if it speaks TLS. It reports whether the
// brokers can be examined.
func (p *plainCluster) tls(ctx context.Context) bool {
	switch {
	case p.Client == nil || !p.Client.SpeaksTLS():
		return true
	case p.Client.TLS == nil:
		f := skipped("TLS", strings.Join(p.Client.Unsupported, "; "), "")
		f.Hop = "tls"
		p.report(f)
		return false
	}
	return p.hop(ctx, "tls", func(ctx context.Context) Finding {
		conn, err := p.open(ctx, node{})
		if err != nil {
			return p.failure(ctx, err).or("does this listener speak TLS, does ssl.truststore.location have its CA, and is its certificate for that host?")
		}
		defer conn.Close()
		return ok("the client and the broker trust each other")
	})
}

// open connects to a broker as a client does, with TLS if the settings have it.
func (p *plainCluster) open(ctx context.Context, to node) (net.Conn, error) {
	var conn net.Conn
	var err error
	address := to.address
	if address == "" {
		conn, address, err = p.dialBootstrap(ctx)
	} else {
		conn, err = p.dial(ctx, address)
	}
	if err != nil || p.Client == nil || p.Client.TLS == nil {
		return conn, err
	}
	config := p.Client.TLS.Clone()
	config.ServerName, _, _ = net.SplitHostPort(address)
	secure := tls.Client(conn, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, fmt.Errorf("TLS handshake with %s: %w", address, err)
	}
	return secure, nil
}

// dialTimeout bounds one dial: half of what clients wait by default.
const dialTimeout = 5 * time.Second

// dialBootstrap connects to the first bootstrap address that accepts.
func (p *plainCluster) dialBootstrap(ctx context.Context) (conn net.Conn, address string, err error) {
	var errs []error
	for _, address := range p.bootstrap {
		d := net.Dialer{Timeout: dialTimeout}
		if conn, err = d.DialContext(ctx, "tcp", address); err == nil {
			return conn, address, nil
		}
		errs = append(errs, err)
	}
	return nil, "", errors.Join(errs...)
}

// dial connects to an address that a broker advertises.
func (p *plainCluster) dial(ctx context.Context, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	ips, err := net.DefaultResolver.LookupHost(ctx, host)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", address, err)
	}
	if p.remote && !slices.ContainsFunc(ips, func(ip string) bool { return !isLoopback(ip) }) {
		return nil, fmt.Errorf("%s is a loopback address: each client would connect to its own machine", address)
	}
	d := net.Dialer{Timeout: dialTimeout}
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", address, err)
	}
	return conn, nil
}
