package tunnel

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

// A Kafka client that is given the gateway's address gets no answer that it understands, so the
// gateway has to say what happened. Whoever sends such bytes causes one line, not one for each.
func TestAConnectionWithoutTLSIsLoggedOnce(t *testing.T) {
	var out bytes.Buffer
	l := &httpLog{log: slog.New(slog.NewTextHandler(&out, nil))}
	for range 3 {
		l.Write([]byte("http: TLS handshake error from 10.0.0.1:5: tls: first record does not look like a TLS handshake\n"))
		l.Write([]byte("http: TLS handshake error from 10.0.0.1:5: EOF\n"))
	}
	if n := strings.Count(out.String(), "\n"); n != 1 || !strings.Contains(out.String(), "connection without TLS refused") {
		t.Errorf("logged %d lines, want one:\n%s", n, out.String())
	}
}
