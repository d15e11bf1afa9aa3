package protocol

import "encoding/binary"

// After a SaslHandshake v0 the tokens of SASL travel raw: a length and the
// bytes, with no header and no correlation id, both ways. Nothing on the wire
// marks their end (SaslServerAuthenticator.java, SaslClientAuthenticator.java).

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
func PeekAfterToken(f *Flow) (r Request, isRequest bool, err error) {
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
	if !key.Known() || version < 0 || version > key.MaxVersion() || clientID < -1 || minRequest+2+clientID > size {
		return Request{}, false, nil
	}
	r, err = PeekRequest(f)
	return r, err == nil, err
}
