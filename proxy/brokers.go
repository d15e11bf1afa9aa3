package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/culvert-proxy/culvert/proxy/credentials"
	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/internal/happyeyeballs"
	"github.com/culvert-proxy/culvert/proxy/metrics"
)

const (
	// brokerDialTimeout bounds one dial of a broker, with name lookup and TLS. A broker beside the
	// gateway answers within milliseconds. The agent gives up after dialTimeout, and needs time to
	// hear why.
	brokerDialTimeout = 5 * time.Second
	// bootstrapTimeout bounds the race of all bootstrap addresses. It is less than dialTimeout, so
	// that the agent hears the reason, and clients give a connection 10 s and more.
	bootstrapTimeout = 8 * time.Second
	// bootstrapDelay is the head start of each bootstrap address before the next one is dialled
	// too. It is longer than a dial of a healthy broker with TLS takes, so that usually only one is
	// dialled.
	bootstrapDelay = 300 * time.Millisecond
)

// Resolver looks up host names. [net.Resolver] is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Brokers dials brokers, and decides which addresses may be dialled. Set the exported fields before
// use. Its methods may be called concurrently. It keeps no connections: whoever gets one closes it.
type Brokers struct {
	Bootstrap []string // host:port of the first brokers to ask; at least one
	// Allow are patterns of more addresses that may be dialled without a ticket: HOST:PORT or
	// CIDR:PORT, where * in a host name is one DNS label.
	Allow      []string
	TLS        *tls.Config     // nil: brokers speak plaintext
	CA         *credentials.CA // trusted for the brokers' certificates; nil: what TLS trusts
	ServerName string          // to expect in the brokers' certificates; "": the host that is dialled
	Resolver   Resolver        // nil: the system's
	Metrics    *metrics.Metrics
	Names      hints.Names  // of settings, in errors
	Logger     *slog.Logger // nil discards

	once         sync.Once
	history      happyeyeballs.History
	next         atomic.Uint32                                          // index, before the modulo, of the bootstrap address to try first
	dialIsAnswer bool                                                   // for tests: probe takes a connection for an answer
	control      func(network, address string, _ syscall.RawConn) error // for tests: sees each dial
	loopback     loopback
	direct       bool   // an agent dials, and no gateway
	forward      string // the name of the forward whose target is dialled; "": brokers are
}

// Validate checks the addresses and patterns without dialling.
func (b *Brokers) Validate() error {
	if len(b.Bootstrap) == 0 {
		return errors.New("no bootstrap address")
	}
	for _, a := range b.Bootstrap {
		if _, err := parseTarget(a); err != nil {
			return fmt.Errorf("bootstrap address %q: %w", a, err)
		}
	}
	for _, p := range b.Allow {
		if _, err := parsePattern(p); err != nil {
			return fmt.Errorf("allowed broker %q: %w", p, err)
		}
	}
	return nil
}

// errNotAllowed is wrapped by the error of an address that may not be dialled.
var errNotAllowed = errors.New("address may not be dialled")

// dialBootstrap returns the first connection to a bootstrap address that succeeds. Each call starts
// with the next address, to spread the load, and gives each address a head start of bootstrapDelay
// before the following one is dialled too.
func (b *Brokers) dialBootstrap(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, bootstrapTimeout)
	defer cancel()
	first := int(b.next.Add(1) - 1)
	return happyeyeballs.Race(ctx, len(b.Bootstrap), bootstrapDelay, func(ctx context.Context, i int) (net.Conn, error) {
		return b.dial(ctx, b.Bootstrap[(first+i)%len(b.Bootstrap)])
	}, discard)
}

// discard closes a connection that is not needed.
func discard(c net.Conn) { c.Close() }

// probe asks a bootstrap broker for its API versions, and returns its address and how long its
// answer took. A connection alone proves little: the broker may require TLS, or a client
// certificate that ours is not.
func (b *Brokers) probe(ctx context.Context) (broker net.Addr, took time.Duration, err error) {
	c, err := b.dialBootstrap(ctx)
	if err != nil {
		return nil, 0, err
	}
	defer c.Close()
	if b.dialIsAnswer {
		return c.RemoteAddr(), 0, nil
	}
	if took, err = askVersions(ctx, c, "culvert-gateway", askTimeout); err != nil {
		return nil, 0, explainAnswer(err, b.Names)
	}
	closeWrite(c)
	return c.RemoteAddr(), took, nil
}

// dial connects to address. The caller has checked that the address may be dialled. The name is
// looked up once, and exactly the IP addresses that have been checked are dialled. With a second
// lookup, a resolver could pass the check with one address and have us dial another (DNS
// rebinding).
func (b *Brokers) dial(ctx context.Context, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, brokerDialTimeout)
	defer cancel()
	conn, err := b.connect(ctx, address)
	if b.Metrics != nil {
		b.Metrics.BrokerDial(err)
	}
	if err != nil {
		return nil, b.explain(fmt.Errorf("dial %s at %s: %w", strings.TrimPrefix(b.peer(), "the "), address, err))
	}
	return conn, nil
}

