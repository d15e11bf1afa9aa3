package tunnel

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"

	"github.com/quic-go/quic-go"
)

// A udpSocket is a UDP socket that carriers share. A load balancer that does not understand QUIC
// sends everything from one socket to one gateway, so leaving a gateway takes a new socket.
type udpSocket struct {
	tr *quic.Transport

	// Guarded by udpSockets.mu.
	users int // carriers and dials in progress
	left  bool
}

// udpSockets opens sockets as needed, and closes a socket that was left when its last user is gone.
type udpSockets struct {
	single  atomic.Bool // see tolerantUDP
	mu      sync.Mutex
	current *udpSocket // for new carriers; nil until one is needed
}

// use returns the socket for a new carrier, and counts that carrier as its user.
func (u *udpSockets) use() (*udpSocket, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.current == nil {
		udp, err := net.ListenUDP("udp", nil)
		if err != nil {
			return nil, err
		}
		u.current = &udpSocket{tr: &quic.Transport{Conn: tolerant(udp, &u.single)}}
	}
	u.current.users++
	return u.current, nil
}

// leave makes new carriers use another socket than s, or than the current one if s is nil.
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

// free is called when a carrier has ended or a dial has failed.
func (u *udpSockets) free(s *udpSocket) {
	u.mu.Lock()
	defer u.mu.Unlock()
	s.users--
	s.closeUnused()
}

// closeUnused closes the socket if it was left and has no users. The caller holds udpSockets.mu.
func (s *udpSocket) closeUnused() error {
	if !s.left || s.users > 0 {
		return nil
	}
	return errors.Join(s.tr.Close(), s.tr.Conn.Close())
}
