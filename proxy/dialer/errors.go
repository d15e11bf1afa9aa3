package dialer

import (
	"context"
	"errors"
	"strings"
	"syscall"

	"github.com/culvert-proxy/culvert/proxy"
	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/printable"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// What an [Error] can be, for [errors.Is].
var (
	// ErrNoGateway says that no gateway has answered, or that all have refused the credentials.
	ErrNoGateway = errors.New("no gateway")
	// ErrNotAllowed says that the gateway may not dial the address: no broker has named it, and no
	// setting of the gateway allows it; or that it offers no such forward.
	ErrNotAllowed = errors.New("address not allowed")
	// ErrUnreachable says that the gateway could not connect to the broker.
	ErrUnreachable = errors.New("broker unreachable")
	// ErrLimit says that a limit of the gateway is reached.
	ErrLimit = errors.New("limit reached")
)

// An Error says why a connection could not be opened, or why it has ended other than by its close.
// It comes inside a [net.OpError]. For [errors.Is] it is one of the Err variables of this package,
// where one fits, and a [syscall.ECONNRESET] if it has ended a connection.
type Error struct {
	// Reason is what happened, on one line.
	Reason string
	// Hint is what can be done about it; empty where nothing is known.
	Hint string

	kind  error // one of those above; nil if none fits
	reset bool
	err   error
}

// Error returns the reason and the hint.
func (e *Error) Error() string {
	if e.Hint == "" {
		return e.Reason
	}
	return e.Reason + " (" + e.Hint + ")"
}

// Is implements what [errors.Is] asks.
func (e *Error) Is(target error) bool {
	return e.kind != nil && target == e.kind || e.reset && target == syscall.ECONNRESET
}

// Timeout reports whether no answer came in time, as [net.Error] asks.
func (e *Error) Timeout() bool { return errors.Is(e.err, context.DeadlineExceeded) }

// Unwrap returns the cause. What it is may change in any release.
func (e *Error) Unwrap() error { return e.err }

// newError explains an error of the tunnel. Much of its text may be a peer's.
func newError(err error) *Error {
	e := &Error{
		Reason: printable.Text(err.Error(), printable.Record),
		Hint:   printable.Text(strings.Join(hints.Of(err, settingNames), "; "), printable.Record),
		err:    err,
	}
	var told *tunnel.Error
	switch {
	case errors.As(err, &told):
		e.reset, e.kind = true, kinds[told.Code]
	case errors.Is(err, tunnel.ErrCut):
		e.reset = true
	case proxy.NotOffered(err):
		e.kind = ErrNotAllowed
	default:
		e.kind = ErrNoGateway
	}
	return e
}

var kinds = map[tunnel.Code]error{
	tunnel.CodeTarget:   ErrNotAllowed,
	tunnel.CodeTicket:   ErrNotAllowed,
	tunnel.CodeDial:     ErrUnreachable,
	tunnel.CodeLimit:    ErrLimit,
	tunnel.CodeDraining: ErrNoGateway,
}

// explained is the error of a setting, with its hints.
func explained(err error) error {
	if found := hints.Of(err, settingNames); len(found) > 0 {
		return &Error{Reason: err.Error(), Hint: strings.Join(found, "; "), err: err}
	}
	return err
}

// settingNames are the names of settings in hints: of an agent's, the field of [Config]; of a
// gateway's, the flag in words.
func settingNames(s hints.Setting) string {
	if field, ok := fields[s]; ok {
		return "Config." + field
	}
	return hints.Names(nil).Of(s)
}

var fields = map[hints.Setting]string{
	hints.GatewayURL:      "GatewayURLs",
	hints.Transport:       "Transport",
	hints.TokenFile:       "TokenFile",
	hints.GatewayCAFile:   "CAFile",
	hints.GatewayCertFile: "CertFile",
	hints.GatewayKeyFile:  "KeyFile",

	"Snowflake PAT file":                    "Snowflake.PATFile",
	"Snowflake private key file":            "Snowflake.PrivateKeyFile",
	"Snowflake private key passphrase file": "Snowflake.PassphraseFile",
	"Snowflake account":                     "Snowflake.Account",
	"Snowflake user":                        "Snowflake.User",
	"Snowflake role":                        "Snowflake.Role",
	"Snowflake token URL":                   "Snowflake.TokenURL",
	"Snowflake JWT account":                 "Snowflake.JWTAccount",
}
