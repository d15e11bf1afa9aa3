package backoff

import (
	"sync"
	"time"
)

// An Episode is a series of failures that belong together: fewer than Quiet lies between one and the
// next. It is reported once when it begins and once when it is over, however often something works
// in between. Set Quiet before use. Its methods may be called concurrently.
type Episode struct {
	Quiet time.Duration

	mu          sync.Mutex
	first, last time.Time // failures; zero outside an episode
}

// Failed records a failure, and reports whether an episode begins with it.
func (e *Episode) Failed() (begins bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.last = time.Now()
	if begins = e.first.IsZero(); begins {
		e.first = e.last
	}
	return begins
}

// Worked records a success. It reports whether that ends an episode, and how long that lasted.
func (e *Episode) Worked() (lasted time.Duration, ends bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.first.IsZero() || time.Since(e.last) < e.Quiet {
		return 0, false
	}
	lasted = e.last.Sub(e.first)
	e.first, e.last = time.Time{}, time.Time{}
	return lasted, true
}
