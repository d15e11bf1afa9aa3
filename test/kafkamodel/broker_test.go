package kafkamodel

import (
	"encoding/binary"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// frame is a request with a header as kmsg writes it, and the body given.
func frame(key, version int16, correlationID int32, body ...byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(key))
	b = binary.BigEndian.AppendUint16(b, uint16(version))
	b = binary.BigEndian.AppendUint32(b, uint32(correlationID))
	b = append(b, 0xff, 0xff)
	if (header{key: key, version: version}).flexible() {
		b = append(b, 0)
	}
	return sized(append(b, body...))
}

func handshakeV(version int16, mechanism string) []byte {
	body := binary.BigEndian.AppendUint16(nil, uint16(len(mechanism)))
	return frame(saslHandshake, version, 1, append(body, mechanism...)...)
}

// summary writes events shortly: the correlation id or "raw", "!" if answered, "x" if it closes, "~" if
// it hangs.
func summary(events []Event) string {
	var all []string
	for _, e := range events {
		var b strings.Builder
		switch e.Kind {
		case Request:
			fmt.Fprintf(&b, "%d", e.CorrelationID)
		case Token:
			b.WriteString("raw")
		default:
			b.WriteString("?")
		}
		if e.Answered {
			b.WriteString("!")
		}
		if e.Closes {
			b.WriteString("x")
		}
		if e.Hangs {
			b.WriteString("~")
		}
		all = append(all, b.String())
	}
	return strings.Join(all, " ")
}

func join(frames ...[]byte) (all []byte) {
	for _, f := range frames {
		all = append(all, f...)
	}
	return all
}

var scripts = []struct {
	name   string
	sasl   bool
	client []byte
	want   string
}{
	{"requests are answered in order", false, join(frame(3, 12, 1, 1, 0, 0, 0), frame(1, 11, 2), frame(68, 1, 3)), "1! 2! 3!"},
	{"a frame of no bytes closes", false, []byte{0, 0, 0, 0}, "?x"},
	{"a negative length closes", false, []byte{0xff, 0xff, 0xff, 0xff}, "?x"},
	{"a removed key closes", false, frame(7, 0, 1), "?x"},
	{"a controllers' key closes", false, frame(52, 0, 1), "1x"},
	{"acks 0 is not answered", false, join(frame(0, 7, 1, 0xff, 0xff, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0), frame(3, 0, 2)), "1 2!"},
	{"null records hang", false, join(frame(0, 9, 1, 0, 0, 1, 0, 0, 0, 0, 2, 2, 't', 2, 0, 0, 0, 0, 0, 0, 0, 0), frame(3, 0, 2)), "1~"},
	{"no transactions hang", false, join(frame(24, 4, 1, 1, 0), frame(3, 0, 2)), "1~"},
	{"ApiVersions of a later version is answered", false, join(frame(18, 99, 1), frame(3, 0, 2)), "1! 2!"},
	{"SaslHandshake without SASL is answered, and no token follows", false, join(handshakeV(0, "PLAIN"), frame(3, 0, 2)), "1! 2!"},
	{"tokens as they are", true, join(handshakeV(0, "PLAIN"), sized([]byte("token")), frame(3, 0, 2)), "1! raw! 2!"},
	{"two tokens of SCRAM", true, join(handshakeV(0, "SCRAM-SHA-256"), sized([]byte("token")), frame(3, 0, 2), frame(3, 0, 3)), "1! raw! raw! 3!"},
	{"three tokens of GSSAPI, the last not answered", true, join(handshakeV(0, "GSSAPI"), sized([]byte("token")), sized(nil), sized(nil), frame(3, 0, 3)), "1! raw! raw! raw 3!"},
	{"tokens in SaslAuthenticate", true, join(handshakeV(1, "PLAIN"), frame(36, 0, 2, 0, 0, 0, 1, 'a'), frame(3, 0, 3)), "1! 2! 3!"},
	{"another request instead of SaslAuthenticate", true, join(handshakeV(1, "PLAIN"), frame(3, 0, 2, 0, 0, 0, 0), frame(3, 0, 3)), "1! 2!x"},
	{"a request before authentication", true, frame(3, 0, 1), "1x"},
	{"ApiVersions twice", true, join(frame(18, 0, 1), frame(18, 0, 2)), "1! 2x"},
	{"ApiVersions, of no known version first", true, join(frame(18, 9, 1), frame(18, -3, 2), frame(18, 0, 3), handshakeV(0, "PLAIN")), "1! 2! 3! 1!"},
	{"a mechanism that is not offered", true, join(handshakeV(1, "NTLM"), frame(3, 0, 2)), "1!x"},
	{"a frame over the limit before authentication", true, []byte{0, 8, 0, 1}, "?x"},
}

func TestScripts(t *testing.T) {
	for _, s := range scripts {
		t.Run(s.name, func(t *testing.T) {
			cfg := Config{SASL: s.sasl, Mechanisms: []string{"PLAIN", "SCRAM-SHA-256", "GSSAPI"}}
			if got := summary(New(cfg).Receive(s.client)); got != s.want {
				t.Errorf("at once: %q, want %q", got, s.want)
			}
			b := New(cfg)
			var events []Event
			for _, c := range s.client {
				events = append(events, b.Receive([]byte{c})...)
			}
			if got := summary(events); got != s.want {
				t.Errorf("byte by byte: %q, want %q", got, s.want)
			}
			if closes := strings.HasSuffix(s.want, "x"); b.Closed() != closes {
				t.Errorf("closed: %v, want %v", b.Closed(), closes)
			}
		})
	}
}

// TestResponsesParse decodes the response to every request that a broker serves.
func TestResponsesParse(t *testing.T) {
	for key, a := range apis {
		for version := a.min; version <= a.max && !a.controller; version++ {
			h := header{key: key, version: version, correlationID: 7}
			e := New(Config{}).answer(h, 0)
			response := kmsg.ResponseForKey(key)
			response.SetVersion(version)
			skip := 8
			if response.IsFlexible() && key != apiVersions {
				skip++
			}
			if err := response.ReadFrom(e.Response[skip:]); err != nil {
				t.Errorf("%s v%d: %v", kmsg.NameForKey(key), version, err)
			}
			request := kmsg.RequestForKey(key)
			request.SetVersion(version)
			if request.IsFlexible() != h.flexible() {
				t.Errorf("%s v%d: flexible %v, kmsg says %v", kmsg.NameForKey(key), version, h.flexible(), request.IsFlexible())
			}
		}
	}
}

// FuzzSplits feeds the same bytes at once and in pieces: where the client's packets end makes no
// difference, and nothing panics.
func FuzzSplits(f *testing.F) {
	for _, s := range scripts {
		f.Add(s.client, s.sasl, uint8(3))
	}
	f.Fuzz(func(t *testing.T, client []byte, sasl bool, size uint8) {
		cfg := Config{SASL: sasl, Mechanisms: []string{"PLAIN", "SCRAM-SHA-256", "GSSAPI"}, Reauthenticate: func(n int) bool { return n%2 == 0 }}
		want := New(cfg).Receive(client)
		b := New(cfg)
		var got []Event
		for piece := range slices.Chunk(client, int(size)+1) {
			got = append(got, b.Receive(piece)...)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("in pieces: %s, at once: %s", summary(got), summary(want))
		}
	})
}
