package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/culvert-proxy/culvert/protocol"
	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/metrics"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// reporter counts and logs how a connection ends, and what is refused on it.
type reporter struct {
	metrics *metrics.Metrics
	log     *slog.Logger // with the connection's attributes
	limiter *logLimiter  // shared by all connections of a process
	watch   *brokerWatch // the same
	node    string       // that the connection leads to, for outages
	broker  string       // the same, for the log: "broker 2"
}

// ofProbe returns the reporter of a stream that no client has asked for: what becomes of it is told
// to whoever asked, and is in the log at debug level only.
func (r reporter) ofProbe() reporter {
	r.log = slog.New(atDebug{r.log.Handler()})
	r.limiter, r.watch = &logLimiter{}, &brokerWatch{stopped: true}
	return r
}

// atDebug logs every record at debug level.
type atDebug struct{ slog.Handler }

func (h atDebug) Enabled(ctx context.Context, _ slog.Level) bool {
	return h.Handler.Enabled(ctx, slog.LevelDebug)
}

func (h atDebug) Handle(ctx context.Context, r slog.Record) error {
	r.Level = slog.LevelDebug
	return h.Handler.Handle(ctx, r)
}

func (h atDebug) WithAttrs(attrs []slog.Attr) slog.Handler {
	return atDebug{h.Handler.WithAttrs(attrs)}
}

func (h atDebug) WithGroup(name string) slog.Handler { return atDebug{h.Handler.WithGroup(name)} }

// closed reports how a connection ended. It is a warning if an operator may be able to do something
// about it.
func (r *reporter) closed(end outcome, names hints.Names) {
	r.metrics.Closed(end.cause)
	switch end.cause {
	case metrics.CloseDial, metrics.CloseTunnelCut, metrics.CloseBrokerReset:
		r.watch.reset()
	case metrics.CloseBrokerFIN: // of an idle connection, or of a broker that stops
		r.watch.suspect()
	}
	var refused *refusal
	switch kind := end.cause.String(); {
	case errors.As(end.err, &refused):
		r.metrics.Refused(refused.reason)
		r.refused(refused)
	case end.cause == metrics.CloseDial || end.cause == metrics.CloseTunnelCut:
		r.unreached("connection reset", kind, end.err)
	default:
		r.log.Debug("connection closed", "cause", kind, "err", end.err)
		switch {
		case end.waiting == nil:
		case end.cause == metrics.CloseBrokerFIN || end.cause == metrics.CloseBrokerReset:
			r.brokerLeft(end, names)
		case end.cause == metrics.CloseClientReset:
			r.clientLeft(end)
		}
	}
}

// unreached logs that a broker was not reached, unless that is part of an outage that has its line:
// of all brokers, or of this one.
func (r *reporter) unreached(message, kind string, err error) {
	e, told := errors.AsType[*tunnel.Error](err)
	_, dialled := errors.AsType[brokerError](err)
	refused := told && e.Code != tunnel.CodeDial && e.Code != tunnel.CodeTarget // by the gateway
	if !refused && (told || dialled) {
		r.watch.states.note(r.node, err)
	}
	switch {
	case refused:
		r.limiter.warn(r.log, message, kind, "cause", kind, "err", err)
	case r.watch.explains():
		r.log.Debug(message, "cause", kind, "err", err)
	case !dialled && !told:
		r.watch.unlessOutage(func() { r.limiter.warn(r.log, message, kind, "cause", kind, "err", err) })
	case r.watch.nodes.begins(r.node):
		r.watch.unlessOutage(func() { r.log.Warn(message, "cause", kind, "outage", true, "err", err) })
	default:
		r.log.Debug(message, "cause", kind, "err", err)
	}
}

// streamRefused reports that a gateway opens no stream, because it may not dial what an agent asks
// for. That is no outage: an agent may ask for anything, and so could fill those that are remembered.
func (r *reporter) streamRefused(why *tunnel.Error) {
	r.metrics.Closed(metrics.CloseDial)
	r.limiter.warn(r.log, "stream refused", string(why.Code), "cause", string(why.Code), "err", why)
}

// brokerUnreached reports that a gateway opens no stream, because it did not reach the broker.
func (r *reporter) brokerUnreached(why *tunnel.Error) {
	r.metrics.Closed(metrics.CloseDial)
	r.watch.reset()
	r.unreached("stream refused", string(why.Code), why)
}

// reached logs the end of an outage of the connection's broker.
func (r *reporter) reached() {
	r.watch.states.note(r.node, nil)
	if took, was := r.watch.nodes.ends(r.node); was {
		r.watch.afterUnexplained(func() { r.log.Info("broker reached again", "after", took) })
	}
}

// refused reports why something was refused. RefusedIntroduction is no warning: a client that finds
// a node again goes through it.
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

// notFollowed reports that a gateway from now on relays the connection's bytes without decoding
// them.
func (r *reporter) notFollowed(why error) {
	r.metrics.Unfollowed()
	const message = "connection can no longer be decoded, relaying its bytes without tickets and metrics"
	if why == io.ErrUnexpectedEOF { // the client disconnected in the middle of a frame
		r.log.Debug(message, "err", why)
		return
	}
	r.limiter.warn(r.log, message, "", "err", why)
}

// brokerLeft reports that a broker closed a connection while a request awaited its answer: once for
// each broker, key and version.
func (r *reporter) brokerLeft(end outcome, names hints.Names) {
	u := end.waiting
	what := u.lookedLike(r.broker)
	told, byGateway := errors.AsType[*tunnel.Error](end.err)
	switch {
	case errors.Is(end.err, errUnanswered):
		what = fmt.Sprintf("%s: %v", r.broker, end.err)
	case end.err == errGatewayFinished, byGateway && told.Code != tunnel.CodeBroker:
		return // it was not the broker
	}
	log := func() { r.limiter.once(r.log, unansweredMessage, what+u.what(), "hint", u.usually(names), "err", what) }
	switch {
	case u.seen.answers, errors.Is(end.err, errUnanswered):
		log()
	case !r.watch.explains(): // otherwise no broker answers anybody, and that has its line
		r.watch.unlessOutage(log)
	}
}

// clientLeft reports that a client disconnected while a request awaited its answer for too long:
// once for each broker, key and version.
func (r *reporter) clientLeft(end outcome) {
	if end.waiting == nil || end.cause != metrics.CloseClientFIN && end.cause != metrics.CloseClientReset {
		return
	}
	if waited, late := end.late(); late {
		what := end.waiting.what() + " of " + r.broker
		r.limiter.once(r.log, unansweredMessage, what, "hint", "can this broker still be reached, and is it overloaded?",
			"err", fmt.Sprintf("client left while waiting %s for the answer to %s", waited, what))
	}
}

// unansweredMessage is what is logged about requests that got no answer.
const unansweredMessage = "request unanswered"
