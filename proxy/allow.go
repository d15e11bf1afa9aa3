package proxy

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// pattern is what --allow-broker names. It is either for IP addresses or for
// host names, and never matches the other.
type pattern struct {
	prefix netip.Prefix // of IP addresses; not valid where labels are a name's
	labels []string     // in lower case; * is any one label
	port   string
}

// parsePattern reads HOST:PORT or CIDR:PORT. An IPv6 prefix may stand in
// brackets, and an IPv6 address must.
func parsePattern(p string) (pattern, error) {
	i := strings.LastIndexByte(p, ':')
	if i <= 0 {
		return pattern{}, errors.New("want HOST:PORT, *.DOMAIN:PORT or CIDR:PORT; the port is mandatory")
	}
	host, port := p[:i], p[i+1:]
	if err := checkPort(port); err != nil {
		return pattern{}, err
	}
	bare, bracketed := strings.CutPrefix(host, "[")
	if bare = strings.TrimSuffix(bare, "]"); bracketed && host != "["+bare+"]" {
		return pattern{}, errors.New("the brackets do not match")
	}
	if strings.Contains(bare, "/") {
		prefix, err := netip.ParsePrefix(bare)
		if err == nil && prefix.Addr().Is4In6() {
			err = errors.New("write the IPv4 prefix instead, as in 10.1.0.0/16:9092")
		}
		return pattern{prefix: prefix, port: port}, err
	}
	if !strings.Contains(host, "*") {
		t, err := parseTarget(p)
		if err != nil || t.ip.IsValid() {
			return pattern{prefix: single(t.ip), port: port}, err
		}
	}
	labels := strings.Split(strings.TrimSuffix(strings.ToLower(host), "."), ".")
	for _, label := range labels {
		if label != "*" && !isLabel(label) {
			return pattern{}, errors.New("* stands for one whole label of a name, as in *.kafka.internal:9092")
		}
	}
	if isNumber(labels[len(labels)-1]) {
		return pattern{}, errors.New("IP addresses are named by a prefix, as in 10.1.0.0/16:9092")
	}
	return pattern{labels: labels, port: port}, nil
}

// single is the prefix of one address alone.
func single(ip netip.Addr) netip.Prefix { return netip.PrefixFrom(ip, ip.BitLen()) }

func (p pattern) matches(t target) bool {
	if p.port != t.port {
		return false
	}
	if t.ip.IsValid() || p.prefix.IsValid() {
		return t.ip.IsValid() && p.prefix.Contains(t.ip)
	}
	have := strings.Split(strings.TrimSuffix(strings.ToLower(t.host), "."), ".")
	if len(p.labels) != len(have) {
		return false
	}
	for i, label := range p.labels {
		if label != have[i] && label != "*" {
			return false
		}
	}
	return true
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

// allowed reports whether an address may be dialled without a ticket.
func (b *Brokers) allowed(t target) bool {
	for _, a := range b.Bootstrap {
		if u, err := parseTarget(a); err == nil && u.same(t) {
			return true
		}
	}
	return b.byPattern(t)
}

// byPattern reports whether Allow names an address.
func (b *Brokers) byPattern(t target) bool {
	for _, text := range b.Allow {
		if p, err := parsePattern(text); err == nil && p.matches(t) {
			return true
		}
	}
	return false
}

// named reports whether a setting names an IP address and port: a prefix of
// Allow, or a bootstrap address.
func (b *Brokers) named(ip netip.Addr, port string) bool {
	return b.allowed(target{host: ip.String(), ip: ip, port: port})
}
