package tunnel

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/exchange"
	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/race"
)

// dialling is the state of a Dialer. init sets it up once, when the first method is called.
type dialling struct {
	log     *slog.Logger
	t       timing
	w       windows
	route   *route
	race    *race.Race[Welcome]
	pools   map[string]pool
	memory  memory
	spares  *spareKeeper
	epochs  *epochs
	streams streamSet
	flows   flowWatch
	cpu     func() time.Duration                                  // cpuTime but in tests
	onDial  func(transport string, err error, took time.Duration) // nil means nobody
	answers answers
	rtt     atomic.Int64             // round trip of the last OPEN that was answered, in nanoseconds
	firsts  map[string]*atomic.Int64 // by transport, how long the first byte of its last hello's echo took, in nanoseconds
}

// start counts a dial that Close waits for.
func (d *dialling) start() error {
	if err := d.w.check(); err != nil {
		return err
	}
	if err := d.streams.start(); err != nil {
		return err
	}
	d.epochs.watch()
	return nil
}

// answers are what gateways say of themselves.
type answers struct {
	version atomic.Pointer[string] // of the gateway that answered last
	told    func(Opened)           // Dialer.OnOpened; nil means nobody
}

// take takes an answer to OPEN.
func (a *answers) take(o Opened) {
	if last := a.version.Load(); last == nil || *last != o.Gateway {
		a.version.Store(&o.Gateway)
	}
	if a.told != nil {
		a.told(o)
	}
}

// dropReady drops what is ready over all transports, and has it replaced.
func (d *dialling) dropReady() {
	for _, p := range d.pools {
		p.drop()
	}
	d.spares.look()
}

// newStream makes a stream that Close ends, and that tells the race if it is cut. A cut is no fault
// of the transport if the process was paused meanwhile.
func (d *dialling) newStream(x exchange.Exchange, transport string, open []byte) (*Conn, error) {
	pauses := d.epochs.look().pauses
	return d.streams.add(func(done func(*Conn)) *Conn {
		var c *Conn
		c = newDialled(x, transport, &d.t, open, &d.flows, func() {
			if c.ending.cut.Load() && c.isOpened() && d.epochs.look().pauses == pauses {
				d.race.Cut(transport)
			}
			done(c)
		})
		return c
	}, x.Abort)
}

// dialsAtOnce is how many spares are dialled at the same time: enough to be ready again a second
// after a burst, and few beside the burst itself.
const dialsAtOnce = 8

// fillSpares makes n streams ready over the transport in use, and returns that transport. last is
// the transport of the previous call, "" if there was none; if it has changed, what was ready over
// the old one is dropped.
func (d *dialling) fillSpares(ctx context.Context, last string, n int) (transport string, err error) {
	if n == 0 {
		if last != "" {
			d.pools[last].missing(0) // which lets all of them expire
		}
		return "", nil
	}
	chosen, err := d.race.Choose(ctx)
	if err != nil {
		return last, err
	}
	if last != "" && last != chosen.Transport {
		d.pools[last].drop()
	}
	now := d.epochs.current()
	ctx, cancel := now.during(ctx)
	defer cancel()
	if err := prepare(ctx, d.pools[chosen.Transport], n); err != nil {
		if now.over() {
			return chosen.Transport, nil
		}
		d.log.Debug("spare not dialled", "transport", chosen.Transport, "err", err)
		d.race.Refused(chosen, err)
		return chosen.Transport, err
	}
	return chosen.Transport, nil
}

// prepare makes enough ready in a pool for n streams. It tries n times and not until there are n:
// what is made ready may die as fast as it is dialled.
func prepare(ctx context.Context, p pool, n int) error {
	for tries := 0; tries < n; {
		more := min(p.missing(n), n-tries, dialsAtOnce)
		if more == 0 {
			return nil
		}
		tries += more
		dials, ctx := errgroup.WithContext(ctx) // which the first failure ends: the others may take long to fail
		for range more {
			dials.Go(func() error { return p.prepare(ctx) })
		}
		if err := dials.Wait(); err != nil {
			return err
		}
	}
	return nil
}
