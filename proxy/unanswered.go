package proxy

import (
	"errors"
	"fmt"
	"time"

	"github.com/culvert-proxy/culvert/protocol"
	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/metrics"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// seen is what a connection's requests and responses so far say about what its broker wants.
type seen struct {
	login   bool // the client has begun a login
	answers bool // the broker has answered something
	served  bool // the broker has answered a request that it answers after a login only
}

func (s *seen) sent(r request) {
	if r.token || r.Key == protocol.SASLHandshake || r.Key == protocol.SASLAuthenticate {
		s.login = true
	}
}

func (s *seen) answered(r request) {
	if r.answer != nil {
		return // by us
	}
	s.answers = true
	s.served = s.served || !r.token && r.Key != protocol.APIVersions && r.Key != protocol.SASLHandshake
}

// unanswered is the oldest request that awaited its answer when a connection ended.
type unanswered struct {
	request
	seen seen
}

// what names the request: its key and version.
func (u *unanswered) what() string {
	switch {
	case u.token:
		return "a SASL token"
	case !u.Key.Known():
		return fmt.Sprintf("API key %d v%d", int16(u.Key), u.Version)
	}
	return fmt.Sprintf("%s v%d", u.Key, u.Version)
}

// introduces reports whether the broker closed the connection at a first request that any broker
// answers, unless the client has to log in or to speak TLS first.
func (u *unanswered) introduces() bool {
	return !u.seen.served && !u.seen.login && anyBrokerAnswers(u.Key)
}

// lookedLike says what happened when a broker closed the connection.
func (u *unanswered) lookedLike(broker string) string {
	if u.introduces() && !u.seen.answers {
		return broker + " closed the connection before its first answer"
	}
	return fmt.Sprintf("%s closed the connection while %s awaited its answer", broker, u.what())
}

// usually says what that usually means.
func (u *unanswered) usually(names hints.Names) string {
	switch {
	case u.token:
		return "are the client's user name and password right?"
	case u.introduces() && !u.seen.answers:
		return names.Sprintf("it may want SASL (security.protocol=SASL_… at the client), or TLS (%s, and %s if it asks for a certificate)", hints.BrokerTLS, hints.BrokerCertFile)
	case u.introduces():
		return "it may want SASL (security.protocol=SASL_… at the client)"
	}
	return fmt.Sprintf("does this broker answer %s at all? Its log says why it closed the connection", u.what())
}

// patience is how long an answer must have been waited for, when the client leaves, to be worth a
// warning. The first clients to give up, such as kcat, do so after five seconds.
const patience = 4 * time.Second

// late reports whether a client that left had waited too long, and for how long. Members of a
// consumer group wait for one another, so their answers may take minutes.
func (o outcome) late() (waited time.Duration, late bool) {
	u := o.waiting
	waited = o.at.Sub(u.at).Round(time.Second)
	return waited, waited >= patience && !u.token && u.Key != joinGroup && u.Key != syncGroup
}

// joinGroup and syncGroup are API keys.
const (
	joinGroup protocol.APIKey = 11
	syncGroup protocol.APIKey = 14
)

// unansweredMessage is what is logged about requests that got no answer.
const unansweredMessage = "request unanswered"

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
