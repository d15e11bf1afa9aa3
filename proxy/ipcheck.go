package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// decision says whether an IP address may be dialled.
type decision uint8

const (
	dialAlways decision = iota
	dialNamed           // only if a setting names it: a prefix of allowed brokers, or a bootstrap address
	dialOnHost          // only if a bootstrap address is on loopback
	dialNever           // whatever the settings say
)

// block is a range of IP addresses and its purpose.
type block struct {
	prefix   netip.Prefix
	decision decision
	is       string // completes the sentence "ADDRESS is …"
}

// blocks are the ranges that are not simply dialled; the first match counts. They are the ranges
// that IANA's special-purpose registries call not globally reachable, without private networks and
// others where brokers do run. Added are the addresses of cloud services that give a machine its
// credentials. docs/security.md has the reasons, and a test compares it with this list.
var blocks = []block{
	// Services that give a machine its credentials, inside ranges that are otherwise fine.
	never("100.100.100.200/32", "Alibaba Cloud's metadata service"),
	never("168.63.129.16/32", "Azure's host agent"),
	never("fd00:ec2::/32", "where AWS has its metadata service"),
	never("fd20:ce::254/128", "Google Cloud's metadata service"),
	never("fd00:42::42/128", "Scaleway's metadata service"),

	never("0.0.0.0/8", "unspecified"),
	never("::ffff:0:0:0/96", "IPv4-translated (RFC 2765)"),
	{netip.MustParsePrefix("127.0.0.0/8"), dialOnHost, "loopback"},
	never("169.254.0.0/16", "link-local"),
	never("192.0.0.0/24", "for protocols (RFC 6890), and Oracle Cloud's metadata service"),
	ifNamed("192.0.2.0/24", "for documentation"),
	ifNamed("192.88.99.0/24", "6to4's relay"),
	ifNamed("198.51.100.0/24", "for documentation"),
	ifNamed("203.0.113.0/24", "for documentation"),
	never("224.0.0.0/4", "multicast"),
	never("255.255.255.255/32", "broadcast"),

	never("::/128", "unspecified"),
	{netip.MustParsePrefix("::1/128"), dialOnHost, "loopback"},
	never("::/96", "IPv4-compatible"),
	ifNamed("64:ff9b:1::/48", "for a network's own translation to IPv4"),
	never("100::/64", "for discarding"),
	never("100:0:0:1::/64", "a dummy prefix"),
	never("2001::/32", "Teredo"),
	ifNamed("2001::/23", "for protocols"),
	ifNamed("2001:db8::/32", "for documentation"),
	never("2002::/16", "6to4"),
	ifNamed("3fff::/20", "for documentation"),
	never("5f00::/16", "for segment routing"),
	never("fe80::/10", "link-local"),
	ifNamed("fec0::/10", "site-local"),
	never("ff00::/8", "multicast"),
}

func never(prefix, is string) block   { return block{netip.MustParsePrefix(prefix), dialNever, is} }
func ifNamed(prefix, is string) block { return block{netip.MustParsePrefix(prefix), dialNamed, is} }

// blockOf returns the first block that contains ip, or the zero block, which is always dialled.
func blockOf(ip netip.Addr) block {
	for _, s := range blocks {
		if s.prefix.Contains(ip) {
			return s
		}
	}
	return block{}
}

var (
	nat64      = netip.MustParsePrefix("64:ff9b::/96")   // RFC 6052
	localNAT64 = netip.MustParsePrefix("64:ff9b:1::/48") // RFC 8215
)

// embedded returns the IPv4 address that packets to an IPv6 address reach, by NAT64 or ISATAP (RFC
// 5214). 6to4 and Teredo embed one too, but blocks refuses them all.
func embedded(ip netip.Addr) (v4 netip.Addr, ok bool) {
	if ip.Is4() {
		return v4, false
	}
	b := ip.As16()
	isatap := (b[8] == 0 || b[8] == 2) && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe
	if !isatap && !nat64.Contains(ip) && !localNAT64.Contains(ip) {
		return v4, false
	}
	return netip.AddrFrom4([4]byte(b[12:])), true
}

const (
	// loopbackMemory is how long it is cached whether a bootstrap name resolves to loopback:
	// otherwise each dial of a loopback address would cost lookups.
	loopbackMemory = 10 * time.Second
	// loopbackTimeout bounds these lookups. A dial waits for them, and has brokerDialTimeout for
	// everything.
	loopbackTimeout = 2 * time.Second
)

// loopback finds out whether an address is on this machine. It caches the answer for host names.
type loopback struct {
	mu     sync.Mutex
	is     bool
	expiry time.Time
}

// resolve returns the IP addresses of a host name.
type resolve func(ctx context.Context, host string) ([]netip.Addr, error)

// among reports whether one of the addresses is on this machine, by itself or by what its name
// resolves to, as through the hosts file. The addresses must be the same in each call. Concurrent
// calls wait for one lookup.
func (l *loopback) among(ctx context.Context, addresses []string, resolve resolve) bool {
	var hosts []string
	for _, a := range addresses {
		t, err := parseTarget(a)
		switch {
		case err != nil:
		case t.ip.IsLoopback() || strings.EqualFold(t.host, "localhost"):
			return true
		case !t.ip.IsValid():
			hosts = append(hosts, t.host)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Now().After(l.expiry) {
		if is, known := anyOnLoopback(ctx, hosts, resolve); known {
			l.is, l.expiry = is, time.Now().Add(loopbackMemory)
		}
	}
	return l.is
}

// found notes that one of the addresses that among is asked about has these IP addresses.
func (l *loopback) found(ips []netip.Addr) {
	if !slices.ContainsFunc(ips, netip.Addr.IsLoopback) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.is, l.expiry = true, time.Now().Add(loopbackMemory)
}

// anyOnLoopback looks up all hosts at once. known is false if none was found on loopback, and a
// lookup failed or took too long.
func anyOnLoopback(ctx context.Context, hosts []string, resolve resolve) (is, known bool) {
	ctx, cancel := context.WithTimeout(ctx, loopbackTimeout)
	defer cancel()
	type answer struct{ is, known bool }
	answers := make(chan answer, len(hosts))
	for _, host := range hosts {
		go func() {
			is, known := resolvesToLoopback(ctx, host, resolve)
			answers <- answer{is, known}
		}()
	}
	known = true
	for range hosts {
		a := <-answers
		if a.is {
			return true, true
		}
		known = known && a.known
	}
	return false, known
}

// resolvesToLoopback looks up one host. That there is no such host is known, too.
func resolvesToLoopback(ctx context.Context, host string, resolve resolve) (is, known bool) {
	ips, err := resolve(ctx, host)
	for _, ip := range ips {
		if ip.Unmap().IsLoopback() {
			return true, true
		}
	}
	de, ok := errors.AsType[*net.DNSError](err)
	return false, err == nil || ok && de.IsNotFound
}
