package protocol

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// token returns the hexadecimal digits of a framed SASL token.
func token(b string) string {
	return hex.EncodeToString(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
}

// tokens are what clients send behind a SaslHandshake v0, and what imitates them.
var tokens = []struct{ name, token string }{
	{"PLAIN", token("\x00alice\x00alice-secret")},
	{"SCRAM, first", token("n,,n=alice,r=fyko+d2lbbFgONRv9qkxdawL")},
	{"OAUTHBEARER, after a failure", token("\x01")},
	{"GSSAPI, first", token("\x60\x82\x02\x5c\x06\x09\x2a\x86\x48\x86\xf7\x12\x01\x02\x02\x01\x00\x6e")},
	{"GSSAPI, wrapped", token("\x05\x04\x04\xff\x00\x0c\x00\x00\x00\x00\x00\x00\x01\x01\x00\x00")},
	{"GSSAPI, empty", token("")},
	{"a short one", token("\x00\x12\x00")},
	{"a key beyond the known", token("\x00\x5f\x00\x00\x00\x00\x00\x01\xff\xff\x00")},
	{"a client id of negative length", token("\x00\x03\x00\x0c\x00\x00\x00\x01\xff\xfe\x00")},
}

func TestTheMechanismOfASaslHandshake(t *testing.T) {
	want := map[string]Mechanism{
		"PLAIN": Plain, "SCRAM-SHA-256": Scram, "SCRAM-SHA-512": Scram, "OAUTHBEARER": OAuthBearer, "GSSAPI": GSSAPI,
		"plain": UnknownMechanism, "PLAIN ": UnknownMechanism, "": UnknownMechanism, "AWS_MSK_IAM": UnknownMechanism,
	}
	for _, format := range []*kmsg.RequestFormatter{kmsg.NewRequestFormatter(), kmsg.NewRequestFormatter(kmsg.FormatterClientID("client"))} {
		for name, m := range want {
			req := kmsg.NewPtrSASLHandshakeRequest()
			req.Mechanism = name
			b := format.AppendRequest(nil, req, 1)
			if r, err := PeekRequest(flowOf(b)); err != nil || r.Mechanism != m {
				t.Errorf("%q: %v, %v, want %v", name, r.Mechanism, err, m)
			}
			req.Version = 1
			b = format.AppendRequest(nil, req, 1)
			if r, err := PeekRequest(flowOf(b)); err != nil || r.Mechanism != UnknownMechanism {
				t.Errorf("v1, %q: %v, %v", name, r.Mechanism, err)
			}
		}
	}
	for _, broken := range []string{
		"0011 0000 00000001 ffff ffff",                  // null, where the schema has none
		"0011 0000 00000001 ffff 0006 504c41494e",       // beyond the frame
		"0011 0000 00000001 0005 0005 504c41494e",       // the client id takes what the mechanism was to be
		"0011 0000 00000001 ffff",                       // nothing
		"0011 0000 00000001 0001 63 0005 504c4149",      // a byte short
		"0011 0000 00000001 0003 0005 504c41494e000000", // shifted
	} {
		b := unhex(t, broken)
		b = append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
		if r, err := PeekRequest(flowOf(b)); !errors.Is(err, ErrFrame) {
			t.Errorf("%s: %+v, %v, want %v", broken, r, err, ErrFrame)
		}
	}
}

// Every negative length of a client id is null to Kafka.
func TestAnyNegativeLengthOfAClientIDIsNull(t *testing.T) {
	for _, length := range []string{"ffff", "fffe", "8000", "ff00"} {
		b := unhex(t, "00000011 0011 0000 00000001 "+length+" 0005 504c41494e")
		if r, err := PeekRequest(flowOf(b)); err != nil || r.Mechanism != Plain {
			t.Errorf("%s: %+v, %v", length, r, err)
		}
	}
}

func TestLoginsHaveAsManyTokensAsTheirMechanism(t *testing.T) {
	const request, wrapped = "0000000a 0003 0001 00000001 ffff", "00000002 0504"
	for _, tt := range []struct {
		name      string
		mechanism Mechanism
		answers   []int64 // of the broker, length included, to the client's tokens
		next      string
		isToken   bool
	}{
		{"PLAIN, before its token", Plain, nil, request, true},
		{"PLAIN, behind it", Plain, []int64{4}, wrapped, false},
		{"SCRAM, before its first", Scram, nil, request, true},
		{"SCRAM, before its second", Scram, []int64{100}, request, true},
		{"SCRAM, behind it", Scram, []int64{100, 60}, wrapped, false},
		{"OAUTHBEARER, before its token", OAuthBearer, nil, request, true},
		{"OAUTHBEARER, behind it", OAuthBearer, []int64{4}, wrapped, false},
		{"OAUTHBEARER, behind an error", OAuthBearer, []int64{50}, request, true},
		{"OAUTHBEARER, behind two errors", OAuthBearer, []int64{50, 50}, request, true},
		{"OAUTHBEARER, behind an error and a better token", OAuthBearer, []int64{50, 4}, wrapped, false},
		{"GSSAPI, before its first", GSSAPI, nil, request, true},
		{"GSSAPI, another one", GSSAPI, []int64{80}, wrapped, true},
		{"GSSAPI, an empty one", GSSAPI, []int64{80}, "00000000", true},
		{"GSSAPI, a request", GSSAPI, []int64{80, 90}, request, false},
		{"no login", UnknownMechanism, nil, wrapped, false},
	} {
		tokens := Tokens{mechanism: tt.mechanism}
		for _, size := range tt.answers {
			tokens.Sent()
			tokens.Answered(size)
		}
		if got, err := tokens.Next(flowOf(unhex(t, tt.next))); got != tt.isToken || err != nil {
			t.Errorf("%s: %t, %v, want %t", tt.name, got, err, tt.isToken)
		}
	}
}

func TestAllButGSSAPIAnswersEachToken(t *testing.T) {
	for m := UnknownMechanism; m <= GSSAPI; m++ {
		if tokens := (Tokens{mechanism: m}); tokens.InTurn() != (m != GSSAPI) {
			t.Errorf("mechanism %d: in turn %t", m, tokens.InTurn())
		}
	}
}

func TestTokensOfAnUnknownMechanismCannotBeFollowed(t *testing.T) {
	if _, err := NewTokens(UnknownMechanism); err == nil {
		t.Error("no error")
	}
	for m := Plain; m <= GSSAPI; m++ {
		if tokens, err := NewTokens(m); err != nil || !tokens.Expected() {
			t.Errorf("mechanism %d: %v, %v", m, tokens, err)
		}
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
