package tunnel

import (
	"net"
	"os"
	"syscall"
	"testing"
)

func TestWhichPacketsMayBeLost(t *testing.T) {
	short, long := []byte{0x40}, []byte{0xc0}
	refused := func(errno syscall.Errno) error {
		return &net.OpError{Op: "write", Net: "udp", Err: os.NewSyscallError("sendmsg", errno)}
	}
	for _, test := range []struct {
		name   string
		packet []byte
		err    error
		want   bool
	}{
		{"sent", short, nil, false},
		{"no network", short, refused(syscall.ENETUNREACH), true},
		{"firewall", short, refused(syscall.EPERM), true},
		{"handshake without a network", long, refused(syscall.ENETUNREACH), false},
		{"too large", short, refused(syscall.EMSGSIZE), false},
		{"no segmentation", short, refused(syscall.EIO), false},
		{"closed", short, net.ErrClosed, false},
	} {
		if got := transient(test.packet, test.err); got != test.want {
			t.Errorf("%s: transient = %v, want %v", test.name, got, test.want)
		}
	}
}
