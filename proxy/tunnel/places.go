package tunnel

import "net/netip"

// places count connections by where they come from. Whoever floods us from one place makes room for itself, and not at the cost of agents far
// away, which are slower than it is.
type places map[netip.Prefix]int

// placeOf is what of an address its holder has not chosen: an IPv4 address, or the network of an IPv6 one. What is no address is all one place.
func placeOf(addr string) netip.Prefix {
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

func (p places) leave(place netip.Prefix) {
	if p[place]--; p[place] == 0 {
		delete(p, place)
	}
}

// most is how many come from the place from which most do.
func (p places) most() (n int) {
	for _, k := range p {
		n = max(n, k)
	}
	return n
}
