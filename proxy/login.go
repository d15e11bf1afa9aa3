package proxy

import "github.com/culvert-proxy/culvert/protocol"

// login is how far a client's login by raw SASL tokens is. It follows the
// broker's state: see [protocol.Tokens]. The zero value is a connection where no
// login is under way.
type login struct {
	tokens  protocol.Tokens
	pending bool // what the client sends next depends on an answer that has not come
}

// sent notes what the client has sent.
func (l *login) sent(r request) {
	switch {
	case r.token:
		l.tokens.Sent()
		l.pending = true
	case r.answer == nil && handshakesV0(r.Request):
		l.pending = true
	}
}

// handshakesV0 reports whether raw tokens follow the request if the broker
// accepts it.
func handshakesV0(r protocol.Request) bool {
	return r.Key == protocol.SASLHandshake && r.Version == 0
}

// start says that the tokens of a mechanism follow. It fails where they cannot
// be followed.
func (l *login) start(m protocol.Mechanism) (err error) {
	l.tokens, err = protocol.NewTokens(m)
	return err
}

// handshakeAnswered notes that the broker has answered a SaslHandshake v0, and
// whether it has accepted the mechanism. It fails as start does.
func (l *login) handshakeAnswered(m protocol.Mechanism, accepted bool) error {
	if accepted {
		if err := l.start(m); err != nil {
			return err
		}
	}
	l.pending = false
	return nil
}

// tokenAnswered notes that the broker has answered a token with one of size
// bytes.
func (l *login) tokenAnswered(size int64) {
	l.tokens.Answered(size)
	l.pending = false
}
