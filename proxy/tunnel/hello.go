package tunnel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/race"
)

// helloSize is how many bytes a hello sends and expects back. It is large enough to expose an
// intermediary that buffers, or a path that drops large packets.
const helloSize = 64 << 10

// maxTickets bounds the tickets of one hello. The largest known clusters have a few hundred
// brokers.
const maxTickets = 4096

// welcome is the hello that the race uses. It always dials, because it measures the transport and
// not what happens to be ready. If the epoch ends meanwhile, it begins again.
func (d *dialling) welcome(ctx context.Context, transport string) (Welcome, error) {
	for {
		now := d.epochs.current()
		w, err := d.helloIn(ctx, now, transport)
		if err == nil || !now.over() || ctx.Err() != nil {
			return w, err
		}
	}
}

// helloIn says hello over one transport, until the epoch ends.
func (d *dialling) helloIn(ctx context.Context, now *epoch, transport string) (Welcome, error) {
	ctx, cancel := now.during(ctx)
	defer cancel()
	defer d.epochs.look()
	return d.hello(ctx, transport, true)
}

// hello says hello over one transport. If the exchange gets through and the hello still fails, it
// tries the transport's other method of opening streams and keeps to that if it works. The first
// attempt gets a fifth of the time, so that the second has enough left.
func (d *dialling) hello(ctx context.Context, transport string, fresh bool) (Welcome, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, d.t.hello, fmt.Errorf("not finished within %v", d.t.hello))
	defer cancel()
	var other func() (by string, undo func())
	if p, ok := d.pools[transport]; ok {
		other = p.otherMethod()
	}
	if other == nil {
		w, _, err := d.helloOver(ctx, transport, fresh, d.t.hello)
		return w, err
	}
	w, dialled, err := d.helloOver(ctx, transport, fresh, d.t.hello/5)
	if err == nil || !dialled || race.FromGateway(err) || ctx.Err() != nil {
		return w, err
	}
	by, undo := other()
	w, _, err2 := d.helloOver(ctx, transport, fresh, d.t.hello)
	if err2 != nil {
		undo()
		return Welcome{}, err
	}
	d.log.Info("streams now opened with another method", "transport", transport, "by", by, "err", err)
	return w, nil
}

// helloOver says hello over one exchange. limit bounds the time after the exchange is dialled;
// dialled reports whether it got that far.
func (d *dialling) helloOver(ctx context.Context, transport string, fresh bool, limit time.Duration) (w Welcome, dialled bool, err error) {
	open, err := encodeOpen(Open{Target: TargetHello})
	if err != nil {
		return Welcome{}, false, err
	}
	c, _, err := d.attempt(ctx, transport, open, fresh, func(c *Conn, _ bool) (err error) {
		w, err = d.greet(ctx, c, limit)
		return err
	})
	if c != nil {
		c.Close()
	}
	return w, c != nil, err
}

// greet says hello on a stream, within limit.
func (d *dialling) greet(ctx context.Context, c *Conn, limit time.Duration) (w Welcome, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not finished within %v", limit))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(aLongTimeAgo) })
	defer stop()
	c.OnTicket(func(t Ticket) {
		if len(w.Tickets) < maxTickets {
			w.Tickets = append(w.Tickets, t)
		}
	})
	start := time.Now()
	first, err := echo(c)
	if err != nil {
		if ctx.Err() != nil {
			err = unanswered(ctx, c.Transport())
		}
		if _, ok := errors.AsType[*AnswerError](err); ok {
			return Welcome{}, err // the exchange was refused
		}
		return Welcome{}, Explain(&race.DialError{Doing: "hello to gateway", Gateway: d.route.addr(), Transport: c.Transport(), Err: err})
	}
	d.rtt.Store(int64(time.Since(start)) / 2) // a hello takes at least two round trips
	d.firsts[c.Transport()].Store(int64(max(first, 1)))
	w.Opened = c.answer
	d.answers.take(c.answer)
	return w, nil
}

// unanswered is the error of a hello that got no answer, with the hint of its transport.
func unanswered(ctx context.Context, over string) error {
	err := context.Cause(ctx)
	t, _ := transportNamed(over)
	if t.silenceHint == "" || errors.Is(err, context.Canceled) {
		return err
	}
	return &hints.Error{Err: err, Remedy: t.silenceHint}
}

// introduce dials a carrier for later streams and waits until the gateway has answered a request on
// it: the gateway closes a carrier on which no request authenticates within timing.unauthenticated.
func (d *dialling) introduce(ctx context.Context, transport string) error {
	open, err := encodeOpen(Open{Target: TargetHello})
	if err != nil {
		return err
	}
	c, _, err := d.attempt(ctx, transport, open, true, func(c *Conn, _ bool) error {
		ctx, cancel := d.bound(ctx)
		defer cancel()
		answer, err := c.Opened(ctx)
		if err != nil {
			return d.dialError(ctx, transport, err)
		}
		d.answers.take(answer)
		return nil
	})
	if c != nil {
		c.Close()
	}
	return err
}

// echo sends helloSize bytes and expects them back, followed by io.EOF. It returns how long the
// first of them took.
func echo(c *Conn) (first time.Duration, err error) {
	sent, start := noise(helloSize), time.Now()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		if _, err := c.Write(sent); err == nil {
			c.CloseWrite()
		}
	})
	got := make([]byte, helloSize)
	n, err := c.Read(got)
	first = time.Since(start)
	if err == nil {
		_, err = io.ReadFull(c, got[n:])
	}
	if err != nil {
		c.SetWriteDeadline(aLongTimeAgo)
		return 0, err
	}
	if !bytes.Equal(got, sent) {
		return 0, fmt.Errorf("echo differs from what was sent")
	}
	if n, err := c.Read(got); err != io.EOF {
		return 0, fmt.Errorf("echo continues after its end: %d bytes, %v", n, err) //nolint:errorlint // err may be nil
	}
	return first, nil
}
