package protocol

import "fmt"

// After a SaslHandshake v0 the tokens of SASL are raw: a length and the bytes, with no header and
// no correlation id, in both directions. Nothing on the wire marks the last one. A proxy has to
// know, as the broker does, how many tokens a mechanism has (SaslServerAuthenticator.java).

// maxToken is the largest token that brokers accept (sasl.server.max.receive.size).
const maxToken = 512 << 10

// Mechanism is a SASL mechanism, as far as its raw tokens can be followed.
type Mechanism uint8

// The mechanisms of Apache Kafka, and all others.
const (
	UnknownMechanism Mechanism = iota
	Plain                      // one token, one answer (PlainSaslServer)
	Scram                      // two tokens, two answers (ScramSaslServer)
	OAuthBearer                // tokens until an answer is empty; after any other, an error, another may follow (OAuthBearerSaslServer)
	GSSAPI                     // tokens and answers until the broker accepts; it does not answer the last token
)

var mechanisms = map[string]Mechanism{
	"PLAIN":         Plain,
	"SCRAM-SHA-256": Scram,
	"SCRAM-SHA-512": Scram,
	"OAUTHBEARER":   OAuthBearer,
	"GSSAPI":        GSSAPI,
}

// mechanism reads a SaslHandshake v0 request, which is header v1 and a string, and returns its
// mechanism.
func (h *head) mechanism() Mechanism {
	h.classicString() // client id
	n := h.int16()
	name := h.bytes(int(n))
	if h.err != nil {
		return UnknownMechanism
	}
	return mechanisms[string(name[:n])]
}

// Tokens follows the raw tokens of one login. Its zero value expects none. If they are
// [Tokens.InTurn], [Tokens.Next] must not be called before the broker has answered the client's
// last token: it reads no frame before that either.
type Tokens struct {
	mechanism Mechanism
	sent      int
	answer    int64 // bytes of the broker's last answer, without its length
}

// NewTokens returns the Tokens of a login by m, after the broker has accepted its SaslHandshake v0.
// It fails for a mechanism that cannot be followed.
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

// Answered notes that the broker has answered with a token of size bytes, its length included.
func (t *Tokens) Answered(size int64) { t.answer = size - lengthSize }

// InTurn reports whether the broker answers each token before the client sends the next frame. It
// does not answer the last one of GSSAPI.
func (t *Tokens) InTurn() bool { return t.mechanism != GSSAPI }

// Next reports whether the client's next frame, in f, is a token. If it is not, it is a request,
// and the login is over.
//
// A token of GSSAPI begins with 60 (RFC 2743) or 05 04 (RFC 4121), Kafka's API keys with a zero. A
// broker that has not accepted the login yet takes a frame that begins with a zero for a token, and
// closes the connection.
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

// IsRawToken reports whether the first frame of a connection is a GSSAPI token sent without any
// handshake, as clients of the 0.9 era do. It peeks at the next five bytes of f.
func IsRawToken(f *Flow) (bool, error) {
	first, err := peekFirst(f)
	return first == 0x60, err // ASN.1 application 0: RFC 2743 §3.1
}

// peekFirst returns the first byte of the next frame, and -1 if there is none or the length is not
// one of a frame.
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

// PeekToken reads the length of the next raw token in f, from a client or from a broker, and
// returns its size with the length. Brokers answer PLAIN with an empty one.
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
