package proxy

import "github.com/culvert-proxy/culvert/protocol"

// login is the progress of a client's login with raw SASL tokens. These are frames without a
// request header, after SaslHandshake v0 or without one, so we must know when the broker expects
// them. The state is the broker's: see [protocol.Tokens]. The zero value means that no login is in
// progress.
type login struct {
	tokens  protocol.Tokens
	pending bool // what the client sends next depends on an answer that has not arrived
}

// sent records what the client has sent.
func (l *login) sent(r request) {
	switch {
	case r.token:
		l.tokens.Sent()
		l.pending = true
	case r.answer == nil && handshakesV0(r.Request):
		l.pending = true
	}
}

// handshakesV0 reports whether r is a SaslHandshake v0: raw tokens follow if the broker accepts it.
// After v1, tokens come in SaslAuthenticate requests (KIP-152).
func handshakesV0(r protocol.Request) bool {
	return r.Key == protocol.SASLHandshake && r.Version == 0
}

// start says that the tokens of a mechanism follow. It returns an error for a mechanism whose
// number of tokens is not known.
func (l *login) start(m protocol.Mechanism) (err error) {
	l.tokens, err = protocol.NewTokens(m)
	return err
}

// handshakeAnswered records that the broker has answered a SaslHandshake v0, and whether it
// accepted the mechanism. Errors are those of start.
func (l *login) handshakeAnswered(m protocol.Mechanism, accepted bool) error {
	if accepted {
		if err := l.start(m); err != nil {
			return err
		}
	}
	l.pending = false
	return nil
}

// tokenAnswered records that the broker has answered a token with one of size bytes.
func (l *login) tokenAnswered(size int64) {
	l.tokens.Answered(size)
	l.pending = false
}
