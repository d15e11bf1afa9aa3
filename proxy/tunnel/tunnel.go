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
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/culvert-proxy/culvert/proxy/printable"
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

// The transports, as they are named in settings, logs and metrics.
const (
	TransportAuto = "auto"
	TransportH3   = "h3"
	TransportWS   = "ws"
	TransportH2   = "h2"
)

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

// Code says why a stream was reset.
type Code string

// The codes of an [Error].
const (
	CodeVersion  Code = "version"  // the two ends speak different versions of the wire format
	CodeProtocol Code = "protocol" // the other end broke the wire format
	CodeTarget   Code = "target"   // the gateway may not dial what Open names
	CodeTicket   Code = "ticket"   // the ticket is expired, or not for what Open names
	CodeDial     Code = "dial"     // the target could not be reached
	CodeBroker   Code = "broker"   // the target reset or cut its connection
	CodeClient   Code = "client"   // the dialling end's client reset or cut its connection
	CodeDraining Code = "draining" // this gateway takes no new streams, another may
	CodeLimit    Code = "limit"    // a limit of the gateway is reached
	CodeInternal Code = "internal" // whatever else; the message says what
)

// Error is the last capsule of a stream that was reset. Read returns it as *Error, whichever end sent it.
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
}

func (e *Error) Error() string {
	e = e.bounded()
	return string(e.Code) + ": " + e.Message
}

const (
	// maxMessage bounds the text of an [Error], whoever wrote it: much of it repeats what a peer said. In JSON it can grow sixfold and still fits
	// into a capsule.
	maxMessage = printable.Sentence
	// maxWord bounds codes and versions.
	maxWord = 64
)

// bounded returns e as it can be sent, logged and shown.
func (e *Error) bounded() *Error {
	return &Error{Code(printable.Text(string(e.Code), maxWord)), printable.Text(e.Message, maxMessage)}
}

// ErrCut is what a Conn returns (wrapped, with the cause) when its exchange ended without FINAL_DATA and without ERROR: what was read so far
// may be incomplete. It is an io.ErrUnexpectedEOF, and never an io.EOF.
var ErrCut error = cutError{}

type cutError struct{}

func (cutError) Error() string { return "stream cut" }
func (cutError) Unwrap() error { return io.ErrUnexpectedEOF }

// cut wraps why an exchange ended. The cause is told and not wrapped: an io.EOF of the exchange must not look like one of the stream.
func cut(cause error) error {
	if cause == nil || errors.Is(cause, ErrCut) {
		return ErrCut
	}
	return fmt.Errorf("%w: %v", ErrCut, cause)
}

// checkVersion reports, as an *Error that names both versions, whether a peer of version theirs is beyond what we talk to.
func checkVersion(theirs string) *Error {
	ourMajor, ourMinor, _ := parseVersion(Version)
	major, minor, ok := parseVersion(theirs)
	if ok && major == ourMajor && minor >= ourMinor-1 && minor <= ourMinor+1 {
		return nil
	}
	return &Error{CodeVersion, fmt.Sprintf("this end speaks version %s of the tunnel and one minor version around it, the other end %q", Version, printable.Text(theirs, maxWord))}
}

func parseVersion(s string) (major, minor int, ok bool) {
	a, b, _ := strings.Cut(s, ".")
	major, err1 := strconv.Atoi(a)
	minor, err2 := strconv.Atoi(b)
	return major, minor, err1 == nil && err2 == nil && major >= 0 && minor >= 0
}
