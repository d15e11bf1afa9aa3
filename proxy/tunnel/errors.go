package tunnel

import (
	"errors"
	"fmt"
	"io"

	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/exchange"
	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/race"
)

// Types of the packages below that users of a tunnel meet.
type (
	Error       = exchange.Error
	Code        = exchange.Code
	AnswerError = exchange.AnswerError
	State       = race.State
	Pace        = race.Pace
	Fault       = race.Fault
	Outcome     = race.Outcome
)

// What can be wrong with a transport that works.
const (
	Slow = race.Slow
	Late = race.Late
	// Costly is also a Fault.
	Costly = race.Costly
)

// Outcomes returns what can be done about a fault.
func Outcomes() []Outcome { return []Outcome{race.Fixed, race.Demoted, race.Kept} }

// The codes of an [Error].
const (
	CodeVersion  = exchange.CodeVersion
	CodeProtocol = exchange.CodeProtocol
	CodeTarget   = exchange.CodeTarget
	CodeTicket   = exchange.CodeTicket
	CodeDial     = exchange.CodeDial
	CodeBroker   = exchange.CodeBroker
	CodeClient   = exchange.CodeClient
	CodeDraining = exchange.CodeDraining
	CodeLimit    = exchange.CodeLimit
	CodeInternal = exchange.CodeInternal
)

// IsTimeout reports whether err is a deadline that passed: see [exchange.IsTimeout].
func IsTimeout(err error) bool { return exchange.IsTimeout(err) }

// Explain adds a hint to the error of a dial if there is one to give.
func Explain(err error) error { return race.Explain(err) }

// ErrCut is what a Conn returns, wrapped with its cause, when the exchange ended with neither
// FINAL_DATA nor ERROR: what was read so far may be incomplete. It is an io.ErrUnexpectedEOF and
// never an io.EOF.
var ErrCut error = cutError{}

type cutError struct{}

func (cutError) Error() string { return "stream cut" }
func (cutError) Unwrap() error { return io.ErrUnexpectedEOF }

// cut returns ErrCut with the cause in its text. The cause is not wrapped, because an io.EOF of the
// exchange must not look like the end of the stream.
func cut(cause error) error {
	if cause == nil || errors.Is(cause, ErrCut) {
		return ErrCut
	}
	return fmt.Errorf("%w: %v", ErrCut, cause) //nolint:errorlint // see above
}
