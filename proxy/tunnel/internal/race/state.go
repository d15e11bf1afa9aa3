package race

import (
	"time"

	"github.com/culvert-proxy/culvert/proxy/printable"
)

// State is what is known about the transports to a gateway. The agent's status page shows it.
type State struct {
	Transport string           `json:"transport"`       // for new streams; "" while none works
	Since     time.Time        `json:"since,omitzero"`  // when it was chosen
	Why       string           `json:"why,omitempty"`   // why it was chosen
	Error     string           `json:"error,omitempty"` // why none works
	RetryAt   time.Time        `json:"retry_at,omitzero"`
	Tried     []TransportState `json:"tried"` // most preferred first
}

// TransportState is what is known about one transport.
type TransportState struct {
	Transport string        `json:"transport"`
	Tried     time.Time     `json:"tried,omitzero"`      // end of the last try; zero if there was none
	Took      time.Duration `json:"took_ns,omitempty"`   // from the start of the dial to the end of the echo
	Error     string        `json:"error,omitempty"`     // of the last try, or of later use
	Fixed     string        `json:"fixed,omitempty"`     // how it is used differently, because it was slow
	NextProbe time.Time     `json:"next_probe,omitzero"` // not probed before this
}

// State returns what is known now. Its texts are printable.
func (r *Race[W]) State() State {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stateLocked()
}

// stateLocked is State for callers that hold the lock, such as notifyLocked.
func (r *Race[W]) stateLocked() State {
	current := r.chosen.transport
	s := State{Transport: current, Since: r.chosen.since, Why: r.chosen.why}
	if current == "" {
		s.Since, s.Why = time.Time{}, ""
		if r.failed.err != nil {
			s.Error, s.RetryAt = printable.Text(r.failed.err.Error(), printable.Record), r.failed.retryAt
		}
	}
	probe, at := r.nextProbeLocked()
	for _, t := range r.order {
		k := r.known[t]
		a := TransportState{Transport: t, Tried: k.tried, Took: k.took, Fixed: k.fixed}
		if k.err != nil {
			a.Error = printable.Text(k.err.Error(), printable.Record)
		}
		if t == probe && current != "" {
			a.NextProbe = at
		} else if current != "" && r.rank(t) < r.rank(current) {
			a.NextProbe = k.brokenUntil
		}
		s.Tried = append(s.Tried, a)
	}
	return s
}
