package tunnel

import (
	"log/slog"
	"net"
	"sync"
	"time"
)

// keepAlive finds out about peers that are gone where nothing is in flight. Our KEEPALIVEs do so sooner, but not where back-pressure keeps
// us from reading.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 15 * time.Second, Count: 3}

const (
	// notSentLowAt is how much the kernel holds that it could not send yet. More is no faster (ws over loopback, 64 KiB writes: 1.09 and 1.11 of
	// the rate without, up and down), and what is urgent stands behind it: at a round trip of 50 ms, a ping beside a bulk stream on one
	// HTTP/2 connection took 105 ms, and 250 to 320 without.
	notSentLowAt = 128 << 10

	// farCongestion is what connections beyond this machine try for. At 0.1 % loss and 20 ms it carries 11 MB/s, where CUBIC carries 2.
	farCongestion = "bbr"
)

// A tuner sets the options of sockets that carry tunnels. It says once what became of that.
//
// TCP_USER_TIMEOUT is not among them, though it would find a dead peer sooner than the kernel's quarter of an hour: Linux counts the time in
// which the peer's window is closed too, however well the peer answers probes. Measured on 6.18 with 2 s: a receiver that does not read loses
// its connection after 2.5 s, without the option it lives on. A consumer that is paused for an hour is legal. Peers are found dead by
// KEEPALIVEs.
type tuner struct{ said sync.Once }

func (t *tuner) tune(c net.Conn, log *slog.Logger) {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return
	}
	tcp.SetKeepAliveConfig(keepAlive)
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	congestion := tuneSocket(raw, congestionTo(tcp.RemoteAddr()), notSentLowAt)
	t.said.Do(func() {
		log.Debug("TCP carries the tunnel", "peer", tcp.RemoteAddr(), "congestion_control", congestion)
	})
}

// congestionTo is the congestion control to try for, "" for none in particular. Loopback loses nothing, and
// BBR's pacing costs it: ws ran at 0.91 and 0.95 of CUBIC's rate, 0.79 and 0.81 with notSentLowAt.
func congestionTo(peer net.Addr) string {
	if tcp, ok := peer.(*net.TCPAddr); ok && tcp.IP.IsLoopback() {
		return ""
	}
	return farCongestion
}
