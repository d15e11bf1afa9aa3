package proxy

import (
	"strings"
	"sync"
	"time"
)

// loudEvery is how often the same trouble is said aloud: clients come back many
// times a second while a broker is away.
const loudEvery = 10 * time.Second

// loud tells which occurrence of some trouble is worth a warning. The zero
// value is ready.
type loud struct {
	mu   sync.Mutex
	last map[string]time.Time
}

// again reports whether trouble of this kind is to be said aloud once more.
// Kinds come from a bounded set.
func (l *loud) again(kind string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if last, said := l.last[kind]; said && now.Sub(last) < loudEvery {
		return false
	}
	if l.last == nil {
		l.last = map[string]time.Time{}
	}
	l.last[kind] = now
	return true
}

// failures are the errors of several tries, on one line.
type failures []error

func (f failures) Error() string {
	var all []string
	for _, err := range f {
		all = append(all, err.Error())
	}
	return strings.Join(all, "; ")
}

func (f failures) Unwrap() []error { return f }
