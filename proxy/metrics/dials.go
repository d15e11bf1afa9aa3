package metrics

import (
	"context"
	"errors"
	"net"
	"slices"
	"syscall"
)

// Result says how a dial ended. It is the value of the label result.
type Result string

// The results; any other is counted as [ResultError].
const (
	ResultOK       Result = "ok"
	ResultRefused  Result = "refused"  // nobody listens there
	ResultTimeout  Result = "timeout"  // no answer in time
	ResultCanceled Result = "canceled" // another dial of the same race was faster, or the caller stopped waiting
	ResultError    Result = "error"
)

var results = []Result{ResultOK, ResultRefused, ResultTimeout, ResultCanceled, ResultError}

// ResultOf returns how a dial ended that returned err, which may be nil. On Windows a refused
// connection is a [ResultError], because its error has another number there than ECONNREFUSED.
func ResultOf(err error) Result {
	switch {
	case err == nil:
		return ResultOK
	case errors.Is(err, context.Canceled):
		return ResultCanceled
	case errors.Is(err, context.DeadlineExceeded), timedOut(err):
		return ResultTimeout
	case errors.Is(err, syscall.ECONNREFUSED):
		return ResultRefused
	}
	return ResultError
}

// timedOut reports whether a dial got no answer in time. ETIMEDOUT counts: it is the operating
// system's own limit.
func timedOut(err error) bool {
	ne, ok := errors.AsType[net.Error](err)
	return ok && ne.Timeout()
}

// label returns r if it is one of the results, otherwise [ResultError]: a Result is a string, which
// another package could make up.
func (r Result) label() string {
	if !slices.Contains(results, r) {
		r = ResultError
	}
	return string(r)
}
