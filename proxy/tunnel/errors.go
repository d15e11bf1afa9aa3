package tunnel

import (
	"errors"
	"fmt"
	"io"

	"github.com/culvert-proxy/culvert/proxy/tunnel/exchange"
	"github.com/culvert-proxy/culvert/proxy/tunnel/race"
)

// What the packages below say to whoever uses a tunnel.
type (
	Error       = exchange.Error
	Code        = exchange.Code
	AnswerError = exchange.AnswerError
	State       = race.State
	TransportAt = race.TransportAt
)

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

// Explain adds a hint to an error of a dial where there is one to give.
func Explain(err error) error { return race.Explain(err) }

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
	return fmt.Errorf("%w: %v", ErrCut, cause) //nolint:errorlint // see above
}
