package tunnel

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/exchange"
)

// Any text makes a valid ERROR of bounded size that arrives.
func TestEveryErrorCanBeSent(t *testing.T) {
	for _, unit := range []string{"a", "\x00", "\xff", "<", "\u2028", "é", "😀", "\""} {
		text := strings.Repeat(unit, 20_000)
		inBubbles(t, func(t *testing.T, r *rig) {
			c, s := r.dial()
			s.Reset(&Error{Code: Code(text), Message: text, Remedy: text})
			_, err := c.Read(make([]byte, 1))
			e, ok := errors.AsType[*Error](err)
			if !ok {
				t.Fatalf("text of %q: %v, want an ERROR", unit, err)
			}
			if n := len(e.Message); n < exchange.MaxMessage/2 || !utf8.ValidString(e.Message) {
				t.Errorf("text of %q: %d bytes arrived", unit, n)
			}
			if n := len(e.Hint()); n < exchange.MaxMessage/2 || n > exchange.MaxMessage || !utf8.ValidString(e.Hint()) {
				t.Errorf("text of %q: a hint of %d bytes arrived", unit, n)
			}
		})
	}
}

// longError returns an ERROR longer than we would send, as a peer may send it.
func longError() []byte {
	value, _ := json.Marshal(&Error{Code: Code(strings.Repeat("c", 8<<10)), Message: strings.Repeat("m", 4<<10), Remedy: strings.Repeat("r", 3<<10)})
	return appendCapsule(nil, capsuleError, value)
}

// What a peer sends is not repeated in full.
func TestWhatAPeerSaysIsCutShort(t *testing.T) {
	long := strings.Repeat("9", 15<<10)
	const most = exchange.MaxMessage + exchange.MaxWord + 100
	for name, wire := range map[string][]byte{
		"message and code": append(bytes.Clone(openCapsule), longError()...),
		"version":          appendCapsule(nil, capsuleOpen, []byte(`{"version":"`+long+`","target":"bootstrap"}`)),
		"long version":     append(appendCapsule(nil, capsuleOpen, []byte(`{"version":"1.`+strings.Repeat("0", 15<<10)+`","target":"bootstrap"}`)), 0x21, 0),
		"number":           appendCapsule(nil, capsuleOpen, []byte(`{"version":`+long+`}`)),
		"target":           appendCapsule(nil, capsuleOpen, []byte(`{"version":"1.0","target":"`+long+`:9092"}`)),
	} {
		_, err, sent := transfer(t, bytes.NewReader(wire))
		if _, ok := errors.AsType[*Error](err); !ok || len(err.Error()) > most {
			t.Errorf("%s: an error of %d bytes (%.100v), want an ERROR of %d at most", name, len(text(err)), err, most)
		}
		if len(sent) > 2*most {
			t.Errorf("%s: %d bytes are sent back", name, len(sent))
		}
	}

	c := agentConn(t, bytes.NewReader(appendCapsule(nil, capsuleOpened, []byte(`{"version":"1.0","gateway":"`+long+`"}`))))
	if o, err := c.Opened(context.Background()); err != nil || len(o.Gateway) > exchange.MaxWord+len("…") {
		t.Errorf("the gateway's version has %d bytes, %v", len(o.Gateway), err)
	}
}

// An address that is too long is refused with an ERROR.
func TestATargetThatIsTooLongIsRefused(t *testing.T) {
	forEachKind(t, func(t *testing.T, r *rig) {
		c, err := r.dialer.Dial(t.Context(), Open{Target: strings.Repeat("a", 12_000) + ":9092"}, nil)
		if err == nil {
			defer c.Close()
			_, err = c.Read(make([]byte, 1))
		}
		if e, ok := errors.AsType[*Error](err); !ok || e.Code != CodeTarget || !strings.Contains(e.Message, "12005 bytes") {
			t.Errorf("Dial: %v, want ERROR target", err)
		}
	})
}

func TestAnHTTPAnswerIsCutShort(t *testing.T) {
	s := &Server{Authenticate: func(*http.Request) (string, error) { return "", errors.New(strings.Repeat("x", 20_000)) }}
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodPost, Path, strings.NewReader(""))
	r.ContentLength, r.Header = -1, http.Header{"Content-Type": {exchange.PostType}}
	s.init()
	s.ServeHTTP(w, r)
	if w.Code != http.StatusUnauthorized || w.Body.Len() > exchange.MaxMessage+10 {
		t.Errorf("%d, %d bytes", w.Code, w.Body.Len())
	}
}
