package race

import "time"

// soon is for timers that are due. Not 0: in a synctest bubble of Go 1.26 such a timer runs on the goroutine that sets it, which crashes the race
// detector (https://go.dev/issue/78156).
const soon = time.Nanosecond

// scheduleLocked sets the timer for the next probe of a transport that is better than the one that is used.
func (r *Race[W]) scheduleLocked() {
	if r.closed || r.chosen.transport == "" || r.running != nil {
		return
	}
	_, at := r.nextProbeLocked()
	if at.IsZero() {
		return
	}
	if r.timer == nil {
		r.timer = time.AfterFunc(max(soon, time.Until(at)), r.probe)
		return
	}
	r.timer.Reset(max(soon, time.Until(at)))
}

// nextProbeLocked is which better transport is probed next, and when: not before it may be taken.
func (r *Race[W]) nextProbeLocked() (transport string, at time.Time) {
	for _, t := range r.order[:max(0, r.rank(r.chosen.transport))] {
		if broken := r.known[t].broken; transport == "" || broken.Before(at) {
			transport, at = t, broken
		}
	}
	if earliest := r.chosen.since.Add(r.Timing.SwitchEvery); transport != "" && at.Before(earliest) {
		at = earliest
	}
	return transport, at
}

// probe tries a better transport in the background.
func (r *Race[W]) probe() {
	r.mu.Lock()
	transport, at := r.nextProbeLocked()
	if r.closed || r.chosen.transport == "" || r.running != nil || transport == "" {
		r.mu.Unlock()
		return
	}
	if time.Now().Before(at) {
		r.scheduleLocked()
		r.mu.Unlock()
		return
	}
	r.tasks.Add(1)
	r.mu.Unlock()
	defer r.tasks.Done()
	_, err := r.try(r.ctx, transport)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	if err == nil && r.rank(transport) < r.rank(r.chosen.transport) {
		r.switchLocked(transport, "it answers again")
	} else {
		k, soonest := r.known[transport], time.Now().Add(r.Timing.Probe)
		if k.broken.Before(soonest) { // an answer that does not count as a failure
			k.broken = soonest
		}
		r.tellLocked()
	}
	r.scheduleLocked()
}
