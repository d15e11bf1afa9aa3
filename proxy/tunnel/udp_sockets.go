package tunnel

import (
	"errors"
	"net"
	"sync"

	"github.com/quic-go/quic-go"
)

// A udpSocket is a UDP socket, which carriers share. A balancer that knows nothing of QUIC sends all that comes from one socket to one gateway, so
// to leave a gateway takes another socket.
type udpSocket struct {
	tr *quic.Transport

	// Guarded by udpSockets.mu.
	users int // carriers, and dials in progress
	left  bool
}

// udpSockets opens sockets as they are needed, and closes those that were left when nobody uses them.
type udpSockets struct {
	mu      sync.Mutex
	current *udpSocket // for new carriers; nil until it is needed
}

// use returns the socket for new carriers, for one of them.
func (u *udpSockets) use() (*udpSocket, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.current == nil {
		udp, err := net.ListenUDP("udp", nil)
		if err != nil {
			return nil, err
		}
		u.current = &udpSocket{tr: &quic.Transport{Conn: steady(udp)}}
	}
	u.current.users++
	return u.current, nil
}

// leave has new carriers use another socket than s, or than the one that there is if s is nil.
func (u *udpSockets) leave(s *udpSocket) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.current == nil || s != nil && s != u.current {
		return nil
	}
	s, u.current = u.current, nil
	s.left = true
	return s.closeUnused()
}

// free is told that a carrier has ended, or that a dial has failed.
func (u *udpSockets) free(s *udpSocket) {
	u.mu.Lock()
	defer u.mu.Unlock()
	s.users--
	s.closeUnused()
}

// closeUnused closes a socket that was left when nobody uses it. The caller holds udpSockets.mu.
func (s *udpSocket) closeUnused() error {
	if !s.left || s.users > 0 {
		return nil
	}
	return errors.Join(s.tr.Close(), s.tr.Conn.Close())
}
