package tunnel

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// option reads a socket option of a TCP connection.
func option(t *testing.T, c net.Conn, level, name int) int {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var value int
	closed := raw.Control(func(fd uintptr) { value, err = unix.GetsockoptInt(int(fd), level, name) })
	if err := errors.Join(closed, err); err != nil {
		t.Fatal(err)
	}
	return value
}

func TestBothEndsTuneTheirSockets(t *testing.T) {
	for _, kind := range []string{"ws", "h2"} {
		var dialled net.Conn
		var log bytes.Buffer
		var accepted atomic.Pointer[net.TCPConn] // the last one: earlier ones were for hellos
		r := newRig(t, kind, func(r *rig) {
			r.listener = noting{r.listener, &accepted}
			r.dialer.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
			r.dialer.DialContext = func(ctx context.Context, network, addr string) (c net.Conn, err error) {
				dialled, err = new(net.Dialer).DialContext(ctx, network, addr)
				return dialled, err
			}
		})
		r.dial()
		for end, c := range map[string]net.Conn{"agent": dialled, "gateway": accepted.Load()} {
			for _, o := range []struct {
				name      string
				level, of int
				want      int
			}{
				{"TCP_NOTSENT_LOWAT", unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, 128 << 10},
				{"SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
				{"TCP_KEEPIDLE", unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 15},
				{"TCP_KEEPINTVL", unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 15},
				{"TCP_KEEPCNT", unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 3},
				{"TCP_USER_TIMEOUT", unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 0},
				{"TCP_NODELAY", unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
			} {
				if got := option(t, c, o.level, o.of); got != o.want {
					t.Errorf("%s: %s at the %s is %d, want %d", kind, o.name, end, got, o.want)
				}
			}
		}
		r.stop()
		if n := strings.Count(log.String(), "congestion_control="); n != 1 {
			t.Errorf("%s: the congestion control was logged %d times:\n%s", kind, n, log.String())
		}
	}
}

// A noting listener remembers the connection it accepted last.
type noting struct {
	net.Listener
	accepted *atomic.Pointer[net.TCPConn]
}

func (n noting) Accept() (net.Conn, error) {
	c, err := n.Listener.Accept()
	if err == nil {
		n.accepted.Store(c.(*net.TCPConn))
	}
	return c, err
}

// The kernel may lack a congestion control, or forbid it. reno always exists.
func TestTheCongestionControlIsSetWhereTheKernelHasIt(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	raw, _ := ln.(*net.TCPListener).SyscallConn()
	if got := tuneSocket(raw, "reno", notSentLowAt); got != "reno" {
		t.Errorf("in force is %q, want reno", got)
	}
	if got := tuneSocket(raw, "no such thing", notSentLowAt); got != "reno" {
		t.Errorf("in force is %q, want reno as before", got)
	}
}

func TestLoopbackKeepsItsCongestionControl(t *testing.T) {
	for addr, want := range map[string]string{"127.0.0.1:1": "", "[::1]:1": "", "10.0.0.1:1": "bbr", "[fe80::1%eth0]:1": "bbr"} {
		tcp, err := net.ResolveTCPAddr("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if got := congestionTo(tcp); got != want {
			t.Errorf("to %s: %q, want %q", addr, got, want)
		}
	}
}
