package tunnel

import (
	"slices"
	"sync"
)

// A carrier is a connection that streams share.
type carrier interface {
	state() *carrierState
	dead() bool   // it has ended
	usable() bool // it may take streams, as far as is known
	room() int    // how many streams it may carry at once
}

// carrierState is what [carriers] know of each, guarded by their mu.
type carrierState struct {
	streams int
	left    bool // takes no new streams
}

// carriers are those of one transport, and how many streams each has. The caller of each method but free and all holds mu.
type carriers[C carrier] struct {
	mu   sync.Mutex
	list []C
}

// leastLoaded returns the carrier with the fewest streams that has room; ok is false if there is none. It forgets the dead.
func (l *carriers[C]) leastLoaded() (best C, ok bool) {
	l.list = slices.DeleteFunc(l.list, func(c C) bool { return c.dead() })
	for _, c := range l.list {
		s := c.state()
		if !s.left && c.usable() && s.streams < c.room() && (!ok || s.streams < best.state().streams) {
			best, ok = c, true
		}
	}
	return best, ok
}

// usable is how many take streams.
func (l *carriers[C]) usable() (n int) {
	for _, c := range l.list {
		if !c.state().left && c.usable() {
			n++
		}
	}
	return n
}

// unused is how many of those have none.
func (l *carriers[C]) unused() (n int) {
	for _, c := range l.list {
		if s := c.state(); s.streams == 0 && !s.left && c.usable() {
			n++
		}
	}
	return n
}

// all returns those that there are.
func (l *carriers[C]) all() []C {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.list)
}

// leave puts no more streams on c, and reports whether it has none.
func (l *carriers[C]) leave(c C) (unused bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c.state().left = true
	return c.state().streams == 0
}
