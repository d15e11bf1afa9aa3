package main

import (
	"fmt"
	"net"
	"net/netip"
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
