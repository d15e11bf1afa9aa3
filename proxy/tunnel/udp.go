package tunnel

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"syscall"

	"github.com/quic-go/quic-go"

	"github.com/culvert-proxy/culvert/proxy/tunnel/exchange"
)

// packetSize is the IP payload, less UDP's header, that QUIC begins with: the least that RFC 9000 §14 allows. An MTU of 1228 carries it over
// IPv4, one of 1248 over IPv6. QUIC finds out by itself when larger packets get through.
const packetSize = 1200

// MinResetKey is how many bytes a Server.ResetKey has at least.
const MinResetKey = 32

// quicTransport is the gateway's end of QUIC on udp. resetKey may be nil.
func quicTransport(udp net.PacketConn, resetKey []byte) (*quic.Transport, error) {
	tr := &quic.Transport{Conn: steady(udp)}
	if resetKey == nil {
		return tr, nil
	}
	if len(resetKey) < MinResetKey {
		return nil, fmt.Errorf("a ResetKey of %d bytes, want %d", len(resetKey), MinResetKey)
	}
	tr.StatelessResetKey = (*quic.StatelessResetKey)(derive(resetKey, "culvert quic stateless reset"))
	tr.TokenGeneratorKey = (*quic.TokenGeneratorKey)(derive(resetKey, "culvert quic address token"))
	return tr, nil
}

const (
	// wantedBuffer is what quic-go asks the kernel for.
	wantedBuffer = 7 << 20

	// enoughBuffer is what it is content with: it takes the kernel's word, which on Linux is twice the truth.
	enoughBuffer = wantedBuffer / 2
)

// A bufferReport tells, once, how large the buffers of a UDP socket have become. What comes while they are full is lost: QUIC then sends less.
type bufferReport struct{ once sync.Once }

// tell is to be called when quic-go has the socket. hook may be nil.
func (r *bufferReport) tell(udp net.PacketConn, log *slog.Logger, hook func(receive, send int)) {
	r.once.Do(func() {
		c, ok := udp.(syscall.Conn)
		if !ok {
			return
		}
		raw, err := c.SyscallConn()
		if err != nil {
			return
		}
		receive, send, ok := bufferSizes(raw)
		if !ok {
			return
		}
		if hook != nil {
			hook(receive, send)
		}
		if min(receive, send) < enoughBuffer {
			log.Info("UDP buffers are smaller than QUIC wants them", "receive_kib", receive>>10, "send_kib", send>>10,
				"wanted_kib", wantedBuffer>>10, "hint", "sysctl -w net.core.rmem_max=7500000 net.core.wmem_max=7500000")
		}
	})
}

// handshake dials a QUIC connection, and gives up when the network says that UDP does not get there: by ICMP, or at this machine's own door.
// tr's socket is told of no ICMP, for it is connected to nobody, and has to be, so that connections survive a change of address.
func handshake(ctx context.Context, tr *quic.Transport, addr *net.UDPAddr, cfg *tls.Config, q *quic.Config) (*quic.Conn, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel(nil)
	asking.Go(func() {
		if err := noUDP(ctx, addr); err != nil {
			cancel(err)
		}
	})
	c, err := tr.Dial(ctx, addr, cfg, q)
	switch {
	case err == nil:
		return c, nil
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	}
	return nil, fmt.Errorf("QUIC handshake: %w", err)
}

// noUDP waits for an answer that UDP does not get to addr, until ctx is done. It sends one byte, which is no QUIC and which nobody answers.
func noUDP(ctx context.Context, addr *net.UDPAddr) error {
	c, err := net.DialUDP("udp", nil, addr)
	if err != nil {
		return nil // QUIC's socket will find out what of this concerns it
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.SetReadDeadline(aLongTimeAgo) })
	defer stop()
	_, err = c.Write([]byte{0})
	if err == nil {
		_, err = c.Read(make([]byte, 1))
	}
	if err == nil || exchange.IsTimeout(err) {
		return nil
	}
	return fmt.Errorf("nothing takes UDP there: %w", err)
}

// derive makes a key for one use of a secret that has several.
func derive(secret []byte, use string) []byte {
	key, err := hkdf.Key(sha256.New, secret, nil, use, 32)
	if err != nil {
		panic(err) // 32 bytes are not too many
	}
	return key
}
