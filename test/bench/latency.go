package main

import (
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// latency measures one request at a time on one connection.
func latency(request []byte) func(*row, *options) (figures, error) {
	return func(r *row, o *options) (figures, error) {
		c, err := r.wan.dial(r.brokers[0])
		if err != nil {
			return nil, err
		}
		took, err := roundTrips(c, request, o.window, 100)
		if err != nil {
			return nil, err
		}
		return quantiles(took), nil
	}
}

// tail measures one request at a time on each of n connections. Lost packets show in the slowest
// few.
func tail(n int, request []byte) func(*row, *options) (figures, error) {
	return func(r *row, o *options) (figures, error) {
		clients, err := r.dialAll(n)
		if err != nil {
			return nil, err
		}
		var g errgroup.Group
		var mu sync.Mutex
		var all []time.Duration
		for _, c := range clients {
			g.Go(func() error {
				took, err := roundTrips(c, request, o.window, 5)
				mu.Lock()
				defer mu.Unlock()
				all = append(all, took...)
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return nil, err
		}
		return quantiles(all), nil
	}
}

// roundTrips repeats one exchange for a while and returns how long each took, without the first
// ones.
func roundTrips(c *client, request []byte, d time.Duration, warm int) ([]time.Duration, error) {
	defer c.Close()
	c.SetDeadline(time.Now().Add(d + time.Minute))
	var took []time.Duration
	for begin := time.Now(); time.Since(begin) < d || len(took) < 2*warm; {
		t := time.Now()
		if err := c.exchange(request); err != nil {
			return nil, err
		}
		took = append(took, time.Since(t))
	}
	return took[warm:], nil
}

func quantiles(took []time.Duration) figures {
	slices.Sort(took)
	f := figures{}
	f.set(p50, quantile(took, 0.5).Seconds())
	f.set(p99, quantile(took, 0.99).Seconds())
	f.set(p995, quantile(took, 0.995).Seconds())
	return f
}

// quantile is the q-th of sorted values.
func quantile(sorted []time.Duration, q float64) time.Duration {
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

// beginning measures how soon a large response begins to arrive, and how much memory it takes on
// its way to a client that reads. The connection has carried small responses before, so that
// buffers and code are in memory.
func beginning(small, large []byte) func(*row, *options) (figures, error) {
	return func(r *row, _ *options) (figures, error) {
		c, err := r.wan.dial(r.brokers[0])
		if err != nil {
			return nil, err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(time.Minute))
		for range 5 {
			if err := c.exchange(small); err != nil {
				return nil, err
			}
		}
		f, before, after := figures{}, figures{}, figures{}
		r.forgetPeaks()
		before.memories(r, resident, agentGrowth, gatewayGrowth)
		var took []time.Duration
		for range 5 {
			t, err := c.firstByte(large)
			if err != nil {
				return nil, err
			}
			took = append(took, t)
		}
		after.memories(r, peak, agentGrowth, gatewayGrowth)
		f.grown(before, after, agentGrowth, 1)
		f.grown(before, after, gatewayGrowth, 1)
		slices.Sort(took)
		f.set(firstByte, quantile(took, 0.5).Seconds())
		return f, nil
	}
}

// firstByte returns how long the header of a response took to arrive.
func (c *client) firstByte(request []byte) (time.Duration, error) {
	t := time.Now()
	if err := c.send(request); err != nil {
		return 0, err
	}
	size, err := c.begin()
	took := time.Since(t)
	if err != nil {
		return 0, err
	}
	_, err = c.r.Discard(size)
	return took, err
}
