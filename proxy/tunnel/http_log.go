package tunnel

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/culvert-proxy/culvert/proxy/hints"
)

// notTLSEvery is the least time between two warnings of connections without TLS. Whoever reaches
// the port can cause them.
const notTLSEvery = 10 * time.Minute

// httpLog makes debug records of the lines that net/http logs, and a warning of one kind of them.
type httpLog struct {
	log *slog.Logger

	mu     sync.Mutex
	warned time.Time // zero: never
}

// Write takes one line of net/http. It does not fail.
func (l *httpLog) Write(line []byte) (int, error) {
	text := strings.TrimSpace(string(line))
	if l.isNews(line) {
		l.log.Warn("connection without TLS refused", "err", hints.New(httpLogLine(text),
			"this port speaks HTTPS: Kafka clients connect to a culvert agent, and health checks to the admin listener"))
	} else {
		l.log.Debug(text)
	}
	return len(line), nil
}

// isNews reports whether a connection began without TLS, and that has not been logged lately.
func (l *httpLog) isNews(line []byte) bool {
	if !bytes.Contains(line, []byte("first record does not look like a TLS handshake")) {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := time.Now(); l.warned.IsZero() || now.Sub(l.warned) >= notTLSEvery {
		l.warned = now
		return true
	}
	return false
}

// httpLogLine is a line of net/http as an error.
type httpLogLine string

func (l httpLogLine) Error() string { return string(l) }
