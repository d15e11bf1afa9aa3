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

	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/exchange"
)

// packetSize is the size of QUIC's first packets, in bytes of UDP payload: the minimum of RFC 9000
// §14. A path needs an MTU of 1228 for it over IPv4, or 1248 over IPv6. QUIC discovers larger sizes
// by itself.
const packetSize = 1200

// MinResetKey is the minimum length of a Server.ResetKey, in bytes.
const MinResetKey = 32

// quicTransport returns the gateway's QUIC transport on udp. resetKey may be nil.
func quicTransport(udp net.PacketConn, resetKey []byte) (*quic.Transport, error) {
	tr := &quic.Transport{Conn: tolerant(udp, nil)}
	if resetKey == nil {
		return tr, nil
	}
	if len(resetKey) < MinResetKey {
		return nil, fmt.Errorf("ResetKey has %d bytes, want at least %d", len(resetKey), MinResetKey)
	}
	tr.StatelessResetKey = (*quic.StatelessResetKey)(derive(resetKey, "culvert quic stateless reset"))
	tr.TokenGeneratorKey = (*quic.TokenGeneratorKey)(derive(resetKey, "culvert quic address token"))
	return tr, nil
}

const (
	// wantedBuffer is the buffer size that quic-go requests from the kernel, in bytes.
	wantedBuffer = 7 << 20

	// enoughBuffer is the size that quic-go accepts without a warning: it reads the kernel's
	// figure, which on Linux is twice the payload.
	enoughBuffer = wantedBuffer / 2
)

// A bufferReport reports, once, the sizes of a UDP socket's buffers. Packets that arrive at a full
// buffer are lost, and QUIC then slows down.
type bufferReport struct{ once sync.Once }

// tell reports the sizes. Call it after quic-go has set them. hook may be nil.
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
			log.Info("UDP buffers are smaller than QUIC needs", "receive_kib", receive>>10, "send_kib", send>>10,
				"wanted_kib", wantedBuffer>>10, "hint", "sysctl -w net.core.rmem_max=7500000 net.core.wmem_max=7500000")
		}
	})
}

// handshake dials a QUIC connection. It gives up early if ICMP, or this machine's own network,
// reports that UDP does not get through. The socket of tr receives no ICMP errors, because it is
// not connected; it must not be, so that connections survive a change of address.
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

// noUDP waits until ctx is done for a report that UDP does not reach addr, and returns it as an
// error. For that it sends one byte from a connected socket. The byte is not valid QUIC, so nobody
// answers it.
func noUDP(ctx context.Context, addr *net.UDPAddr) error {
	c, err := net.DialUDP("udp", nil, addr)
	if err != nil {
		return nil // the QUIC socket will meet the same error if it matters
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
	return fmt.Errorf("UDP does not get through: %w", err)
}

// derive returns a key for one use of a secret that has several uses.
func derive(secret []byte, use string) []byte {
	key, err := hkdf.Key(sha256.New, secret, nil, use, 32)
	if err != nil {
		panic(err) // impossible: 32 bytes are within HKDF's limit
	}
	return key
}
