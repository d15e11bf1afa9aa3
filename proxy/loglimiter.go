package proxy

import (
	"log/slog"
	"maps"
	"sync"
	"time"
)

// warnEvery is the least time between two equal warnings. While a broker is down, each client
// reconnects several times a second.
const warnEvery = 10 * time.Second

// logLimiter limits how often each kind of warning is logged. The zero value is ready. It may be
// used concurrently. It holds one entry for each kind, and the kinds are bounded.
type logLimiter struct {
	mu     sync.Mutex
	warned map[warning]time.Time // when each was logged last
	told   map[warning]time.Time // the same, of once; up to maxTold
}

const (
	// tellEvery is the least time between two equal warnings of once.
	tellEvery = time.Hour
	// maxTold bounds the warnings that once remembers: peers choose what they are about.
	maxTold = 512
)

// warning identifies a kind of warning. The message is part of it, so that no message silences
// another.
type warning struct {
	message string
	about   string // which of several things the message is about, from a bounded set; or ""
}

// warn logs a warning, or at debug level if it has logged a warning with the same message and about
// within warnEvery.
func (l *logLimiter) warn(log *slog.Logger, message, about string, args ...any) {
	if l.due(warning{message, about}) {
		log.Warn(message, args...)
		return
	}
	log.Debug(message, args...)
}

// due reports whether the last warning like w was long enough ago. If so, it records this one as
// the last.
func (l *logLimiter) due(w warning) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if last, warned := l.warned[w]; warned && now.Sub(last) < warnEvery {
		return false
	}
	if l.warned == nil {
		l.warned = map[warning]time.Time{}
	}
	l.warned[w] = now
	return true
}

// once is warn for what stays as it is until somebody mends it: it logs a warning again only after
// tellEvery. There may be any number of kinds. Beyond maxTold of them within tellEvery, others are
// logged at debug level.
func (l *logLimiter) once(log *slog.Logger, message, about string, args ...any) {
	if l.news(warning{message, about}) {
		log.Warn(message, args...)
		return
	}
	log.Debug(message, args...)
}

// news reports whether once has not logged w within tellEvery, and records that it does now.
func (l *logLimiter) news(w warning) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if len(l.told) >= maxTold {
		maps.DeleteFunc(l.told, func(_ warning, last time.Time) bool { return now.Sub(last) >= tellEvery })
	}
	if last, told := l.told[w]; told && now.Sub(last) < tellEvery || !told && len(l.told) >= maxTold {
		return false
	}
	if l.told == nil {
		l.told = map[warning]time.Time{}
	}
	l.told[w] = now
	return true
}
