package main

import "time"

// stalled measures the fetch rate of one connection alone, and beside n-1 others whose clients
// requested much and read nothing.
func stalled(n int, request, large []byte) func(*row, *options) (figures, error) {
	return func(r *row, o *options) (figures, error) {
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
		r.wan.awaitQuiet(o.pause) // the buffers are full
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

// awaitQuiet waits until the link is almost idle. Without an emulated link it waits a while for the
// kernel.
func (w *wan) awaitQuiet(pause time.Duration) {
	if !w.emulated() {
		time.Sleep(pause)
		return
	}
	const interval = 250 * time.Millisecond
	_, before := w.net.Lost()
	for begin := time.Now(); time.Since(begin) < time.Minute; {
		time.Sleep(interval)
		_, now := w.net.Lost()
		if now-before < 100 {
			return
		}
		before = now
	}
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
