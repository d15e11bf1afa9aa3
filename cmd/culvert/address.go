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
	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/remedies"
)

const (
	maxPort = 65535
	// maxExpected bounds --expect-nodes, for each node opens a listener at start. A range with a
	// typo must not open thousands.
	maxExpected = 1024
	// assumedNodes is how many node ids from 0 have their ports kept free of our other listeners,
	// if --expect-nodes does not say which ids exist. Clusters are seldom larger, and a listener in
	// the way of a node would be found only when that node first appears.
	assumedNodes = 100
)

// parseListen reads BIND[=HOST]. BIND may have port 0: the system then chooses one. HOST is needed
// if BIND is a wildcard: responses must name an address that clients can connect to. If brokers have
// names, responses name those, and HOST may have a port.
func parseListen(s string, names proxy.BrokerNames) (proxy.Listen, error) {
	bind, host, _ := strings.Cut(s, "=")
	bindHost, _, err := splitAddress(bind, 0)
	if err != nil {
		return proxy.Listen{}, wrong("write it as 127.0.0.1:9092, or as 0.0.0.0:9092=HOST", "--listen %s: %w", s, err)
	}
	if !names.IsZero() {
		return parseNamedListen(s, bind, host, names)
	}
	l := proxy.Listen{Bind: bind, Host: strings.Trim(host, "[]")}
	switch {
	case isWildcard(bindHost) && l.Host == "":
		return l, wrong(fmt.Sprintf("add the host name or IP address at which clients reach this agent: --listen %s=HOST", bind),
			"--listen %s: clients cannot connect to a wildcard address", s)
	case l.Host == "":
		return l, nil
	}
	if err := checkHost(l.Host); err != nil {
		return l, wrong("write a host without a port after the equals sign: ports come from --broker-port-base", "--listen %s: %w", s, err)
	}
	return l, nil
}

// parseNamedListen is parseListen for an agent whose brokers have names: s is bind, or
// bind=HOST[:PORT].
func parseNamedListen(s, bind, host string, names proxy.BrokerNames) (proxy.Listen, error) {
	l := proxy.Listen{Bind: bind, Host: strings.Trim(host, "[]")}
	if name, port, err := splitAddress(host, 1); err == nil {
		l.Host, l.Port = name, int32(port)
	}
	if l.Host == "" {
		return l, nil // the certificate must list a name for the bootstrap
	}
	if err := checkHost(l.Host); err != nil {
		return l, wrong("write it as 0.0.0.0:9092=kafka.example.com, or as 0.0.0.0:9092=kafka.example.com:443 if clients connect to another port", "--listen %s: %w", s, err)
	}
	if id, isBroker := names.NodeID(l.Host); isBroker {
		return l, wrong("choose another name for the bootstrap address, which leads to any broker", "--listen %s: %s is the name of broker %d (--broker-names %s)", s, l.Host, id, names)
	}
	return l, nil
}

// parseNodeAddress reads ID=BIND:PORT[=HOST:PORT]. The second address is what clients are told, if
// something between them and the agent maps ports, such as Docker.
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
			return 0, a, wrong(fmt.Sprintf("add the address at which clients reach this node: --node-address %s=HOST:PORT", s),
				"--node-address %s: clients cannot connect to a wildcard address", s)
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

// parseNodeID reads a node id. Kafka uses negative ones for "no node", and clients for bootstrap
// addresses.
func parseNodeID(s string) (int32, error) {
	id, err := strconv.ParseInt(s, 10, 32)
	if err != nil || id < 0 {
		return 0, fmt.Errorf("%q is not a node id: want a number from 0 to 2147483647", s)
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
			return nil, wrong("list only the nodes that the cluster has", "--expect-nodes %s: more than %d nodes", s, maxExpected)
		}
		for id := int(low); id <= int(high); id++ {
			ids = append(ids, int32(id))
		}
	}
	return ids, nil
}

// parseGateways reads the values of --gateway-url: URLs of gateways, or tcp:// and brokers to dial
// without one. A comma separates brokers as well as URLs, so a value without a scheme continues the
// list of brokers before it.
func parseGateways(list []string) (gateways []*url.URL, brokers []string, err error) {
	direct := false
	for _, s := range nonBlank(strings.Split(strings.Join(list, ","), ",")) {
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
		return nil, nil, wrong("give the gateway's URL: --gateway-url https://kafka.example.com; "+
			"or, to use no gateway, --gateway-url tcp://BROKER:PORT",
			"--gateway-url is missing")
	case len(gateways) > 0 && len(brokers) > 0:
		return nil, nil, wrong("start one agent for each",
			"--gateway-url %s and tcp://%s: an agent connects to gateways or to brokers, not to both",
			gateways[0], strings.Join(brokers, ","))
	}
	return gateways, brokers, nil
}

