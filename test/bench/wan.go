package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/culvert-proxy/culvert/test/netns"
)

const loopback = "127.0.0.1"

// wan is a network between agents and gateways. Load and agents are on its client side; brokers and
// gateways are on its server side. Nil is loopback.
type wan struct {
	net  *netns.Network
	link netns.Link
}

// parseWAN parses a link, such as delay=25ms,loss=0.5%,rate=12500000.
func parseWAN(s string) (l netns.Link, err error) {
	for field := range strings.SplitSeq(s, ",") {
		name, value, _ := strings.Cut(field, "=")
		switch name {
		case "delay":
			l.Delay, err = time.ParseDuration(value)
		case "loss":
			l.Loss, err = strconv.ParseFloat(strings.TrimSuffix(value, "%"), 64)
			if strings.HasSuffix(value, "%") {
				l.Loss /= 100
			}
		case "rate":
			l.Rate, err = strconv.Atoi(value)
		case "seed":
			l.Seed, err = strconv.ParseUint(value, 10, 64)
		default:
			return l, fmt.Errorf("-wan: %q is not one of delay (each way), loss (each way), rate (bytes a second), seed", name)
		}
		if err != nil {
			return l, fmt.Errorf("-wan: %w", err)
		}
	}
	return l, nil
}

func newWAN(l netns.Link) (*wan, error) {
	n, err := netns.New(l)
	if err != nil {
		return nil, err
	}
	return &wan{n, l}, nil
}

func (w *wan) close() {
	if w != nil {
		w.net.Close()
	}
}

func (w *wan) client() *netns.Namespace {
	if w == nil {
		return nil
	}
	return w.net.Client
}

func (w *wan) server() *netns.Namespace {
	if w == nil {
		return nil
	}
	return w.net.Server
}

// host returns the address on which the parts of a side listen.
func (w *wan) host(at *netns.Namespace) string {
	if w != nil && at == w.net.Server {
		return netns.ServerIP
	}
	return loopback
}

// listen returns the listen flags of a part of the bench. On a network its TCP uses CUBIC, the
// usual default; culvert chooses by itself.
func (w *wan) listen(at *netns.Namespace) []string {
	if w == nil {
		return nil
	}
	return []string{"-host", w.host(at), "-cubic"}
}

// ports opens n listeners where the agents are.
func (w *wan) ports(n int) (listeners []net.Listener, err error) {
	l := listen{host: loopback}
	err = w.client().Do(func() error {
		listeners, err = l.all(n)
		return err
	})
	return listeners, err
}

// dialContext dials from where the load runs.
func (w *wan) dialContext(ctx context.Context, network, address string) (c net.Conn, err error) {
	var d net.Dialer
	if w != nil {
		d.Control = cubic
	}
	err = w.client().Do(func() error {
		c, err = d.DialContext(ctx, network, address)
		return err
	})
	return c, err
}

// wanLoads are the default loads on a network.
var wanLoads = []string{"produce", "produce 16 KiB", "fetch v17", "one record ×16", "first answer", "63 stalled"}

// onlyWAN are loads that show little over loopback.
var onlyWAN = []string{"one record ×16", "first answer", "63 stalled"}

// tail measures one request at a time on each of several connections. Lost packets show in the
// slowest few.
func tail(connections int, request []byte) func(*row, time.Duration) (figures, error) {
	return func(r *row, window time.Duration) (figures, error) {
		var g errgroup.Group
		var mu sync.Mutex
		var all []time.Duration
		for i := range connections {
			c, err := r.wan.dial(r.brokers[i%len(r.brokers)])
			if err != nil {
				return figures{}, errors.Join(err, g.Wait())
			}
			g.Go(func() error {
				took, err := roundTrips(c, request, window, 5)
				mu.Lock()
				defer mu.Unlock()
				all = append(all, took...)
				return err
			})
		}
		err := g.Wait()
		if err != nil {
			return figures{}, err
		}
		slices.Sort(all)
		return figures{p50: quantile(all, 0.5), p99: quantile(all, 0.99), p995: quantile(all, 0.995)}, nil
	}
}

// pause is how long a client waits between two connections, so that culvert can have a spare stream
// ready again.
const pause = 300 * time.Millisecond

// firstAnswer measures how long a new connection takes to its first response.
func firstAnswer(r *row, window time.Duration) (f figures, err error) {
	var all []time.Duration
	for begin := time.Now(); time.Since(begin) < window || len(all) < 3; {
		time.Sleep(pause)
		took, err := r.wan.first(r.brokers[0])
		if err != nil {
			return f, err
		}
		all = append(all, took)
	}
	slices.Sort(all)
	f.p50, f.p99 = quantile(all, 0.5), all[len(all)-1]
	if r.wan != nil {
		f.trips = float64(f.p50) / float64(2*r.wan.link.Delay)
	}
	return f, nil
}

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

// stalled measures the fetch rate of one connection alone, and beside n-1 others whose clients
// requested much and read nothing.
func stalled(n int, request, large []byte) func(*row, time.Duration) (figures, error) {
	return func(r *row, window time.Duration) (f figures, err error) {
		if f.alone, err = r.fetchAlone(request, window); err != nil {
			return f, err
		}
		for range n - 1 {
			c, err := r.wan.dial(r.brokers[0])
			if err != nil {
				return f, err
			}
			defer c.Close()
			if err := c.send(large); err != nil {
				return f, err
			}
		}
		r.wan.awaitQuiet() // the buffers are full
		f.rate, err = r.fetchAlone(request, window)
		return f, err
	}
}

// awaitQuiet waits until the link is almost idle. Without a link it waits one second for the
// kernel.
func (w *wan) awaitQuiet() {
	if w == nil {
		time.Sleep(time.Second)
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
