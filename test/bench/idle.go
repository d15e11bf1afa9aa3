package main

import "time"

// idle measures how much memory a connection takes that has made one small exchange and then rests.
// A new agent and a new gateway are measured, since memory that was used before would be used
// again.
func idle(n int) func(*row, *options) (figures, error) {
	return func(r *row, o *options) (figures, error) {
		r, err := r.fresh()
		if err != nil {
			return nil, err
		}
		defer r.stop()
		n := o.atMost(n)
		f, before, after := figures{}, figures{}, figures{}
		before.memories(r, resident, agentIdle, gatewayIdle)
		clients, err := r.dialAll(n)
		if err != nil {
			return nil, err
		}
		defer closeAll(clients)
		time.Sleep(o.idle)
		after.memories(r, resident, agentIdle, gatewayIdle)
		f.grown(before, after, agentIdle, float64(n))
		f.grown(before, after, gatewayIdle, float64(n))
		return f, nil
	}
}
