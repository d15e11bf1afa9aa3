package tunnel

import (
	"errors"
	"net"
	"slices"
	"sync/atomic"
	"syscall"

	"github.com/quic-go/quic-go"
)

// A tolerantUDP is a UDP socket that drops a packet when the system cannot send it at the moment,
// as a network would. quic-go closes a connection at the first write error. But a laptop that moves
// from one network to another has no network in between, and a firewall with a full connection
// table rejects packets now and then. QUIC retransmits what is lost, and notices by itself when
// nothing comes back.
//
// Handshake packets still fail with an error, so that a dial without a network fails at once.
type tolerantUDP struct {
	*net.UDPConn
	single *atomic.Bool // send each packet in a system call of its own; nil means false
}

var _ quic.OOBCapablePacketConn = tolerantUDP{}

// WriteMsgUDP is what quic-go calls to send packets: several at once if the control messages in oob
// say how long each is.
func (c tolerantUDP) WriteMsgUDP(b, oob []byte, addr *net.UDPAddr) (n, oobn int, err error) {
	if c.single == nil || !c.single.Load() {
		return c.send(b, oob, addr)
	}
	size, rest := segments(oob)
	if size == 0 {
		return c.send(b, oob, addr)
	}
	for packet := range slices.Chunk(b, size) {
		if _, _, err := c.send(packet, rest, addr); err != nil {
			return n, 0, err
		}
		n += len(packet)
	}
	return n, len(oob), nil
}

// send sends what goes to the system in one call.
func (c tolerantUDP) send(b, oob []byte, addr *net.UDPAddr) (n, oobn int, err error) {
	n, oobn, err = c.UDPConn.WriteMsgUDP(b, oob, addr)
	if transient(b, err) {
		return len(b), len(oob), nil
	}
	return n, oobn, err
}

// transient reports whether a packet of an established connection was rejected for a reason that
// may pass. EMSGSIZE, and the error of a network card without segmentation offload, are not among
// them: quic-go needs to see those.
func transient(packet []byte, err error) bool {
	const longHeader = 0x80 // RFC 9000 §17.2
	if err == nil || len(packet) == 0 || packet[0]&longHeader != 0 {
		return false
	}
	return slices.ContainsFunc([]error{
		syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.ENETDOWN, syscall.EADDRNOTAVAIL, syscall.EPERM, syscall.ENOBUFS,
	}, func(e error) bool { return errors.Is(err, e) })
}

// tolerant returns udp as quic-go should use it. A packet connection that is not a system socket is
// returned as it is. single may be nil.
func tolerant(udp net.PacketConn, single *atomic.Bool) net.PacketConn {
	if c, ok := udp.(*net.UDPConn); ok {
		return receiving(tolerantUDP{c, single})
	}
	return udp
}
