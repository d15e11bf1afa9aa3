package main

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/culvert-proxy/culvert/proxy"
)

const (
	maxPort = 65535
	// maxExpected bounds the ports that are open from the start.
	maxExpected = 1024
	// assumedNodes is how many node ids from 0 have their ports kept free of our
	// other listeners, where --expect-nodes does not say which ones will come.
	assumedNodes = 100
)

// parseListen reads BIND[=HOST].
func parseListen(s string) (proxy.Listen, error) {
	bind, host, _ := strings.Cut(s, "=")
	l := proxy.Listen{Bind: bind, Host: strings.Trim(host, "[]")}
	bindHost, _, err := splitAddress(bind, 0)
	switch {
	case err != nil:
		return l, wrong("write it as 127.0.0.1:9092, or as 0.0.0.0:9092=HOST", "--listen %s: %w", s, err)
	case isWildcard(bindHost) && l.Host == "":
		return l, wrong(fmt.Sprintf("add the host under which clients reach this agent: --listen %s=HOST", bind),
			"--listen %s: clients cannot be told to connect to every address of this machine", s)
	case l.Host == "":
		return l, nil
	}
	if err := checkHost(l.Host); err != nil {
		return l, wrong("behind the equals sign stands a host without a port: brokers get ports from --broker-port-base", "--listen %s: %w", s, err)
	}
	return l, nil
}

// parseNodeAddress reads ID=BIND:PORT[=HOST:PORT].
func parseNodeAddress(s string) (id int32, a proxy.NodeAddress, err error) {
	const form = "write it as 7=127.0.0.1:9107, or as 7=0.0.0.0:9107=HOST:PORT"
	number, rest, _ := strings.Cut(s, "=")
	a.Bind, a.Advertise, _ = strings.Cut(rest, "=")
	if id, err = parseNodeID(number); err != nil {
		return 0, a, wrong(form, "--node-address %s: %w", s, err)
	}
	bindHost, _, err := splitAddress(a.Bind, 1)
	if err != nil {
		return 0, a, wrong(form, "--node-address %s: %w", s, err)
	}
	if a.Advertise == "" {
		if isWildcard(bindHost) {
			return 0, a, wrong(fmt.Sprintf("add the address under which clients reach this node: --node-address %s=HOST:PORT", s),
				"--node-address %s: clients cannot be told to connect to every address of this machine", s)
		}
		return id, a, nil
	}
	host, _, err := splitAddress(a.Advertise, 1)
	if err == nil {
		err = checkHost(host)
	}
	if err != nil {
		return 0, a, wrong(form, "--node-address %s: %w", s, err)
	}
	return id, a, nil
}

func parseNodeID(s string) (int32, error) {
	id, err := strconv.ParseInt(s, 10, 32)
	if err != nil || id < 0 {
		return 0, fmt.Errorf("%q is no node id: these are numbers from 0 to 2147483647", s)
	}
	return int32(id), nil
}

// parseNodeIDs reads ids and ranges of ids, such as 0-5.
func parseNodeIDs(ranges []string) ([]int32, error) {
	const form = "write ids and ranges: --expect-nodes 0-5,1001-1003"
	var ids []int32
	for _, s := range ranges {
		first, last, isRange := strings.Cut(s, "-")
		if !isRange {
			last = first
		}
		low, err := parseNodeID(first)
		if err != nil {
			return nil, wrong(form, "--expect-nodes %s: %w", s, err)
		}
		high, err := parseNodeID(last)
		switch {
		case err != nil:
			return nil, wrong(form, "--expect-nodes %s: %w", s, err)
		case high < low:
			return nil, wrong(form, "--expect-nodes %s: the range ends before it begins", s)
		case int(high)-int(low) >= maxExpected-len(ids):
			return nil, wrong("name the nodes that the cluster has", "--expect-nodes %s: more than %d nodes", s, maxExpected)
		}
		for id := int(low); id <= int(high); id++ {
			ids = append(ids, int32(id))
		}
	}
	return ids, nil
}

// splitAddress reads HOST:PORT, whose host may be empty. A least port of 0
// allows the port to be chosen by the system.
func splitAddress(s string, least int) (host string, port int, err error) {
	host, number, err := net.SplitHostPort(s)
	if err != nil {
		return "", 0, fmt.Errorf("%q is no HOST:PORT", s)
	}
	port, err = strconv.Atoi(number)
	if err != nil || port < least || port > maxPort {
		return "", 0, fmt.Errorf("%q is no port between %d and %d", number, least, maxPort)
	}
	return host, port, nil
}

