package tunnel

import (
	"slices"
	"sync"
)

// A carrier is a connection that several streams share.
type carrier interface {
	state() *carrierState
	dead() bool   // the connection has ended
	usable() bool // as far as this end knows, it can take streams
	stands() bool // it is not being dialled any more
	room() int    // how many streams it may carry at once
}

// carrierState is what [carriers] keep for each carrier. carriers.mu guards it.
type carrierState struct {
	streams int
	left    bool // takes no new streams
}

// carriers are the carriers of one transport, with the number of streams on each. Callers hold mu,
// except for the methods all and leave, which take it.
type carriers[C carrier] struct {
	mu   sync.Mutex
	list []C
}

// leastLoaded returns the usable carrier with the fewest streams that has room for one more; ok is
// false if there is none. One that stands comes before any that is being dialled. It also removes
// dead carriers from the list.
func (l *carriers[C]) leastLoaded() (best C, ok bool) {
	l.list = slices.DeleteFunc(l.list, func(c C) bool { return c.dead() })
	for _, c := range l.list {
		s := c.state()
		if s.left || !c.usable() || s.streams >= c.room() {
			continue
		}
		if !ok || c.stands() && !best.stands() || c.stands() == best.stands() && s.streams < best.state().streams {
			best, ok = c, true
		}
	}
	return best, ok
}

// usable returns the number of carriers that take streams.
func (l *carriers[C]) usable() (n int) {
	for _, c := range l.list {
		if !c.state().left && c.usable() {
			n++
		}
	}
	return n
}

// unused returns the number of usable carriers without streams.
func (l *carriers[C]) unused() (n int) {
	for _, c := range l.list {
		if s := c.state(); s.streams == 0 && !s.left && c.usable() {
			n++
		}
	}
	return n
}

// all returns a copy of the list.
func (l *carriers[C]) all() []C {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.list)
}

// leave puts no more streams on c. It reports whether c has no streams now: then the caller closes
// it.
func (l *carriers[C]) leave(c C) (unused bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c.state().left = true
	return c.state().streams == 0
}
