package tunnel

import "net/netip"

// sources count connections by where they come from. Whoever floods us from one source makes room for itself, and not at the cost of agents far
// away, which are slower than it is.
type sources map[netip.Prefix]int

// sourceOf is what of an address its holder has not chosen: an IPv4 address, or the network of an IPv6 one. What is no address is all one source.
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

func (s sources) leave(source netip.Prefix) {
	if s[source]--; s[source] == 0 {
		delete(s, source)
	}
}

// most is how many come from the source from which most do.
func (s sources) most() (n int) {
	for _, k := range s {
		n = max(n, k)
	}
	return n
}
