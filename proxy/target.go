package proxy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/culvert-proxy/culvert/proxy/tunnel"
	"github.com/culvert-proxy/culvert/rewrite"
)

// target is an address that an end may be asked to dial: HOST:PORT, where HOST
// is a host name or an IP address.
type target struct {
	host string     // as it is written
	ip   netip.Addr // unmapped; not valid where host is a name
	port string
}

// parseTarget reads an address. There is one way to write a port and none to
// write an IP address that resolvers and we read differently: tickets compare
// addresses as strings, and a pattern must match what is going to be dialled.
// The error does not repeat the address.
func parseTarget(address string) (target, error) {
	if len(address) > tunnel.MaxTarget {
		return target{}, fmt.Errorf("%d bytes, and addresses of brokers have %d at most", len(address), tunnel.MaxTarget)
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
			return target{}, errors.New("an IP address with a zone is not reached from another machine")
		}
		return target{host, ip.Unmap(), port}, nil
	}
	if err := checkHostName(host); err != nil {
		return target{}, err
	}
	return target{host: host, port: port}, nil
}

// same reports whether a and b name one host and port.
func (t target) same(u target) bool {
	if t.ip.IsValid() || u.ip.IsValid() {
		return t.ip == u.ip && t.port == u.port
	}
	return strings.EqualFold(t.host, u.host) && t.port == u.port
}

// checkPort accepts 1 to 65535 in decimal: no sign, no leading zero, no name of
// a service.
func checkPort(port string) error {
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != port {
		return fmt.Errorf("port %.20q is not a number between 1 and 65535", port)
	}
	return nil
}

const (
	maxHostName = 253 // RFC 1123 section 2.1, RFC 1035 section 3.1 as text
	maxLabel    = 63
)

// checkHostName accepts names by RFC 1123, with underscores, which Kafka takes
// and container names have, and with a dot at the end.
func checkHostName(host string) error {
	name := strings.TrimSuffix(host, ".")
	if name == "" {
		return errors.New("the host is empty")
	}
	if len(name) > maxHostName {
		return fmt.Errorf("a host name of %d bytes: they have %d at most", len(name), maxHostName)
	}
	last := ""
	for label := range strings.SplitSeq(name, ".") {
		if !isLabel(label) {
			return errors.New("the host is neither a name nor an IP address")
		}
		last = label
	}
	if isNumber(last) {
		return errors.New("the last label is a number, and some resolvers take the host for an IP address")
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

// isNumber reports whether a name with this last label can be read as an IPv4
// address, as inet_aton(3) and the URL standard do: decimal or hexadecimal.
func isNumber(label string) bool {
	if strings.Trim(label, "0123456789") == "" {
		return true
	}
	hex, ok := strings.CutPrefix(strings.ToLower(label), "0x")
	return ok && strings.Trim(hex, "0123456789abcdef") == ""
}

// addressOf is how a broker's address is written everywhere. It need not be a
// target: checkNode tells.
func addressOf(b rewrite.Broker) string {
	return net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port)))
}
