package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/culvert-proxy/culvert/protocol"
	"github.com/culvert-proxy/culvert/proxy/metrics"
)

const (
	// brokerDialTimeout bounds one dial of a broker, TLS included.
	brokerDialTimeout = 5 * time.Second
	// bootstrapTimeout bounds the race of all bootstrap addresses. Clients give
	// a connection 10 s and more, and we have accepted theirs already.
	bootstrapTimeout = 8 * time.Second
	// bootstrapDelay is the head start of each bootstrap address in the race.
	bootstrapDelay = 300 * time.Millisecond
)

// Resolver looks names up. *net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Brokers says which brokers may be dialled, and how. Set the fields before
// use. It is safe for concurrent use.
type Brokers struct {
	Bootstrap []string // host:port of brokers to find the cluster by; never empty
	// Allow names further addresses that may be dialled without a ticket:
	// HOST:PORT or CIDR:PORT, where * in a host name is one DNS label.
	Allow      []string
	TLS        *tls.Config // nil: brokers speak plaintext
	CA         *CAFile     // who signs the brokers' certificates; nil: whoever TLS believes
	ServerName string      // in the brokers' certificates; default: the host dialled
	Resolver   Resolver    // nil: the system's
	Metrics    *metrics.Metrics

	next     atomic.Uint32
	answered atomic.Bool // one has answered greet
	credible bool        // for tests: who accepts a connection need not answer
}

// errNotAllowed is wrapped by refusals to dial an address.
var errNotAllowed = errors.New("address may not be dialled")

// Validate checks the addresses and patterns without dialling.
func (b *Brokers) Validate() error {
	if len(b.Bootstrap) == 0 {
		return errors.New("no bootstrap address")
	}
	for _, a := range b.Bootstrap {
		if err := checkHostPort(a); err != nil {
			return fmt.Errorf("bootstrap address %q: %w", a, err)
		}
	}
	for _, p := range b.Allow {
		if err := checkPattern(p); err != nil {
			return fmt.Errorf("allowed broker %q: %w", p, err)
		}
	}
	return nil
}

func checkHostPort(a string) error {
	host, port, err := net.SplitHostPort(a)
	if err != nil {
		return errors.New("want HOST:PORT")
	}
	if host == "" {
		return errors.New("the host is empty")
	}
	if n, err := net.LookupPort("tcp", port); err != nil || n == 0 {
		return fmt.Errorf("port %q is not between 1 and 65535", port)
	}
	return nil
}

func checkPattern(p string) error {
	host, port, err := splitPattern(p)
	if err != nil {
		return err
	}
	if err := checkHostPort(net.JoinHostPort("host", port)); err != nil {
		return err
	}
	if strings.Contains(host, "/") {
		_, err := netip.ParsePrefix(host)
		return err
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" && !strings.HasSuffix(host, ".") || strings.Contains(label, "*") && label != "*" {
			return fmt.Errorf("* stands for one whole label of a name, as in *.kafka.internal:9092")
		}
	}
	return nil
}

// splitPattern splits HOST:PORT or CIDR:PORT; an IPv6 prefix may stand in brackets.
func splitPattern(p string) (host, port string, err error) {
	i := strings.LastIndexByte(p, ':')
	if i <= 0 {
		return "", "", errors.New("want HOST:PORT, *.DOMAIN:PORT or CIDR:PORT; the port is mandatory")
	}
	return strings.Trim(p[:i], "[]"), p[i+1:], nil
}

// allowed reports whether address may be dialled without a ticket.
func (b *Brokers) allowed(address string) bool {
	for _, a := range b.Bootstrap {
		if strings.EqualFold(a, address) {
			return true
		}
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	for _, p := range b.Allow {
		h, pp, err := splitPattern(p)
		if err == nil && pp == port && matchHost(h, host) {
			return true
		}
	}
	return false
}

func matchHost(pattern, host string) bool {
	if prefix, err := netip.ParsePrefix(pattern); err == nil {
		ip, err := netip.ParseAddr(host)
		return err == nil && prefix.Contains(ip.Unmap())
	}
	want := strings.Split(strings.TrimSuffix(strings.ToLower(pattern), "."), ".")
	have := strings.Split(strings.TrimSuffix(strings.ToLower(host), "."), ".")
	if len(want) != len(have) {
		return false
	}
	for i, label := range want {
		if label != have[i] && (label != "*" || have[i] == "") {
			return false
		}
	}
	return true
}

// dialBootstrap returns the first connection that a bootstrap address accepts.
// They are tried in turn, beginning with another one each time, each with a
// short head start.
func (b *Brokers) dialBootstrap(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, bootstrapTimeout)
	defer cancel()
	first := int(b.next.Add(1) - 1)
	results := make(chan dialled, len(b.Bootstrap))
	var failed failures
	for started := 0; ; {
		var head <-chan time.Time // nil once all have started
		if started < len(b.Bootstrap) {
			go b.dialInto(ctx, b.Bootstrap[(first+started)%len(b.Bootstrap)], results)
			started++
			head = time.After(bootstrapDelay)
		}
		select {
		case <-head:
		case r := <-results:
			if r.err == nil {
				go closeLosers(results, started-len(failed)-1)
				return r.conn, nil
			}
			if failed = append(failed, r.err); len(failed) == len(b.Bootstrap) {
				return nil, failed
			}
		}
	}
}

