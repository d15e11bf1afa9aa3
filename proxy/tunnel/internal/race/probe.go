package race

import (
	"time"
)

// soon is the duration for timers that are due. It is not 0 because in a synctest bubble of Go 1.26
// such a timer runs on the goroutine that sets it, which crashes the race detector
// (https://go.dev/issue/78156).
const soon = time.Nanosecond

// scheduleLocked sets the timer for the next probe of a more preferred transport, if there is one.
// During a round it does nothing, because the round calls it at its end.
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

// nextProbeLocked returns which more preferred transport is probed next, and when. A probe before
// SwitchEvery would be useless, because its transport could not be chosen yet.
func (r *Race[W]) nextProbeLocked() (transport string, at time.Time) {
	for _, t := range r.order[:max(0, r.rank(r.chosen.transport))] {
		if broken := r.known[t].brokenUntil; transport == "" || broken.Before(at) {
			transport, at = t, broken
		}
	}
	if earliest := r.chosen.since.Add(r.Timing.SwitchEvery); transport != "" && at.Before(earliest) {
		at = earliest
	}
	return transport, at
}

// probe tries a more preferred transport in the background, and switches to it if it works.
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
	if err == nil {
		err = r.recheck(r.ctx, transport)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	if err == nil && r.rank(transport) < r.rank(r.chosen.transport) {
		r.switchLocked(transport, change{why: "it answers again"})
	} else {
		k, soonest := r.known[transport], time.Now().Add(r.Timing.Probe)
		if k.brokenUntil.Before(soonest) { // the answer did not count as a failure of the transport
			k.brokenUntil = soonest
		}
		r.notifyLocked()
	}
	r.scheduleLocked()
}