// parseGateway reads the URL of one gateway. http:// is refused although tunnel.Dialer takes it:
// whoever is on the path could read the token and every record. On loopback nobody is, and what
// forwards from there has its own TLS: kubectl port-forward, ssh -L. A path is a prefix, for
// ingresses that route by it.
func parseGateway(s string) (*url.URL, error) {
	const form = "write it as https://kafka.example.com, https://kafka.example.com:8443/prefix or tcp://kafka-0:9092"
	if scheme, rest, isURL := strings.Cut(s, "://"); isURL {
		end := strings.IndexAny(rest+"/", "/?#")
		if err := remedies.MissingBrackets(scheme+"://", rest[:end], rest[end:]); err != nil {
			return nil, wrong("", "--gateway-url %s: %w", s, err)
		}
	}
	u, err := url.Parse(s)
	if err != nil {
		return nil, wrong(form, "--gateway-url %s: not a URL", s) // err would repeat a password in it
	}
	plain := u.Scheme == "http" && isLoopback(u.Hostname())
	switch {
	case u.Scheme == "http" && u.Hostname() != "" && !plain:
		return nil, wrong("did you mean "+(&url.URL{Scheme: "https", Host: strings.TrimSuffix(u.Host, ":80"), Path: u.Path, RawPath: u.RawPath}).String()+
			"? A gateway without TLS is reached through an ingress that terminates TLS",
			"--gateway-url %s: tokens and records would be sent unencrypted", s)
	case u.Scheme != "https" && !plain, u.Hostname() == "", u.Opaque != "":
		return nil, wrong(form, "--gateway-url %s: not an https:// URL", s)
	case u.User != nil:
		return nil, wrong("put the token into a file and name that with --token-file", "--gateway-url %s: a URL must not contain secrets", s)
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

// splitAddress reads HOST:PORT, whose host may be empty. With a lowest port of 0, the system may
// choose the port.
func splitAddress(s string, lowest int) (host string, port int, err error) {
	if err := remedies.MissingBrackets("", s, ""); err != nil {
		return "", 0, err
	}
	host, number, err := net.SplitHostPort(s)
	if err != nil {
		return "", 0, fmt.Errorf("%q is not HOST:PORT", s)
	}
	port, err = strconv.Atoi(number)
	if err != nil || port < lowest || port > maxPort {
		return "", 0, fmt.Errorf("%q is not a port from %d to %d", number, lowest, maxPort)
	}
	return host, port, nil
}

// bindHost is the host that l binds.
func bindHost(l proxy.Listen) string {
	host, _, _ := splitAddress(l.Bind, 0)
	return host
}

// checkHost refuses hosts that clients could not connect to.
func checkHost(host string) error {
	if _, err := netip.ParseAddr(host); err != nil && (host == "" || strings.ContainsAny(host, ":/=[] ")) {
		return fmt.Errorf("%q is not a host name or an IP address", host)
	}
	if isWildcard(host) {
		return fmt.Errorf("%s is a wildcard address: clients need a single one", host)
	}
	return nil
}

// isWildcard reports whether listening on host means listening on every address.
func isWildcard(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "" || err == nil && ip.Unmap().IsUnspecified()
}

// isLoopback reports whether only this machine can reach host.
func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && ip.Unmap().IsLoopback()
}

// socket is a TCP listener that is about to be opened. Settings that need the same port are refused
// before any is opened: otherwise the error would come late, or never, where the system lets two
// listeners share a port.
type socket struct {
	host string
	port int
	why  string // the setting that asked for it, for an error
}

// overlaps reports whether s and t cannot both be opened.
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

// sameHost reports whether listening on a and on b takes a port of the same address. Names other
// than localhost are not resolved.
func sameHost(a, b string) bool {
	return isWildcard(a) || isWildcard(b) || canonicalHost(a) == canonicalHost(b)
}

// canonicalHost is the same for hosts that are the same address: localhost, 127.0.0.1 and
// ::ffff:127.0.0.1.
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

// parseNetwork reads a network, or a single address.
func parseNetwork(s string) (netip.Prefix, error) {
	if ip, err := netip.ParseAddr(s); err == nil && ip.Zone() == "" {
		ip = ip.Unmap()
		return netip.PrefixFrom(ip, ip.BitLen()), nil
	}
	n, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return n, fmt.Errorf("%q is neither a network nor an IP address", s)
	case n.Addr().Is4In6():
		return n, fmt.Errorf("%q is an IPv4 network in the form of IPv6", s)
	case n != n.Masked():
		return n, hints.New(fmt.Errorf("%s is an address in the network %s", n.Addr(), n.Masked()),
			fmt.Sprintf("write %s for the network, or %s for this address alone", n.Masked(), n.Addr()))
	}
	return n, nil
}
