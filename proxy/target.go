package proxy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/culvert-proxy/culvert/proxy/remedies"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
	"github.com/culvert-proxy/culvert/rewrite"
)

// target is an address that a peer asks us to dial: HOST:PORT, where HOST is a host name or an IP
// address. Make it with parseTarget.
type target struct {
	host string     // as in the address
	ip   netip.Addr // without IPv4 mapping; not valid if host is a name
	port string
}

// parseTarget parses an address. It is strict. A port has only one spelling, because tickets
// compare addresses as strings. Hosts that some resolvers read as an IP address and others as a
// name are errors, because a pattern must match what is really dialled. Errors do not repeat the
// address; callers add it.
func parseTarget(address string) (target, error) {
	if len(address) > tunnel.MaxTarget {
		return target{}, fmt.Errorf("%d bytes exceed the limit of %d for an address", len(address), tunnel.MaxTarget)
	}
	if err := remedies.MissingBrackets("", address, ""); err != nil {
		return target{}, err
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil || net.JoinHostPort(host, port) != address {
		return target{}, errors.New("want HOST:PORT")
	}
	if err := checkPort(port); err != nil {
		return target{}, err
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		if ip.Zone() != "" {
			return target{}, errors.New("an IP address with a zone cannot be reached from another machine")
		}
		return target{host, ip.Unmap(), port}, nil
	}
	if err := checkHostName(host); err != nil {
		return target{}, err
	}
	return target{host: host, port: port}, nil
}

// same reports whether t and u are the same host and port.
func (t target) same(u target) bool {
	if t.ip.IsValid() || u.ip.IsValid() {
		return t.ip == u.ip && t.port == u.port
	}
	return strings.EqualFold(t.host, u.host) && t.port == u.port
}

// checkPort accepts 1 to 65535 in decimal, without a sign or leading zeros. Names of services, such
// as https, are errors.
func checkPort(port string) error {
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != port {
		return fmt.Errorf("port %.20q is not a number between 1 and 65535", port)
	}
	return nil
}

const (
	maxHostName = 253 // bytes: the 255 of RFC 1035 section 3.1, written as text
	maxLabel    = 63  // bytes of a label, RFC 1035 section 2.3.4
)

// checkHostName accepts names as in RFC 1123, with or without a dot at the end. It also accepts
// underscores: Kafka does, and container names have them.
func checkHostName(host string) error {
	name := strings.TrimSuffix(host, ".")
	if name == "" {
		return errors.New("the host is empty")
	}
	if len(name) > maxHostName {
		return fmt.Errorf("a host name of %d bytes exceeds the limit of %d", len(name), maxHostName)
	}
	last := ""
	for label := range strings.SplitSeq(name, ".") {
		if !isLabel(label) {
			return errors.New("the host is neither a host name nor an IP address")
		}
		last = label
	}
	if isNumber(last) {
		return errors.New("the last label is a number, which some resolvers read as an IP address")
	}
	return nil
}

func isLabel(label string) bool {
	if label == "" || len(label) > maxLabel || label[0] == '-' || label[len(label)-1] == '-' {
		return false
	}
	for _, c := range []byte(label) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return true
}

// isNumber reports whether a name with this last label could be read as an IPv4 address.
// inet_aton(3) and the URL standard do that for decimal and hexadecimal labels.
func isNumber(label string) bool {
	if strings.Trim(label, "0123456789") == "" {
		return true
	}
	hex, ok := strings.CutPrefix(strings.ToLower(label), "0x")
	return ok && strings.Trim(hex, "0123456789abcdef") == ""
}

// addressOf returns a broker's address as HOST:PORT. The address may be invalid: see checkNode.
func addressOf(b rewrite.Broker) string {
	return net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port)))
}
