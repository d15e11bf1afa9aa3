package proxy

import (
	"errors"
	"fmt"

	"github.com/culvert-proxy/culvert/proxy/metrics"
)

// errDraining ends a connection between two requests because the process ends.
var errDraining = errors.New("draining")

// refusal is why this process will not relay something. It ends the connection.
type refusal struct {
	reason metrics.Refusal
	err    error
}

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

func refuse(reason metrics.Refusal, format string, args ...any) error {
	return &refusal{reason, fmt.Errorf(format, args...)}
}

// endedByUs reports whether err is a refusal or a drain.
func endedByUs(err error) bool {
	_, refused := errors.AsType[*refusal](err)
	return refused || errors.Is(err, errDraining)
}
