package remedies

import (
	"errors"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/culvert-proxy/culvert/proxy/hints"
)

// MissingBrackets returns an error with a hint if address is an IPv6 address, with or without a port,
// that lacks its brackets; otherwise nil. The last number is taken for the port if it can be one.
// prefix and suffix stand around the address in the hint.
func MissingBrackets(prefix, address, suffix string) error {
	host, port, ok := bareIPv6(address)
	if !ok {
		return nil
	}
	written := "[" + host + "]"
	if port != "" {
		written = net.JoinHostPort(host, port)
	}
	return hints.New(errors.New("an IPv6 address needs brackets"), "write it as "+prefix+written+suffix)
}

// bareIPv6 splits HOST:PORT where HOST is an IPv6 address without brackets. In ::8443 the host is ::,
// with one colon for both.
func bareIPv6(address string) (host, port string, ok bool) {
	if strings.ContainsAny(address, "[]") || strings.Count(address, ":") < 2 {
		return "", "", false
	}
	i := strings.LastIndexByte(address, ':')
	host, port = address[:i], address[i+1:]
	if host == ":" {
		host = "::"
	}
	_, notPort := strconv.ParseUint(port, 10, 16)
	if ip, err := netip.ParseAddr(host); err == nil && ip.Is6() && notPort == nil {
		return host, port, true
	}
	if ip, err := netip.ParseAddr(address); err == nil && ip.Is6() {
		return address, "", true
	}
	return "", "", false
}
