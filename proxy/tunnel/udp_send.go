package tunnel

import (
	"errors"
	"net"
	"slices"
	"syscall"

	"github.com/quic-go/quic-go"
)

// A steadyUDP is a UDP socket that loses packets which the system does not take just now, as a network would. quic-go ends a connection at the
// first error of a write: but a laptop that changes from one network to another has none in between, and a firewall whose table of connections
// is full refuses packets here and there. QUIC sends again what was lost, and sees for itself when nothing comes back.
//
// Packets of handshakes fail as ever, so that a dial without a network need not wait to learn of it.
type steadyUDP struct{ *net.UDPConn }

var _ quic.OOBCapablePacketConn = steadyUDP{}

func (c steadyUDP) WriteMsgUDP(b, oob []byte, addr *net.UDPAddr) (n, oobn int, err error) {
	n, oobn, err = c.UDPConn.WriteMsgUDP(b, oob, addr)
	if passing(b, err) {
		return len(b), len(oob), nil
	}
	return n, oobn, err
}

// passing reports whether a packet of an open connection was refused for a reason that may pass. A size that does not fit and a network card
// that cannot segment, which quic-go wants to know of, are none.
func passing(packet []byte, err error) bool {
	const longHeader = 0x80 // RFC 9000 §17.2
	if err == nil || len(packet) == 0 || packet[0]&longHeader != 0 {
		return false
	}
	return slices.ContainsFunc([]error{
		syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.ENETDOWN, syscall.EADDRNOTAVAIL, syscall.EPERM, syscall.ENOBUFS,
	}, func(e error) bool { return errors.Is(err, e) })
}

// steady returns the socket for quic-go: as it is, where it is none of the system's.
func steady(udp net.PacketConn) net.PacketConn {
	if c, ok := udp.(*net.UDPConn); ok {
		return steadyUDP{c}
	}
	return udp
}
