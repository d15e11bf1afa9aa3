package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/exchange"
	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/race"
)

const (
	// rateEcho is the size of the echo that measures a rate, in bytes. A gateway of any version
	// echoes maxEcho, and no more.
	rateEcho = 512 << 10

	// smallMessage and largeMessage are the sizes of the echoes that measure a delay, in bytes. A
	// large one fills a TCP segment even on loopback, so that nothing holds its first bytes back.
	smallMessage, largeMessage = 64, 80 << 10

	// delayEchoes is how often both are sent: an accident does not happen each time.
	delayEchoes = 3

	// workEchoes is how many echoes of rateEcho follow each other to measure CPU time. They take 5 to
	// 30 ms of it, and the system counts it to the microsecond or, at worst, in steps of 10 ms.
	workEchoes = 16
)

// Pace measures the Dialer's transport, or with auto the one in use: how fast an echo of 512 KiB
// is, and how late small messages come. It exists for diagnosis.
func (d *Dialer) Pace(ctx context.Context) (p Pace, err error) {
	d.init()
	chosen, err := d.race.Choose(ctx)
	if err != nil {
		return Pace{}, err
	}
	late, err := d.measure(ctx, chosen.Transport, race.Late)
	if err != nil {
		return Pace{}, err
	}
	p, err = d.measure(ctx, chosen.Transport, race.Slow)
	p.Last, p.Delay = late.Last, late.Delay
	return p, err
}

// measure sends echoes that show whether a transport has a fault, over a carrier of their own.
func (d *dialling) measure(ctx context.Context, transport string, f race.Fault) (p race.Pace, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, d.t.hello, fmt.Errorf("not finished within %v", d.t.hello))
	defer cancel()
	err = d.echo(ctx, transport, func(c *Conn) (err error) {
		if f == race.Slow {
			p, err = d.measureRate(c)
		} else {
			p, err = measureDelay(c)
		}
		return err
	})
	if f != race.Costly || err != nil || p.Last >= race.ShortPath {
		return p, err
	}
	p.Work = race.Work{Transport: transport, Moved: make(map[string]int64)}
	for range workEchoes {
		if err := d.echo(ctx, transport, func(c *Conn) error { return d.measureWork(c, &p.Work) }); err != nil {
			return p, err
		}
	}
	return p, nil
}

// echo calls do with a stream to the gateway's echo, over a carrier of its own.
func (d *dialling) echo(ctx context.Context, transport string, do func(*Conn) error) error {
	open, err := encodeOpen(Open{Target: TargetHello})
	if err != nil {
		return err
	}
	c, _, err := d.attempt(ctx, transport, open, true, func(c *Conn, _ bool) error {
		_, err := c.Opened(ctx)
		return err
	})
	if c != nil {
		defer c.Close()
	}
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(aLongTimeAgo) })
	defer stop()
	return do(c)
}

// measureWork adds what one echo takes, without the dial.
func (d *dialling) measureWork(c *Conn, w *race.Work) error {
	cpu, moved := d.cpu(), d.flows.movedBy()
	if _, err := d.measureRate(c); err != nil {
		return err
	}
	w.CPU += d.cpu() - cpu
	for t, n := range d.flows.movedBy() {
		w.Moved[t] += n - moved[t]
	}
	return nil
}

// measureRate sends an echo, and stops when it has come back or timing.rate is over.
func (d *dialling) measureRate(c *Conn) (p race.Pace, err error) {
	before, start := d.flows.total(), time.Now()
	end := time.AfterFunc(d.t.rate, func() { c.SetDeadline(aLongTimeAgo) })
	defer end.Stop()
	var sending sync.WaitGroup
	sending.Go(func() {
		if _, err := c.Write(noise(rateEcho)); err == nil {
			c.CloseWrite()
		}
	})
	n, err := io.Copy(io.Discard, c)
	took := max(time.Since(start), time.Microsecond)
	c.SetWriteDeadline(aLongTimeAgo)
	sending.Wait()
	if err != nil && !exchange.IsTimeout(err) {
		return p, err
	}
	own := c.flow.up.moved.Load() + c.flow.down.moved.Load()
	p.Echo = float64(n) / took.Seconds()
	p.Rate = p.Echo + float64(max(0, d.flows.total()-before-own))/took.Seconds()
	return p, nil
}

// measureDelay sends small messages, each followed by a large one when its echo has arrived. A
// large message pushes its own beginning through whatever waits for more bytes.
func measureDelay(c *Conn) (p race.Pace, err error) {
	large := noise(largeMessage)
	for i := range delayEchoes {
		small, err := firstByte(c, large[:smallMessage])
		if err != nil {
			return p, err
		}
		first, err := firstByte(c, large)
		if err != nil {
			return p, err
		}
		if delay := small - first; i == 0 || delay < p.Delay {
			p.Delay = delay
		}
		if i == 0 || small < p.Last {
			p.Last = small
		}
	}
	return p, nil
}

// firstByte sends a message, waits for its whole echo, and returns how long the first byte took.
func firstByte(c *Conn, message []byte) (first time.Duration, err error) {
	start := time.Now()
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(message)
		sent <- err
	}()
	got := make([]byte, len(message))
	n, err := c.Read(got)
	first = time.Since(start)
	if err == nil {
		_, err = io.ReadFull(c, got[n:])
	}
	if err != nil {
		c.SetWriteDeadline(aLongTimeAgo)
	}
	return first, errors.Join(err, <-sent)
}

// noise returns pseudo-random bytes, so that no intermediary can compress or cache them.
func noise(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

// mend returns another way to send over a transport, for the race.
func (d *dialling) mend(transport string) (how string, try func() (undo func())) {
	p, ok := d.pools[transport]
	if !ok {
		return "", nil
	}
	return p.otherSending()
}
