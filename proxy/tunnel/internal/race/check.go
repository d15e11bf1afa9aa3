package race

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/culvert-proxy/culvert/proxy/internal/backoff"
)

// doubts are what a Race has found out about one fault of a transport.
type doubts struct {
	next   time.Time // no check before this
	vain   int       // consecutive checks that found nothing
	proven int       // how often the fault has demoted the transport, without a probe that did not find it
}

// Doubt reports a sign of a fault of the transport in use: a stream that hardly moves although
// there are bytes for it, a small message that came late, or so many bytes that CPU time matters. The
// reason may be another one: the network is slow, or a broker does not read. So a check compares the transport with the next best
// one, and only what that finds has consequences. Checks that find nothing become rare.
func (r *Race[W]) Doubt(transport string, f Fault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := r.known[transport]
	if r.closed || r.checking || r.Timing.Check == 0 || k == nil || r.chosen.transport != transport || time.Now().Before(k.doubts[f].next) {
		return
	}
	r.checking = true
	r.tasks.Go(func() { r.check(transport, f) })
}

// A finding is the result of a check.
type finding struct {
	mine, theirs Pace   // theirs is of whatever does not have the fault
	unfixed      bool   // another way to use the transport was tried, and did not help
	better       string // the transport that does not have the fault, if there is one
	fixed        string // or how the transport itself is used now, without the fault
	kept         bool   // or the fault is there, and no other transport is better
}

// check finds out whether a transport has a fault, and acts on what it finds.
func (r *Race[W]) check(transport string, f Fault) {
	found := r.examine(r.ctx, transport, f)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.checking = false
	if r.ctx.Err() != nil {
		return
	}
	k := r.known[transport]
	r.Log.Debug("tunnel transport checked", "transport", transport, "fault", f.String(), "rate", found.mine.rate(), "delay", short(found.mine.Delay), "cpu", found.mine.Work.CPU)
	d := &k.doubts[f]
	d.next = time.Now().Add(backoff.Delay(d.vain, r.Timing.Check, r.Timing.CheckMost))
	d.vain++
	switch {
	case found.fixed != "":
		d.vain, k.fixed = 0, found.fixed
		r.faultLocked(k, f, Fixed)
		r.logWith(k.Remedies[f]).Warn("tunnel transport was slow", "transport", transport, "rate", found.mine.rate(), "now", found.fixed,
			"rate_now", found.theirs.rate())
	case found.better != "":
		d.vain = 0
		r.demoteLocked(k, f, found)
	case found.kept && d.vain == 1:
		r.faultLocked(k, f, Kept)
		r.logWith(k.Remedies[f]).Warn("tunnel transport delays small messages", "transport", transport, "delay", short(found.mine.Delay))
	}
	r.notifyLocked()
}

// logWith returns the log, with what a user can do as its hint if that is known.
func (r *Race[W]) logWith(remedy string) *slog.Logger {
	if remedy == "" {
		return r.Log
	}
	return r.Log.With("hint", remedy)
}

// faultLocked reports a fault to OnFault.
func (r *Race[W]) faultLocked(k *candidate, f Fault, o Outcome) {
	if r.OnFault != nil {
		r.OnFault(k.Name, f, o)
	}
}

// demoteLocked moves new streams to the transport that is better.
func (r *Race[W]) demoteLocked(k *candidate, f Fault, found finding) {
	what := f.Compare(found.mine, found.better, found.theirs)
	r.blameLocked(k, f, what)
	r.faultLocked(k, f, Demoted)
	remedy := k.Remedies[f]
	if found.unfixed {
		remedy = k.Unfixed
	}
	if r.chosen.transport == k.Name {
		r.switchLocked(found.better, change{k.Name + ": " + what, remedy, f == Costly})
		r.scheduleLocked()
	}
}

// blameLocked records that a transport has a fault. It is tried again later, after twice as long
// each time, and must then not have the fault.
func (r *Race[W]) blameLocked(k *candidate, f Fault, what string) {
	d := &k.doubts[f]
	k.err = errors.New(what)
	k.brokenUntil = time.Now().Add(backoff.Delay(d.proven, r.Timing.Probe, r.Timing.ProbeMost))
	d.proven++
}

// examine measures a transport that may have a fault, then itself used in another way, and then the
// next best one. Before anything changes it measures the transport again.
func (r *Race[W]) examine(ctx context.Context, transport string, f Fault) finding {
	how, mend := r.mend(transport, f)
	others := r.others(transport)
	if f != Late && how == "" && len(others) == 0 {
		return finding{} // there is nothing to compare it with
	}
	mine, err := r.Measure(ctx, transport, f)
	if err != nil || !f.Seen(mine) {
		return finding{mine: mine}
	}
	if how != "" {
		// The echo alone must do better than all streams did before. The other way may change what
		// the streams that are open move, so of the second measurement only the echo counts.
		undo := mend()
		theirs, err := r.Measure(ctx, transport, f)
		undo()
		if err == nil && f.Worse(mine, theirs.alone()) {
			again, err := r.Measure(ctx, transport, f)
			if err != nil || !f.Worse(again.alone(), theirs.alone()) {
				return finding{mine: again}
			}
			mend()
			return finding{mine: again.alone(), theirs: theirs.alone(), fixed: how}
		}
	}
	for _, other := range others {
		theirs, err := r.Measure(ctx, other, f)
		if err != nil {
			continue
		}
		if !f.Worse(mine, theirs) {
			break
		}
		// What has changed on the network meanwhile must not count.
		again, err := r.Measure(ctx, transport, f)
		if err != nil || !f.Worse(again, theirs) {
			return finding{mine: again}
		}
		return finding{mine: again, theirs: theirs, better: other, unfixed: how != ""}
	}
	return finding{mine: mine, kept: f == Late}
}

// mend is Mend for faults that it may heal.
func (r *Race[W]) mend(transport string, f Fault) (how string, try func() (undo func())) {
	if f != Slow || r.Mend == nil {
		return "", nil
	}
	return r.Mend(transport)
}

// others returns the transports besides one that are expected to work, most preferred first.
func (r *Race[W]) others(transport string) (list []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range r.order {
		k := r.known[t]
		if t != transport && !k.Unlikely && !time.Now().Before(k.brokenUntil) {
			list = append(list, t)
		}
	}
	return list
}

// recheck returns nil if a transport that was demoted for a fault does not have it any more. The
// transport in use is the measure.
func (r *Race[W]) recheck(ctx context.Context, transport string) error {
	for f := range faults {
		r.mu.Lock()
		k, used := r.known[transport], r.chosen.transport
		proven := k.doubts[f].proven > 0
		r.mu.Unlock()
		if !proven || used == "" || used == transport {
			continue
		}
		mine, err := r.Measure(ctx, transport, f)
		if err != nil {
			return fmt.Errorf("measured again: %w", err)
		}
		theirs, err := r.Measure(ctx, used, f)
		r.mu.Lock()
		if err == nil && f.Worse(mine, theirs) {
			r.blameLocked(k, f, f.Compare(mine, used, theirs))
			err = k.err
		} else {
			k.doubts[f].proven, err = 0, nil
		}
		r.mu.Unlock()
		if err != nil {
			return err
		}
	}
	return nil
}
