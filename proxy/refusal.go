package proxy

import (
	"errors"
	"fmt"

	"github.com/culvert-proxy/culvert/proxy/metrics"
)

// errDraining ends a connection between two requests, because the process stops or the broker has
// closed the connection.
var errDraining = errors.New("draining")

// refusal is the error of something that this process does not relay. It ends the connection.
// reason is for metrics.
type refusal struct {
	reason metrics.Refusal
	err    error
}

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

func refuse(reason metrics.Refusal, format string, args ...any) error {
	return &refusal{reason, fmt.Errorf(format, args...)}
}

// endedByUs reports whether err is a refusal or errDraining. The client is still there then.
func endedByUs(err error) bool {
	_, refused := errors.AsType[*refusal](err)
	return refused || errors.Is(err, errDraining)
}
