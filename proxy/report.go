package proxy

import (
	"errors"
	"io"
	"log/slog"

	"github.com/culvert-proxy/culvert/protocol"
	"github.com/culvert-proxy/culvert/proxy/metrics"
)

// reporter counts and logs what becomes of a connection.
type reporter struct {
	metrics *metrics.Metrics
	log     *slog.Logger // with what is known of the connection
	limiter *logLimiter  // shared by all connections of a process
}

// closed says how a connection has ended: as a warning where somebody could do
// something about it.
func (r *reporter) closed(end outcome) {
	r.metrics.Closed(end.cause)
	var refused *refusal
	switch kind := end.cause.String(); {
	case errors.As(end.err, &refused):
		r.metrics.Refused(refused.reason)
		r.refused(refused)
	case end.cause == metrics.CloseDial || end.cause == metrics.CloseTunnelCut:
		r.limiter.warn(r.log, "connection reset", kind, "cause", kind, "err", end.err)
	default:
		r.log.Debug("connection closed", "cause", kind, "err", end.err)
	}
}

// refused says why something was refused. A connection that is for introductions
// only is part of a client's recovery, and no trouble.
func (r *reporter) refused(why *refusal, more ...any) {
	more = append(more, "err", why.err)
	if why.reason == metrics.RefusedIntroduction {
		r.log.Debug("connection refused", more...)
		return
	}
	about := why.reason.String()
	if foreign, ok := errors.AsType[protocol.ForeignError](why.err); ok {
		about = string(foreign)
	}
	r.limiter.warn(r.log, "connection refused", about, more...)
}

// notFollowed says that bytes pass from now on, without tickets, memory and
// metrics.
func (r *reporter) notFollowed(why error) {
	const message = "connection not followed any more, its bytes pass without tickets and metrics"
	if why == io.ErrUnexpectedEOF { // the client has ended, no more
		r.log.Debug(message, "err", why)
		return
	}
	r.limiter.warn(r.log, message, "", "err", why)
}
