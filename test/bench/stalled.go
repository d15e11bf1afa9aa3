package main

import "time"

// stalled measures the fetch rate of one connection alone, and beside n-1 others whose clients
// requested much and read nothing.
func stalled(n int, request, large []byte) func(*row, *options) (figures, error) {
	return func(r *row, o *options) (figures, error) {
		r.awaitQuiet() // the row before this one has left something to clear up
		before, err := r.fetchAlone(request, o.window)
		if err != nil {
			return nil, err
		}
		others, err := r.dialAll(o.atMost(n - 1))
		if err != nil {
			return nil, err
		}
		defer closeAll(others)
		for _, c := range others {
			if err := c.send(large); err != nil {
				return nil, err
			}
		}
		r.awaitQuiet() // the buffers are full
		after, err := r.fetchAlone(request, o.window)
		if err != nil {
			return nil, err
		}
		f := figures{}
		f.set(alone, before)
		f.set(beside, after)
		f.set(share, after/before)
		return f, nil
	}
}

// awaitQuiet waits until the buffers are full: the link is almost idle or, if it is not emulated,
// the processes are.
func (r *row) awaitQuiet() {
	const interval = 250 * time.Millisecond
	for begin := time.Now(); time.Since(begin) < time.Minute; {
		cpu, _ := r.usage()
		packets := r.wan.packets()
		time.Sleep(interval)
		now, ok := r.usage()
		spent := now.since(cpu)
		if !ok || r.wan.emulated() && r.wan.packets()-packets < 100 || !r.wan.emulated() && spent.agent+spent.gateway+spent.rest < interval/10 {
			return
		}
	}
}

// packets is how many packets an emulated link has carried.
func (w *wan) packets() int64 {
	if !w.emulated() {
		return 0
	}
	_, n := w.net.Lost()
	return n
}

// fetchAlone returns how many bytes a second one connection fetches.
func (r *row) fetchAlone(request []byte, window time.Duration) (rate float64, err error) {
	c, err := r.wan.dial(r.brokers[0])
	if err != nil {
		return 0, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(window + time.Minute))
	for range inFlight {
		if err := c.send(request); err != nil {
			return 0, err
		}
	}
	begin, carried := time.Now(), 0
	for warm := true; warm || time.Since(begin) < window || carried == 0; {
		n, err := c.receive()
		if err != nil {
			return 0, err
		}
		if warm && time.Since(begin) > window/4 {
			warm, begin, carried = false, time.Now(), 0
			n = 0
		}
		carried += n
		if err := c.send(request); err != nil {
			return 0, err
		}
	}
	return float64(carried) / time.Since(begin).Seconds(), nil
}