// checkHost refuses what clients could not connect to.
func checkHost(host string) error {
	if _, err := netip.ParseAddr(host); err != nil && (host == "" || strings.ContainsAny(host, ":/=[] ")) {
		return fmt.Errorf("%q is no host", host)
	}
	if isWildcard(host) {
		return fmt.Errorf("%s means every address of a machine: clients need one of them", host)
	}
	return nil
}

// isWildcard reports whether listening on host means on every address.
func isWildcard(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "" || err == nil && ip.Unmap().IsUnspecified()
}

// isLoopback reports whether nobody outside this machine reaches host.
func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && ip.Unmap().IsLoopback()
}

func bindHost(l proxy.Listen) string {
	host, _, _ := splitAddress(l.Bind, 0)
	return host
}

// parseGateways reads the URLs: of gateways, or of brokers to dial from here. A
// comma separates brokers as it does URLs, so what has no scheme continues a
// list of brokers.
func parseGateways(list []string) (gateways []*url.URL, brokers []string, err error) {
	direct := false
	for _, s := range values(strings.Split(strings.Join(list, ","), ",")) {
		hosts, isTCP := strings.CutPrefix(s, "tcp://")
		if isTCP || direct && !strings.Contains(s, "://") {
			direct = true
			brokers = append(brokers, strings.TrimSuffix(hosts, "/"))
			continue
		}
		direct = false
		u, err := parseGateway(s)
		if err != nil {
			return nil, nil, err
		}
		gateways = append(gateways, u)
	}
	switch {
	case len(gateways) == 0 && len(brokers) == 0:
		return nil, nil, wrong("give the gateway's, as in --gateway-url https://kafka.example.com, or tcp://BROKER:PORT for no tunnel", "--gateway-url is missing")
	case len(gateways) > 0 && len(brokers) > 0:
		return nil, nil, wrong("start one agent for each", "--gateway-url %s and tcp://%s: an agent goes through gateways or to brokers, not both",
			gateways[0], strings.Join(brokers, ","))
	}
	return gateways, brokers, nil
}

func parseGateway(s string) (*url.URL, error) {
	const form = "write it as https://kafka.example.com, https://kafka.example.com:8443/prefix or tcp://kafka-0:9092"
	u, err := url.Parse(s)
	if err != nil {
		return nil, wrong(form, "--gateway-url %s: it is no URL", s)
	}
	switch {
	case u.Scheme == "http":
		return nil, wrong(fmt.Sprintf("is it https://%s? A gateway without TLS is reached through the ingress that ends TLS for it", strings.TrimSuffix(u.Host, ":80")),
			"--gateway-url %s: tokens and records would go unencrypted", s)
	case u.Scheme != "https", u.Hostname() == "", u.Opaque != "":
		return nil, wrong(form, "--gateway-url %s: it is no https:// URL", s)
	case u.User != nil:
		return nil, wrong("put the token into a file: --token-file", "--gateway-url %s: a URL is no place for secrets", s)
	case u.RawQuery != "" || u.Fragment != "":
		return nil, wrong(form, "--gateway-url %s: it has a query or a fragment", s)
	}
	if port := u.Port(); port != "" || strings.HasSuffix(u.Host, ":") {
		if _, _, err := splitAddress("host:"+port, 1); err != nil {
			return nil, wrong(form, "--gateway-url %s: %w", s, err)
		}
	}
	return u, nil
}

// socket is a listener that is going to be opened, and what asked for it.
type socket struct {
	host string
	port int
	why  string
}

// overlaps reports whether not both can be opened.
func (s socket) overlaps(t socket) bool {
	return s.port == t.port && s.port != 0 && sameHost(s.host, t.host)
}

// clash returns the first of others that cannot be opened beside s.
func (s socket) clash(others []socket) (t socket, found bool) {
	i := slices.IndexFunc(others, s.overlaps)
	if i < 0 {
		return socket{}, false
	}
	return others[i], true
}

func sameHost(a, b string) bool {
	if isWildcard(a) || isWildcard(b) {
		return true
	}
	return canonicalHost(a) == canonicalHost(b)
}

func canonicalHost(host string) string {
	host = strings.ToLower(host)
	if host == "localhost" {
		return "127.0.0.1"
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.Unmap().String()
	}
	return host
}