// greet asks a bootstrap broker what it speaks, which they tell whoever has not
// logged in. That one accepts a connection says little: it may want TLS, or
// another certificate than ours.
func (b *Brokers) greet(ctx context.Context) error {
	c, err := b.dialBootstrap(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	if b.credible {
		b.answered.Store(true)
		return nil
	}
	defer context.AfterFunc(ctx, func() { c.Close() })()
	c.SetDeadline(time.Now().Add(askTimeout))
	request := kmsg.NewRequestFormatter(kmsg.FormatterClientID("culvert-gateway")).AppendRequest(nil, kmsg.NewPtrApiVersionsRequest(), 0)
	if _, err := c.Write(request); err != nil {
		return fmt.Errorf("ask broker at %s what it speaks: %w", c.RemoteAddr(), err)
	}
	f := protocol.NewFlow(c, io.Discard)
	defer f.Release()
	if _, _, err := protocol.PeekResponse(f); err != nil {
		if errors.Is(err, protocol.ErrForeign) {
			err = sayForeign(err)
		}
		return fmt.Errorf("ask broker at %s what it speaks: %w", c.RemoteAddr(), err)
	}
	b.answered.Store(true)
	return nil
}

type dialled struct {
	conn net.Conn
	err  error
}

func (b *Brokers) dialInto(ctx context.Context, address string, results chan<- dialled) {
	conn, err := b.dial(ctx, address)
	results <- dialled{conn, err}
}

// closeLosers closes what the n dials that are still under way bring.
func closeLosers(results <-chan dialled, n int) {
	for range n {
		if r := <-results; r.conn != nil {
			r.conn.Close()
		}
	}
}

// dial connects to address, of which the caller knows that it may be dialled.
// The name is looked up once, each IP is checked, and that IP is dialled, so
// that a second answer of the resolver leads nowhere.
func (b *Brokers) dial(ctx context.Context, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, brokerDialTimeout)
	defer cancel()
	conn, err := b.connect(ctx, address)
	if b.Metrics != nil {
		b.Metrics.BrokerDial(err)
	}
	if err != nil {
		return nil, fmt.Errorf("dial broker at %s: %w", address, err)
	}
	return conn, nil
}

func (b *Brokers) connect(ctx context.Context, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	ips, err := b.lookup(ctx, host)
	if err != nil {
		return nil, err
	}
	var failed failures
	for i, ip := range ips {
		if err := b.checkIP(ip); err != nil {
			failed = append(failed, err)
			continue
		}
		d := net.Dialer{Timeout: share(ctx, len(ips)-i)}
		conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(ip.String(), port))
		if err == nil {
			return b.secure(ctx, conn, host)
		}
		failed = append(failed, err)
	}
	return nil, failed
}

// share is the part of the time left that one of n tries may take, so that an
// address which answers nothing leaves time for the next.
func share(ctx context.Context, n int) time.Duration {
	deadline, _ := ctx.Deadline()
	return time.Until(deadline) / time.Duration(n)
}

func (b *Brokers) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{ip}, nil
	}
	r := b.Resolver
	if r == nil {
		r = net.DefaultResolver
	}
	return r.LookupNetIP(ctx, "ip", host)
}

// checkIP refuses addresses at which no broker of a cluster lives but other
// things of this machine or network do, such as a cloud's metadata service.
func (b *Brokers) checkIP(ip netip.Addr) error {
	ip = embedded(ip)
	switch {
	case ip.IsUnspecified(), ip.Is4() && ip.As4()[0] == 0:
		return fmt.Errorf("%w: %s is unspecified", errNotAllowed, ip)
	case ip.IsMulticast(), ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return fmt.Errorf("%w: %s is multicast", errNotAllowed, ip)
	case ip.IsLinkLocalUnicast(), ip == metadataIPv6:
		return fmt.Errorf("%w: %s is link-local", errNotAllowed, ip)
	case ip.IsLoopback() && !b.loopbackBootstrap():
		return fmt.Errorf("%w: %s is loopback, and no bootstrap address is", errNotAllowed, ip)
	}
	return nil
}

// metadataIPv6 is where AWS has over IPv6 what is at 169.254.169.254 else.
var metadataIPv6 = netip.MustParseAddr("fd00:ec2::254")

// nat64 embeds IPv4 addresses (RFC 6052).
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// embedded returns the IPv4 address that ip leads to, or ip.
func embedded(ip netip.Addr) netip.Addr {
	if nat64.Contains(ip) {
		b := ip.As16()
		return netip.AddrFrom4([4]byte(b[12:]))
	}
	return ip.Unmap()
}

// loopbackBootstrap reports whether a bootstrap address says by itself that it
// is on this machine. What a name resolves to does not count.
func (b *Brokers) loopbackBootstrap() bool {
	for _, a := range b.Bootstrap {
		host, _, _ := net.SplitHostPort(a)
		ip, err := netip.ParseAddr(host)
		if err == nil && ip.IsLoopback() || strings.EqualFold(host, "localhost") {
			return true
		}
	}
	return false
}

// secure completes the TLS handshake, where brokers want one.
func (b *Brokers) secure(ctx context.Context, conn net.Conn, host string) (net.Conn, error) {
	if b.TLS == nil {
		return conn, nil
	}
	config := b.TLS.Clone()
	if config.ServerName = b.ServerName; config.ServerName == "" {
		config.ServerName = host
	}
	if b.CA != nil {
		b.CA.check(config, config.ServerName)
	}
	t := tls.Client(conn, config)
	if err := t.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, &tlsError{err}
	}
	return &brokerConn{Conn: t}, nil
}
