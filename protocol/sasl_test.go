package protocol

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// token returns the hexadecimal digits of a framed SASL token.
func token(b string) string {
	return hex.EncodeToString(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
}

// tokens are what clients send behind a SaslHandshake v0, and what imitates them.
var tokens = []struct{ name, token string }{
	{"PLAIN", token("\x00alice\x00alice-secret")},
	{"PLAIN with an authorisation id", token("alice\x00alice\x00secret")},
	{"PLAIN of a user whose name is an API key", token("\x00A\x00a-long-enough-password")},
	{"PLAIN of a user that is a known key, version above", token("\x003\x001\x00\x00\x00\x00\x00\x00\x00")},
	{"PLAIN without a name", token("\x00\x00password")},
	{"SCRAM, first", token("n,,n=alice,r=fyko+d2lbbFgONRv9qkxdawL")},
	{"SCRAM, final", token("c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=")},
	{"SCRAM with a delegation token", token("n,,n=token,r=fyko,tokenauth=true")},
	{"OAUTHBEARER", token("n,,\x01auth=Bearer ey\x01\x01")},
	{"OAUTHBEARER, after a failure", token("\x01")},
	{"GSSAPI, first", token("\x60\x82\x02\x5c\x06\x09\x2a\x86\x48\x86\xf7\x12\x01\x02\x02\x01\x00\x6e")},
	{"GSSAPI, wrapped", token("\x05\x04\x04\xff\x00\x0c\x00\x00\x00\x00\x00\x00\x01\x01\x00\x00")},
	{"GSSAPI, empty", token("")},
	{"a short one", token("\x00\x12\x00")},
	{"a key beyond the known", token("\x00\x5f\x00\x00\x00\x00\x00\x01\xff\xff\x00")},
	{"a version beyond the known", token("\x00\x03\x00\x0e\x00\x00\x00\x01\xff\xff\x00")},
	{"a negative version", token("\x00\x03\xff\xff\x00\x00\x00\x01\xff\xff\x00")},
	{"a client id that does not fit", token("\x00\x03\x00\x0c\x00\x00\x00\x01\x00\x05abc")},
	{"a client id of negative length", token("\x00\x03\x00\x0c\x00\x00\x00\x01\xff\xfe\x00")},
}

func TestTokensAreNoRequests(t *testing.T) {
	for _, tt := range tokens {
		t.Run(tt.name, func(t *testing.T) {
			b := unhex(t, tt.token)
			for _, src := range []io.Reader{bytes.NewReader(b), iotest.OneByteReader(bytes.NewReader(b))} {
				r, isRequest, err := PeekAfterToken(NewFlow(src, io.Discard), false)
				if isRequest || err != nil {
					t.Errorf("taken for %s v%d, %v", r.Key, r.Version, err)
				}
			}
		})
	}
}

func TestARequestIsOneAgainBehindTokens(t *testing.T) {
	for _, f := range []*kmsg.RequestFormatter{kmsg.NewRequestFormatter(), kmsg.NewRequestFormatter(kmsg.FormatterClientID("client"))} {
		for key := range MaxKey + 1 {
			for version := range key.MaxVersion() + 1 {
				req := kmsg.RequestForKey(int16(key))
				req.SetVersion(version)
				if key == 7 && version == 0 {
					continue // ControlledShutdown v0 has no client id; brokers send it
				}
				b := f.AppendRequest(nil, req, 3)
				r, isRequest, err := PeekAfterToken(flowOf(b), false)
				if !isRequest || err != nil || r.Key != key || r.Version != version || r.Size != int64(len(b)) {
					t.Fatalf("%s v%d: %t, %+v, %v", key, version, isRequest, r, err)
				}
			}
		}
	}
}

func TestPeekAfterTokenWaitsForNoMoreThanTheFrame(t *testing.T) {
	for n := range 10 {
		b := unhex(t, token(strings.Repeat("x", n)))
		if _, isRequest, err := PeekAfterToken(flowOf(b), false); isRequest || err != nil {
			t.Errorf("%d bytes: %t, %v", n, isRequest, err)
		}
	}
	if _, _, err := PeekAfterToken(flowOf(nil), false); err != io.EOF {
		t.Errorf("at the end: %v, want %v", err, io.EOF)
	}
	if _, _, err := PeekAfterToken(flowOf(unhex(t, "00000020 0003")), false); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("in a frame: %v, want %v", err, io.ErrUnexpectedEOF)
	}
}

func TestIsRawToken(t *testing.T) {
	for _, tt := range tokens {
		want := tt.name == "GSSAPI, first"
		if got, err := IsRawToken(flowOf(unhex(t, tt.token))); got != want || err != nil {
			t.Errorf("%s: %t, %v, want %t", tt.name, got, err, want)
		}
	}
	for _, other := range []string{"GET / HTTP/1.1", "\x16\x03\x01\x60\x60", "\xff\xff\xff\xff\x60"} {
		if got, err := IsRawToken(flowOf([]byte(other))); got || err != nil {
			t.Errorf("%q: %t, %v", other, got, err)
		}
	}
}
