package main

import (
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// firstAnswer measures how long a new connection takes to its first response.
func firstAnswer(r *row, o *options) (figures, error) {
	var all []time.Duration
	for begin := time.Now(); time.Since(begin) < o.window || len(all) < 3; {
		time.Sleep(o.pause)
		took, err := r.wan.first(r.brokers[0])
		if err != nil {
			return nil, err
		}
		all = append(all, took)
	}
	f := figures{}
	r.wan.arrived(f, all, answer, slowest, trips)
	return f, nil
}

// arrived sets how long connections took to their first responses.
func (w *wan) arrived(f figures, all []time.Duration, middle, slowest, trips quantity) {
	slices.Sort(all)
	half := quantile(all, 0.5)
	f.set(middle, half.Seconds())
	f.set(slowest, all[len(all)-1].Seconds())
	if w != nil {
		f.set(trips, float64(half)/float64(2*w.link.Delay))
	}
}

// first returns how long a new connection took to its first response.
func (w *wan) first(address string) (time.Duration, error) {
	begin := time.Now()
	c, err := w.dial(address)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	c.SetDeadline(begin.Add(time.Minute))
	err = c.exchange(apiVersionsRequest())
	return time.Since(begin), err
}

// laterBursts is how many bursts are measured together, after the first one.
const laterBursts = 3

// bursts measures how long n connections that are opened at once take to their first responses:
// those of the first burst that an agent sees, and those of later ones.
func bursts(n int) func(*row, *options) (figures, error) {
	return func(r *row, o *options) (figures, error) {
		r, err := r.fresh()
		if err != nil {
			return nil, err
		}
		defer r.stop()
		first, err := r.burst(o.atMost(n), o.pause)
		if err != nil {
			return nil, err
		}
		var later []time.Duration
		for range laterBursts {
			took, err := r.burst(o.atMost(n), o.pause)
			if err != nil {
				return nil, err
			}
			later = append(later, took...)
		}
		f := figures{}
		r.wan.arrived(f, first, firstBurst, slowest, trips)
		r.wan.arrived(f, later, laterBurst, laterSlowest, laterTrips)
		return f, nil
	}
}

// burst opens n connections at once. Before that, the agent has time to make streams ready.
func (r *row) burst(n int, pause time.Duration) ([]time.Duration, error) {
	time.Sleep(pause)
	took := make([]time.Duration, n)
	var g errgroup.Group
	for i := range took {
		g.Go(func() (err error) {
			took[i], err = r.wan.first(r.brokers[i%len(r.brokers)])
			return err
		})
	}
	return took, g.Wait()
}

// opening measures how many connections a second are opened, answered once and closed, by n clients
// that do nothing else, and the CPU time of each connection.
func opening(n int) func(*row, *options) (figures, error) {
	return func(r *row, o *options) (figures, error) {
		var answered atomic.Int64
		var stop atomic.Bool
		var g errgroup.Group
		for i := range o.atMost(n) {
			g.Go(func() error {
				for !stop.Load() {
					if _, err := r.wan.first(r.brokers[i%len(r.brokers)]); err != nil {
						return err
					}
					answered.Add(1)
				}
				return nil
			})
		}
		count, took, cpu, ok := watch(r, o.window, &answered)
		stop.Store(true)
		if err := g.Wait(); err != nil {
			return nil, err
		}
		f := figures{}
		f.set(opened, count/took.Seconds())
		if ok {
			f.spent(r, cpu, count, agentEach, gatewayEach, bothEach)
		}
		return f, nil
	}
}
