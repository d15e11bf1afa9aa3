package proxy

import (
	"log/slog"
	"sync"
	"time"
)

// warnEvery is how often the same trouble is warned of: clients come back many
// times a second while a broker is away.
const warnEvery = 10 * time.Second

// logLimiter warns of each kind of trouble once in a while. The zero value is
// ready.
type logLimiter struct {
	mu     sync.Mutex
	warned map[trouble]time.Time // the last time
}

// trouble is a kind of trouble. The message is part of it, so that no message
// silences another.
type trouble struct {
	message string
	about   string // what of several things the message is about, from a bounded set
}

// warn logs a warning, but at debug level where it has warned of the same message
// about the same within warnEvery.
func (l *logLimiter) warn(log *slog.Logger, message, about string, args ...any) {
	if l.due(trouble{message, about}) {
		log.Warn(message, args...)
		return
	}
	log.Debug(message, args...)
}

// due reports whether the last warning of t was long enough ago. If so, it counts this
// one as the last.
func (l *logLimiter) due(t trouble) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if last, warned := l.warned[t]; warned && now.Sub(last) < warnEvery {
		return false
	}
	if l.warned == nil {
		l.warned = map[trouble]time.Time{}
	}
	l.warned[t] = now
	return true
}
