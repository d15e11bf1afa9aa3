package protocol

import "encoding/binary"

// After a SaslHandshake v0 the tokens of SASL travel raw: a length and the
// bytes, with no header and no correlation id, both ways. Nothing on the wire
// marks their end (SaslServerAuthenticator.java, SaslClientAuthenticator.java).

const (
	// maxPlausibleKey and maxPlausibleVersion bound what a request behind tokens
	// may be, beyond what is known. Tokens of GSSAPI begin with 60 or 05 04.
	maxPlausibleKey     = 1023
	maxPlausibleVersion = 127
	// maxToken is what brokers take (sasl.server.max.receive.size).
	maxToken = 512 << 10
)

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

// IsRawToken reports whether the first frame of a connection is a GSSAPI token
// sent without any handshake, as clients of the 0.9 era do. It peeks at the
// next five bytes of f.
func IsRawToken(f *Flow) (bool, error) {
	size, err := peekSize(f)
	if err != nil || size <= 0 || size > maxHead {
		return false, err
	}
	b, err := f.Peek(lengthSize+1, maxHead)
	if err != nil {
		return false, err
	}
	return b[4] == 0x60, nil // ASN.1 application 0: RFC 2743 §3.1
}

// PeekAfterToken tells, among raw SASL tokens, whether the next frame in f is a
// Kafka request again: its API key and version must be known, and its client
// id must fit the frame. PLAIN tokens begin with NUL and a name and may imitate
// an API key, but not a version with it; SCRAM and GSSAPI tokens imitate
// neither. In doubt it is a token.
//
// Once the broker has answered a token there is less doubt: PLAIN has no second
// token, and those of SCRAM and GSSAPI begin with what would be API keys above
// [maxPlausibleKey]. A smaller one is then a request, be it one that nobody here
// knows, and must not pass for a token.
func PeekAfterToken(f *Flow, answered bool) (r Request, isRequest bool, err error) {
	size, err := peekSize(f)
	if err != nil || size < minRequest+2 || size > maxRequest {
		return Request{}, false, err
	}
	b, err := f.Peek(lengthSize+minRequest+2, maxHead)
	if err != nil {
		return Request{}, false, err
	}
	key := APIKey(binary.BigEndian.Uint16(b[4:]))
	version := int16(binary.BigEndian.Uint16(b[6:]))
	clientID := int32(int16(binary.BigEndian.Uint16(b[12:])))
	known := key.Known() && version >= 0 && version <= key.MaxVersion()
	plausible := answered && key >= 0 && key <= maxPlausibleKey && version >= 0 && version <= maxPlausibleVersion
	if !known && !plausible || clientID < -1 || minRequest+2+clientID > size {
		return Request{}, false, nil
	}
	r, err = PeekRequest(f)
	return r, err == nil, err
}