func (b *Brokers) connect(ctx context.Context, address string) (net.Conn, error) {
	t, err := parseTarget(address)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNotAllowed, err)
	}
	ips, err := b.lookup(ctx, t)
	if err != nil {
		return nil, err
	}
	if b.isBootstrap(t) {
		b.loopback.found(ips) // for checkIP: a second lookup may have another answer
	}
	ips, refused := b.checkIPs(ctx, ips, t.port)
	if len(ips) == 0 {
		return nil, refused
	}
	b.once.Do(func() { b.history.Log = b.Logger })
	conn, err := happyeyeballs.Dial(ctx, &b.history, happyeyeballs.Host{Network: "tcp", Name: address}, ips, func(ctx context.Context, ip netip.Addr) (net.Conn, error) {
		d := net.Dialer{Control: b.control}
		conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(ip.String(), t.port))
		if err != nil {
			return nil, err
		}
		return b.secure(ctx, conn, t.host)
	}, discard)
	if err != nil {
		return nil, append(refused, err)
	}
	return conn, nil
}

// lookup returns the IP addresses of a target, up to happyeyeballs.MaxAddresses. It removes zones:
// only link-local addresses have one, and those are never dialled.
func (b *Brokers) lookup(ctx context.Context, t target) ([]netip.Addr, error) {
	if t.ip.IsValid() {
		return []netip.Addr{t.ip}, nil
	}
	found, err := b.resolve(ctx, t.host)
	var ips []netip.Addr
	for _, ip := range found {
		ips = append(ips, ip.WithZone("").Unmap())
	}
	return happyeyeballs.Interleave(ips), err
}

func (b *Brokers) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if b.Resolver == nil {
		return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	}
	return b.Resolver.LookupNetIP(ctx, "ip", host)
}

// allowed reports whether an address may be dialled without a ticket.
func (b *Brokers) allowed(t target) bool { return b.isBootstrap(t) || anyMatches(b.Allow, t) }

func (b *Brokers) isBootstrap(t target) bool {
	return slices.ContainsFunc(b.Bootstrap, func(address string) bool {
		u, err := parseTarget(address)
		return err == nil && u.same(t)
	})
}

// checkIPs returns the IP addresses that may be dialled, and why the others may not.
func (b *Brokers) checkIPs(ctx context.Context, ips []netip.Addr, port string) (allowed []netip.Addr, refused failures) {
	for _, ip := range ips {
		if err := b.checkIP(ctx, ip, port); err != nil {
			refused = append(refused, err)
		} else {
			allowed = append(allowed, ip)
		}
	}
	return allowed, refused
}

// checkIP refuses IP addresses that no broker uses but that reach other services of this machine or
// network, such as a cloud's metadata service. An IPv6 address that is translated to IPv4 is
// checked as both. ip has no zone.
func (b *Brokers) checkIP(ctx context.Context, ip netip.Addr, port string) error {
	if err := b.checkOne(ctx, ip, port); err != nil {
		return err
	}
	v4, embeds := embedded(ip)
	if !embeds {
		return nil
	}
	switch where := blockOf(v4); where.decision {
	case dialOnHost, dialNever:
		return b.nobody(fmt.Errorf("%w: %s maps to %s, which is %s", errNotAllowed, ip, v4, where.is))
	}
	return b.checkOne(ctx, v4, port)
}

func (b *Brokers) checkOne(ctx context.Context, ip netip.Addr, port string) error {
	where := blockOf(ip)
	switch {
	case where.decision == dialNever:
		return b.nobody(fmt.Errorf("%w: %s is %s", errNotAllowed, ip, where.is))
	case where.decision == dialOnHost && !b.onLoopback(ctx):
		return hints.New(fmt.Errorf("%w: %s is %s, and no bootstrap address is loopback, as written or as its name resolves", errNotAllowed, ip, where.is),
			"the broker advertises an address that only its own machine can reach: set advertised.listeners to one that "+b.self()+" can reach")
	case where.decision == dialNamed && !b.allowed(target{host: ip.String(), ip: ip, port: port}):
		return b.couldAllow(fmt.Errorf("%w: %s is %s", errNotAllowed, ip, where.is), ip, port)
	}
	return nil
}

// onLoopback reports whether a bootstrap address is on this machine. If so, the other brokers may
// be there too.
func (b *Brokers) onLoopback(ctx context.Context) bool {
	return b.loopback.among(ctx, b.Bootstrap, b.resolve)
}

// secure does the TLS handshake, if brokers use TLS. It closes conn on an error.
func (b *Brokers) secure(ctx context.Context, conn net.Conn, host string) (net.Conn, error) {
	if b.TLS == nil {
		return conn, nil
	}
	config := b.TLS.Clone()
	if config.ServerName = b.ServerName; config.ServerName == "" {
		config.ServerName = host
	}
	if b.CA != nil {
		b.CA.VerifyServer(config, config.ServerName)
	}
	t := tls.Client(conn, config)
	if err := t.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, &tlsError{err, b.Names}
	}
	return &brokerConn{Conn: t, names: b.Names}, nil
}
