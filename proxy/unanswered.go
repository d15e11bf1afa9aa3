package proxy

import (
	"errors"
	"fmt"

	"github.com/culvert-proxy/culvert/protocol"
	"github.com/culvert-proxy/culvert/proxy/hints"
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

// joinGroup and syncGroup are API keys.
const (
	joinGroup protocol.APIKey = 11
	syncGroup protocol.APIKey = 14
)

// anyBrokerAnswers reports whether any broker gives the right answer to a request of this API. All
// others act on the broker that receives them, or are answered by the leader or coordinator. The
// list cannot be derived from rewrite's rows: these say what responses contain, not who may answer.
func anyBrokerAnswers(k protocol.APIKey) bool {
	switch k {
	case protocol.APIVersions, protocol.SASLHandshake, protocol.SASLAuthenticate,
		protocol.Metadata, protocol.FindCoordinator, protocol.DescribeCluster:
		return true
	}
	return false
}

// errUnanswered is wrapped by the errors of waits that took too long.
var errUnanswered = errors.New("the broker does not answer")
