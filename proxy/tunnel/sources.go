package tunnel

import "net/netip"

// sources count connections by source address. When there are too many, a connection of the most
// frequent source is closed, so that a flood from one place displaces its own connections and not
// those of distant agents, which take longer to authenticate.
type sources map[netip.Prefix]int

// sourceOf returns the part of an address that its holder cannot vary: an IPv4 address, or the /64
// network of an IPv6 address. Everything that does not parse counts as one source.
func sourceOf(addr string) netip.Prefix {
	a, err := netip.ParseAddrPort(addr)
	if err != nil {
		return netip.Prefix{}
	}
	ip, bits := a.Addr().Unmap().WithZone(""), 64
	if ip.Is4() {
		bits = 32
	}
	p, _ := ip.Prefix(bits)
	return p
}

// leave takes one connection off a source.
func (s sources) leave(source netip.Prefix) {
	if s[source]--; s[source] == 0 {
		delete(s, source)
	}
}

// most returns the number of connections of the most frequent source.
func (s sources) most() (n int) {
	for _, k := range s {
		n = max(n, k)
	}
	return n
}
