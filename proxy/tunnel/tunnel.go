// Package tunnel carries byte streams over HTTPS. The agent dials streams with a [Dialer], the
// gateway serves them with a [Server], and both ends hold each stream as a [Conn], which is a
// net.Conn. The package knows nothing about Kafka.
//
// One stream is one HTTP exchange: HTTP/3 extended CONNECT, a WebSocket over HTTP/1.1, or a
// streaming POST. The exchange carries capsules (RFC 9297) in both directions. docs/tunnel.md
// describes the wire format.
//
// The end of a stream is always unambiguous. The capsule FINAL_DATA is a half-close and reads as
// io.EOF. The capsule ERROR is a reset and reads as *[Error], after all bytes that were written
// before it. Any other end of the exchange cuts the stream and reads as [ErrCut].
package tunnel

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/culvert-proxy/culvert/proxy/printable"
	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/exchange"
)

// Version is the version of the wire format, docs/tunnel.md. A gateway serves agents of the same
// major version whose minor version differs by at most one.
const Version = "1.0"

// Path is appended to the path of the gateway's URL. A gateway serves every request path that ends
// in it, because an ingress may strip a prefix or keep it.
const Path = "/culvert"

// The targets that an [Open] can name besides an address.
const (
	TargetBootstrap = "bootstrap" // one of the gateway's bootstrap addresses
	TargetHello     = "hello"     // the gateway itself: it sends its tickets and echoes what it receives
	TargetForward   = "forward/"  // followed by a name: what the gateway calls so
)

// MaxTarget is the longest address in an [Open], in bytes: a host name of 255 bytes, a colon and a
// port.
const MaxTarget = 255 + len(":65535")

// A Ticket lets its holder reach one address. Only gateways issue and verify tickets; the tunnel
// does not look inside.
type Ticket struct {
	ClusterID string `json:"cluster_id"`
	NodeID    int32  `json:"node_id"`
	Address   string `json:"address"`
	Expires   int64  `json:"expires"` // Unix seconds
	MAC       []byte `json:"mac"`
}

// Open is the first message of the dialling end on a stream.
type Open struct {
	Version  string   `json:"version"` // set by the Dialer
	Features []string `json:"features,omitempty"`
	Target   string   `json:"target"` // TargetBootstrap, TargetHello, TargetForward and a name, or host:port
	Ticket   *Ticket  `json:"ticket,omitempty"`
}

// FeatureProbe in [Open.Features] says that the agent's end asks for itself, and not for a client.
// Nobody needs a warning of what becomes of such a stream: who asked knows.
const FeatureProbe = "probe"

// Opened is the gateway's answer to [Open].
type Opened struct {
	Version  string   `json:"version"` // set by the Server
	Features []string `json:"features,omitempty"`
	Gateway  string   `json:"gateway"`            // the gateway's own version
	Instance string   `json:"instance,omitempty"` // another one for each process of a gateway
	// Forwards are the names that may follow TargetForward. Only the answers to a hello and to a
	// forward have them; nil in these is a gateway that knows no forwards.
	Forwards []string `json:"forwards,omitzero"`
	// For the users of the tunnel; the tunnel does not interpret them.
	Reviewed []int16  `json:"reviewed,omitempty"`
	Keys     []string `json:"keys,omitempty"`
}

// Welcome is the gateway's answer to a hello.
type Welcome struct {
	Opened
	Tickets []Ticket
}

// checkVersion returns nil if this end can talk to a peer of version theirs, otherwise an *Error
// that names both versions. One minor version of difference is allowed, so that agents and gateways
// can be upgraded one after the other.
func checkVersion(theirs string) *Error {
	ourMajor, ourMinor, _ := parseVersion(Version)
	major, minor, ok := parseVersion(theirs)
	if ok && major == ourMajor && minor >= ourMinor-1 && minor <= ourMinor+1 {
		return nil
	}
	return &Error{Code: CodeVersion, Message: fmt.Sprintf("this end speaks version %s of the tunnel, plus or minus one minor version; the other end speaks %q", Version, printable.Text(theirs, exchange.MaxWord))}
}

// parseVersion splits a version such as "1.0".
func parseVersion(s string) (major, minor int, ok bool) {
	a, b, _ := strings.Cut(s, ".")
	major, err1 := strconv.Atoi(a)
	minor, err2 := strconv.Atoi(b)
	return major, minor, err1 == nil && err2 == nil && major >= 0 && minor >= 0
}
