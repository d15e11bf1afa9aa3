package tunnel

import (
	"log/slog"
	"net"
	"sync"
	"time"
)

// keepAlive detects dead peers on connections with nothing in flight. Our KEEPALIVEs do so sooner,
// but not while back-pressure keeps us from reading.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 15 * time.Second, Count: 3}

const (
	// notSentLowAt is how many unsent bytes the kernel may buffer. More is no faster (ws over
	// loopback, 64 KiB writes: 1.09 and 1.11 times the rate without the option, up and down), and
	// everything urgent queues behind them: at a round trip of 50 ms, a ping beside a bulk stream
	// on one HTTP/2 connection took 105 ms, and 250 to 320 ms without the option.
	notSentLowAt = 128 << 10

	// farCongestion is the congestion control to try for peers on other machines. At 0.1 % loss and
	// 20 ms, BBR carries 11 MB/s where CUBIC carries 2.
	farCongestion = "bbr"
)

// A tuner sets the socket options for tunnels. It logs the result once.
//
// It does not set TCP_USER_TIMEOUT, although that would detect a dead peer sooner than the kernel's
// quarter of an hour. Linux also counts the time in which the peer's window is closed, even if the
// peer answers probes. Measured on 6.18 with 2 s: a connection whose receiver does not read dies
// after 2.5 s, and lives on without the option. A consumer that is paused for an hour is legal. Our
// KEEPALIVEs detect dead peers.
type tuner struct{ said sync.Once }

// tune sets the options on c. It ignores errors, since every option is an optimization, and
// connections that are not TCP, as in tests.
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

// congestionTo returns the congestion control to try for a peer, "" to keep the system's. Loopback
// loses no packets, and BBR's pacing costs throughput there: ws reached 0.91 and 0.95 of CUBIC's
// rate, 0.79 and 0.81 with notSentLowAt.
func congestionTo(peer net.Addr) string {
	if tcp, ok := peer.(*net.TCPAddr); ok && tcp.IP.IsLoopback() {
		return ""
	}
	return farCongestion
}
