package tunnel

import (
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"
	"net"

	"github.com/quic-go/quic-go"
)

// packetSize is the IP payload, less UDP's header, that QUIC begins with: the least that RFC 9000 §14 allows. An MTU of 1228 carries it over
// IPv4, one of 1248 over IPv6. QUIC finds out by itself when larger packets get through.
const packetSize = 1200

// MinResetKey is how many bytes a Server.ResetKey has at least.
const MinResetKey = 32

// quicTransport is the gateway's end of QUIC on udp.
func (s *Server) quicTransport(udp net.PacketConn) (*quic.Transport, error) {
	tr := &quic.Transport{Conn: steady(udp)}
	if s.ResetKey == nil {
		return tr, nil
	}
	if len(s.ResetKey) < MinResetKey {
		return nil, fmt.Errorf("a ResetKey of %d bytes, want %d", len(s.ResetKey), MinResetKey)
	}
	tr.StatelessResetKey = (*quic.StatelessResetKey)(derive(s.ResetKey, "culvert quic stateless reset"))
	tr.TokenGeneratorKey = (*quic.TokenGeneratorKey)(derive(s.ResetKey, "culvert quic address token"))
	return tr, nil
}

// derive makes a key for one use of a secret that has several.
func derive(secret []byte, use string) []byte {
	key, err := hkdf.Key(sha256.New, secret, nil, use, 32)
	if err != nil {
		panic(err) // 32 bytes are not too many
	}
	return key
}
