package exchange

import (
	"fmt"

	"github.com/culvert-proxy/culvert/proxy/printable"
)

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

// Error is the last capsule of a stream that was reset, and the error of an exchange whose peer
// breaks the protocol. A stream's Read returns it as *Error, whichever end raised it.
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
	// Remedy is what a person can do about it. A gateway fills it in for agents, who know less about
	// the brokers' side.
	Remedy string `json:"hint,omitempty"`
}

// Hint returns the remedy, bounded and printable like the message.
func (e *Error) Hint() string { return e.Bounded().Remedy }

// Error returns code and message, bounded and printable, because both may be a peer's.
func (e *Error) Error() string {
	e = e.Bounded()
	return string(e.Code) + ": " + e.Message
}

const (
	// MaxMessage bounds the text of an [Error] and its remedy, each in bytes, whoever wrote them,
	// because much of them may repeat what a peer sent. JSON can make them six times as long, which
	// still fits into a capsule.
	MaxMessage = printable.Sentence
	// MaxWord bounds codes and versions, in bytes.
	MaxWord = 64
)

// Bounded returns a copy of e that is short and printable enough to send, log and show.
func (e *Error) Bounded() *Error {
	return &Error{Code(printable.Text(string(e.Code), MaxWord)), printable.Text(e.Message, MaxMessage), printable.Text(e.Remedy, MaxMessage)}
}

// ProtocolError returns an [Error] that says how the peer broke the protocol.
func ProtocolError(format string, a ...any) *Error {
	return &Error{Code: CodeProtocol, Message: fmt.Sprintf(format, a...)}
}

// Refused is the error of an exchange whose response opens no tunnel. Err is the whole error;
// Refused marks it as a refusal and not a cut.
type Refused struct{ Err error }

func (e *Refused) Error() string { return e.Err.Error() }
