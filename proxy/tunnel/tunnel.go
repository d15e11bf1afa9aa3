// Package tunnel carries byte streams over HTTPS: the agent dials streams with a [Dialer], the gateway serves them with a [Server], and
// both ends hold each stream as a [Conn], a net.Conn. The package knows nothing of Kafka.
//
// One stream is one HTTP exchange (HTTP/3 extended CONNECT, a WebSocket over HTTP/1.1, or a streaming POST), which carries capsules (RFC 9297)
// both ways. docs/tunnel.md is the wire format.
//
// How a stream ends is never a guess. Half-close is the capsule FINAL_DATA and reads as io.EOF; a reset is the capsule ERROR and reads as
// *[Error], behind all bytes that were written before it; whatever else ends an exchange cuts the stream and reads as [ErrCut].
package tunnel

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/culvert-proxy/culvert/proxy/printable"
	"github.com/culvert-proxy/culvert/proxy/tunnel/exchange"
)

// Version is that of the wire format, docs/tunnel.md. A gateway serves agents of the same major version whose minor version differs by at
// most one.
const Version = "1.0"

// Path is appended to the path of the gateway's URL. Gateways serve every request path that ends in it, for an ingress may strip a prefix or
// leave it.
const Path = "/culvert"

// What an [Open] can name besides an address.
const (
	TargetBootstrap = "bootstrap" // one of the gateway's bootstrap addresses
	TargetHello     = "hello"     // the gateway itself: it sends its tickets and echoes
)

// MaxTarget bounds the bytes of an address in an [Open]: a host name of 255, a colon and a port.
const MaxTarget = 255 + len(":65535")

// A Ticket lets its bearer reach one address. Only gateways make and verify them; to the tunnel they are opaque.
type Ticket struct {
	ClusterID string `json:"cluster_id"`
	NodeID    int32  `json:"node_id"`
	Address   string `json:"address"`
	Expires   int64  `json:"expires"` // Unix seconds
	MAC       []byte `json:"mac"`
}

// Open is the first thing that a dialling end says on a stream.
type Open struct {
	Version  string   `json:"version"` // filled in by the Dialer
	Features []string `json:"features,omitempty"`
	Target   string   `json:"target"` // TargetBootstrap, TargetHello or host:port
	Ticket   *Ticket  `json:"ticket,omitempty"`
}

// Opened is a gateway's answer to [Open].
type Opened struct {
	Version  string   `json:"version"` // filled in by the Server
	Features []string `json:"features,omitempty"`
	Gateway  string   `json:"gateway"`            // the gateway's own version
	Reviewed []int16  `json:"reviewed,omitempty"` // numbers that the users of the tunnel understand
}

// checkVersion reports, as an *Error that names both versions, whether a peer of version theirs is beyond what we talk to.
func checkVersion(theirs string) *Error {
	ourMajor, ourMinor, _ := parseVersion(Version)
	major, minor, ok := parseVersion(theirs)
	if ok && major == ourMajor && minor >= ourMinor-1 && minor <= ourMinor+1 {
		return nil
	}
	return &Error{Code: CodeVersion, Message: fmt.Sprintf("this end speaks version %s of the tunnel and one minor version around it, the other end %q", Version, printable.Text(theirs, exchange.MaxWord))}
}

func parseVersion(s string) (major, minor int, ok bool) {
	a, b, _ := strings.Cut(s, ".")
	major, err1 := strconv.Atoi(a)
	minor, err2 := strconv.Atoi(b)
	return major, minor, err1 == nil && err2 == nil && major >= 0 && minor >= 0
}
