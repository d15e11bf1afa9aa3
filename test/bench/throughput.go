package main

import (
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	connections = 4 // of most loads
	inFlight    = 5 // per connection, as Java's producer
)

// stream is a load that keeps connections full of requests of one kind.
type stream struct {
	request  []byte
	answered atomic.Int64 // responses that are complete
	carried  atomic.Int64 // bytes of these, and of their requests
	stop     atomic.Bool
}

// throughput measures how fast requests of one kind are answered on n connections, and the cost.
func throughput(n int, request []byte) func(*row, *options) (figures, error) {
	return func(r *row, o *options) (f figures, err error) {
		s := &stream{request: request}
		err = s.run(r, o.atMost(n), func() { f = observe(r, o.window, &s.carried) })
		return f, err
	}
}

// small is throughput for requests so small that their number counts, not their size.
func small(n int, request []byte) func(*row, *options) (figures, error) {
	return func(r *row, o *options) (f figures, err error) {
		s := &stream{request: request}
		err = s.run(r, o.atMost(n), func() {
			count, took, cpu, ok := watch(r, o.window, &s.answered)
			f = figures{}
			f.set(requests, count/took.Seconds())
			if ok {
				f.spent(r, cpu, count, agentEach, gatewayEach, bothEach)
			}
		})
		return f, err
	}
}

// observe measures rate, CPU and peak memory of a load while it runs.
func observe(r *row, window time.Duration, carried *atomic.Int64) figures {
	f := figures{}
	r.forgetPeaks()
	n, took, cpu, ok := watch(r, window, carried)
	f.set(rate, n/took.Seconds())
	if ok {
		f.spent(r, cpu, n, agentCPU, gatewayCPU, bothCPU)
		f.set(restCPU, cpu.rest.Seconds()/n)
	}
	f.memories(r, peak, agentPeak, gatewayPeak)
	return f
}

// watch returns how far a counter rises during a window, after a shorter one to warm up, and the
// CPU time of that.
func watch(r *row, window time.Duration, counter *atomic.Int64) (n float64, took time.Duration, cpu used, ok bool) {
	time.Sleep(window / 4)
	awaitMore(counter, 0)
	before, ok := r.usage()
	begin, start := time.Now(), counter.Load()
	time.Sleep(window)
	awaitMore(counter, start)
	n, took = float64(counter.Load()-start), time.Since(begin)
	if ok {
		after, _ := r.usage()
		cpu = after.since(before)
	}
	return n, took, cpu, ok
}

// awaitMore waits until something was counted, in case the machine is busy with something else.
func awaitMore(counter *atomic.Int64, than int64) {
	for begin := time.Now(); counter.Load() <= than && time.Since(begin) < 10*time.Second; {
		time.Sleep(time.Millisecond)
	}
}

// run opens n connections, runs the load on all of them, calls window while it runs, and then lets
// all requests in flight be answered.
func (s *stream) run(r *row, n int, window func()) error {
	clients, err := r.dialAll(n)
	if err != nil {
		return err
	}
	var g errgroup.Group
	for _, c := range clients {
		c.SetDeadline(time.Now().Add(2 * time.Minute))
		flying := make(chan struct{}, inFlight-1)
		g.Go(func() error { return s.sendAll(c, flying) })
		g.Go(func() error { return s.receiveAll(c, flying) })
	}
	window()
	s.stop.Store(true)
	return g.Wait()
}

// dialAtOnce is how many connections are being dialled at a time.
const dialAtOnce = 20

// dialAll opens n connections to the brokers in turn. Each makes one small exchange.
func (r *row) dialAll(n int) ([]*client, error) {
	clients := make([]*client, n)
	var g errgroup.Group
	g.SetLimit(dialAtOnce)
	for i := range clients {
		g.Go(func() (err error) {
			if clients[i], err = r.wan.dial(r.brokers[i%len(r.brokers)]); err != nil {
				return err
			}
			clients[i].SetDeadline(time.Now().Add(time.Minute))
			return clients[i].exchange(apiVersionsRequest())
		})
	}
	if err := g.Wait(); err != nil {
		closeAll(clients)
		return nil, err
	}
	return clients, nil
}

func closeAll(clients []*client) {
	for _, c := range clients {
		if c != nil {
			c.Close()
		}
	}
}

func (s *stream) sendAll(c *client, flying chan<- struct{}) error {
	defer close(flying)
	for !s.stop.Load() {
		flying <- struct{}{}
		if err := c.send(s.request); err != nil {
			return err
		}
	}
	return nil
}

func (s *stream) receiveAll(c *client, flying <-chan struct{}) error {
	defer c.Close()
	for range flying {
		n, err := c.receive()
		if err != nil {
			for range flying { // unblocks the sender, which then sees the closed connection
				c.Close()
			}
			return err
		}
		s.carried.Add(int64(n + len(s.request)))
		s.answered.Add(1)
	}
	return nil
}
