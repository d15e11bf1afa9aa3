package netns

import (
	"errors"
	"io"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// DropAt makes an address of this machine drop all that is sent to it, without an error: the queue
// of its listener is full, and nobody reads its datagrams. Close ends that.
func DropAt(address string) (io.Closer, error) {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	d := &dropper{tcp: -1}
	if d.tcp, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return nil, err
	}
	err = errors.Join(
		unix.SetsockoptInt(d.tcp, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.Bind(d.tcp, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}),
		unix.Listen(d.tcp, 0))
	if err == nil {
		d.udp, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
	}
	if err == nil {
		var c net.Conn
		c, err = net.Dial("tcp", address) // fills the queue
		d.queued = c
	}
	if err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

type dropper struct {
	tcp    int
	udp    *net.UDPConn
	queued net.Conn
}

func (d *dropper) Close() error {
	if d.tcp >= 0 {
		unix.Close(d.tcp)
		d.tcp = -1
	}
	if d.udp != nil {
		d.udp.Close()
	}
	if d.queued != nil {
		d.queued.Close()
	}
	return nil
}
