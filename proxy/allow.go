package proxy

import (
	"errors"
	"net/netip"
	"strings"
)

// pattern is a set of addresses that a setting allows. It matches either IP addresses or host
// names, never both: a host name may resolve to any IP address, so a pattern of names says nothing
// about addresses.
type pattern struct {
	prefix netip.Prefix // of IP addresses; not valid in a pattern for host names
	labels []string     // of host names, in lower case; * is any one label
	port   string
}

// parsePattern parses HOST:PORT or CIDR:PORT. Brackets are optional around an IPv6 prefix and
// mandatory around an IPv6 address.
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
		return pattern{}, errors.New("write IP addresses as a prefix, as in 10.1.0.0/16:9092")
	}
	return pattern{labels: labels, port: port}, nil
}

// single returns the prefix that contains only ip.
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

// anyMatches reports whether one of the patterns matches t. Patterns that cannot be parsed match
// nothing: Validate reports them at the start.
func anyMatches(patterns []string, t target) bool {
	for _, text := range patterns {
		if p, err := parsePattern(text); err == nil && p.matches(t) {
			return true
		}
	}
	return false
}
