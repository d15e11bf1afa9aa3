package protocol

import "fmt"

// After a SaslHandshake v0 the tokens of SASL travel raw: a length and the
// bytes, with no header and no correlation id, both ways. Nothing on the wire
// marks their end: whoever follows the connection has to know, as the broker
// does, how many of them a mechanism has (SaslServerAuthenticator.java).

// maxToken is what brokers take (sasl.server.max.receive.size).
const maxToken = 512 << 10

// Mechanism is a SASL mechanism, as far as its raw tokens can be followed.
type Mechanism uint8

// The mechanisms of Apache Kafka, and all others.
const (
	UnknownMechanism Mechanism = iota
	Plain                      // one token, one answer (PlainSaslServer)
	Scram                      // two tokens, two answers (ScramSaslServer)
	OAuthBearer                // tokens until an answer is empty: any other is an error, behind which another may follow (OAuthBearerSaslServer)
	GSSAPI                     // tokens and answers until the broker is content, which answers nothing to the last
)

var mechanisms = map[string]Mechanism{
	"PLAIN":         Plain,
	"SCRAM-SHA-256": Scram,
	"SCRAM-SHA-512": Scram,
	"OAUTHBEARER":   OAuthBearer,
	"GSSAPI":        GSSAPI,
}

// peekMechanism returns the mechanism of the SaslHandshake v0 request r, whose
// header begins f: header v1, and a string.
func peekMechanism(f *Flow, r Request) (Mechanism, error) {
	h := newHead(f, r)
	h.classicString() // client id
	n := h.int16()
	name := h.bytes(int(n))
	if h.err != nil {
		return UnknownMechanism, h.failed(r)
	}
	return mechanisms[string(name[:n])], nil
}

// Tokens follows the raw tokens of one login. Its zero value expects none. Where
// they are [Tokens.InTurn], the client's next frame must not be looked at before
// its last token was answered: a broker reads it no sooner.
type Tokens struct {
	mechanism Mechanism
	sent      int
	answer    int64 // bytes of the broker's last answer
}

// NewTokens expects the tokens of m behind a SaslHandshake v0 that the broker
// has accepted. It fails for a mechanism that cannot be followed.
func NewTokens(m Mechanism) (Tokens, error) {
	if m == UnknownMechanism {
		return Tokens{}, fmt.Errorf("%w: raw SASL tokens of a mechanism that is none of Apache Kafka's", ErrFrame)
	}
	return Tokens{mechanism: m}, nil
}

// Expected reports whether raw tokens may follow.
func (t *Tokens) Expected() bool { return t.mechanism != UnknownMechanism }

// Sent notes that the client has sent a token.
func (t *Tokens) Sent() { t.sent++ }

// Answered notes that the broker has answered with a token of size bytes, its
// length included.
func (t *Tokens) Answered(size int64) { t.answer = size - lengthSize }

// InTurn reports whether the broker answers each token before the client sends
// the next frame. It does not answer the last one of GSSAPI.
func (t *Tokens) InTurn() bool { return t.mechanism != GSSAPI }

// Next reports whether the client's next frame, in f, is a token. If it is a
// request again, the login is over.
//
// No token of GSSAPI begins with the zero that Kafka's API keys begin with, but
// with 60 (RFC 2743) or 05 04 (RFC 4121). A broker that was not content yet
// would take such a frame for a token, and close the connection.
func (t *Tokens) Next(f *Flow) (bool, error) {
	switch t.mechanism {
	case Plain:
		return t.sent < 1, nil
	case Scram:
		return t.sent < 2, nil
	case OAuthBearer:
		return t.sent < 1 || t.answer > 0, nil
	case GSSAPI:
		if t.sent == 0 {
			return true, nil
		}
		first, err := peekFirst(f)
		return first != 0, err
	}
	return false, nil
}

// IsRawToken reports whether the first frame of a connection is a GSSAPI token
// sent without any handshake, as clients of the 0.9 era do. It peeks at the
// next five bytes of f.
func IsRawToken(f *Flow) (bool, error) {
	first, err := peekFirst(f)
	return first == 0x60, err // ASN.1 application 0: RFC 2743 §3.1
}

// peekFirst returns the first byte of the next frame, and -1 where there is
// none or the length is that of no frame.
func peekFirst(f *Flow) (int, error) {
	size, err := peekSize(f)
	if err != nil || size <= 0 || size > maxRequest {
		return -1, err
	}
	b, err := f.Peek(lengthSize+1, maxHead)
	if err != nil {
		return -1, err
	}
	return int(b[lengthSize]), nil
}

// PeekToken reads the length of the next raw token in f, either way, and returns
// its size with the length. Brokers answer PLAIN with an empty one.
func PeekToken(f *Flow) (int64, error) {
	size, err := peekSize(f)
	if err != nil {
		return 0, err
	}
	if size < 0 || size > maxToken {
		return 0, notKafka(f, size)
	}
	return lengthSize + int64(size), nil
}
