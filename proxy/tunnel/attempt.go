package tunnel

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/culvert-proxy/culvert/proxy/tunnel/internal/race"
)

// try opens a stream over the preferred transport. again reports whether another try may succeed at
// once. patient means that what is ready was made a moment ago, and gets the full time to answer:
// on a slow network it needs it. When the epoch ends, try begins again: what it waits for has been
// dropped, and that is no fault of the transport.
func (d *dialling) try(ctx context.Context, o Open, first []byte, patient bool) (c *Conn, again bool, err error) {
	open, err := encodeOpen(o)
	if err != nil {
		return nil, false, err
	}
	for {
		chosen, err := d.race.Choose(ctx)
		if err != nil {
			return nil, false, err
		}
		now := d.epochs.current()
		start := time.Now()
		during, cancel := now.during(ctx)
		c, ready, err := d.attempt(during, chosen.Transport, open, false, func(c *Conn, ready bool) error {
			return d.await(during, c, ready && !patient, first)
		})
		cancel()
		if err == nil {
			return c, false, nil
		}
		answered := false
		if c != nil {
			c.Close()
			answered = c.ending.gotError.Load()
		}
		if d.epochs.look(); now.over() && ctx.Err() == nil {
			continue
		}
		slow := errors.Is(ctx.Err(), context.DeadlineExceeded) && time.Since(start) > d.t.handshake/2
		final := answered || ctx.Err() != nil && !slow
		return nil, d.failed(chosen, ready, final, err), err
	}
}

// failed draws the conclusions from a stream that was not opened, and reports whether another try
// may succeed at once. ready means that the stream was made from something that was ready, final
// that the error is not about the transport.
func (d *dialling) failed(chosen race.Choice[Welcome], ready, final bool, err error) (again bool) {
	pool := d.pools[chosen.Transport]
	e, ok := errors.AsType[*Error](err)
	switch {
	case race.Draining(err): // a new carrier may lead to another gateway
		pool.drop()
		return true
	case final || ok && e.Code == CodeVersion:
		return false
	case ready && !race.Authoritative(err):
		d.race.Unanswered(chosen, err, func() { d.epochs.next(pool.drop) })
		return true
	}
	return d.race.Refused(chosen, err)
}

// encodeOpen returns the OPEN capsule of o, with our version of the wire format.
func encodeOpen(o Open) ([]byte, error) {
	o.Version = Version
	value, err := encodeJSON(capsuleOpen, o)
	if err != nil {
		return nil, err
	}
	return appendCapsule(nil, capsuleOpen, value), nil
}

// await sends OPEN and first, and waits for the answer to OPEN. If the stream was made from
// something that was ready it waits only timing.answer or three round trips, because what was ready
// may have died unnoticed.
func (d *dialling) await(ctx context.Context, c *Conn, ready bool, first []byte) error {
	wait := d.t.handshake
	if ready {
		wait = max(d.t.answer, 3*time.Duration(d.rtt.Load()))
	}
	ctx, cancel := context.WithTimeoutCause(ctx, wait, fmt.Errorf("no answer to OPEN within %v", wait))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { c.SetWriteDeadline(aLongTimeAgo) })
	defer stop()
	start := time.Now()
	if len(first) > 0 {
		if _, err := c.Write(first); err != nil {
			return d.dialError(ctx, c.Transport(), err)
		}
	}
	answer, err := c.Opened(ctx)
	if err != nil {
		return d.dialError(ctx, c.Transport(), err)
	}
	d.answers.take(answer)
	if !stop() {
		return d.dialError(ctx, c.Transport(), context.Cause(ctx))
	}
	took := time.Since(start)
	d.rtt.Store(int64(took))
	d.doubtDelay(c.Transport(), took)
	return nil
}

// doubtDelay looks for a sign that a transport delays small messages: OPEN was answered much later
// than the first byte of a hello. Where ingresses are known to delay them, no sign is needed: the
// first message of a stream may be on time, because it leaves with the request.
func (d *dialling) doubtDelay(transport string, took time.Duration) {
	first := time.Duration(d.firsts[transport].Load())
	if first != 0 && took >= first+race.MuchLater || Remedy(transport, race.Late) != "" {
		d.race.Doubt(transport, race.Late)
	}
}

// attempt makes a stream over one transport and calls use, which waits for the gateway's answer on
// it. If the ingress refuses the credentials and may accept others, attempt does both again;
// nothing else retries for that reason. If use fails, the stream is returned together with the
// error, and the caller closes it.
func (d *dialling) attempt(ctx context.Context, transport string, open []byte, fresh bool, use func(c *Conn, ready bool) error) (c *Conn, ready bool, err error) {
	for try := 0; ; try++ {
		c, ready, err = d.dial(ctx, transport, open, fresh)
		if err == nil {
			err = use(c, ready)
		}
		if c != nil && race.Draining(err) {
			t, _ := transportNamed(transport)
			d.route.leave(t.network(), c.RemoteAddr())
		}
		e, ok := errors.AsType[*AnswerError](err)
		if !ok || !e.Again || try == MaxAgain || ctx.Err() != nil {
			return c, ready, err
		}
		if c != nil {
			c.Close()
		}
		d.log.Debug("exchange refused, trying again with other credentials", "err", err)
	}
}

// dial makes a stream over one transport, to the point where OPEN can be sent.
func (d *dialling) dial(ctx context.Context, transport string, open []byte, fresh bool) (c *Conn, ready bool, err error) {
	if err := d.start(); err != nil {
		return nil, false, err
	}
	defer d.streams.done()
	ctx, cancel := d.bound(ctx)
	defer cancel()
	start := time.Now()
	p, ok := d.pools[transport]
	if !ok {
		return nil, false, fmt.Errorf("dial gateway %s over %s: no such transport", d.route.addr(), transport)
	}
	if !fresh {
		d.spares.took()
	}
	c, ready, err = p.take(ctx, open, fresh)
	if !ready {
		d.dialled(transport, err, start)
	}
	if err != nil {
		return nil, ready, d.dialError(ctx, transport, err)
	}
	if !fresh {
		d.spares.look()
	}
	return c, ready, nil
}

// dialSpare dials a fresh stream that has no OPEN.
func (d *dialling) dialSpare(ctx context.Context, transport string) (*Conn, error) {
	return d.dialFresh(ctx, transport, nil)
}

// dialFresh dials a stream without using anything that is ready, and does not wait for the
// gateway's answer.
func (d *dialling) dialFresh(ctx context.Context, transport string, open []byte) (*Conn, error) {
	c, _, err := d.attempt(ctx, transport, open, true, func(*Conn, bool) error { return nil })
	return c, err
}

// bound limits ctx to the time that one dial may take.
func (d *dialling) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, d.t.handshake, fmt.Errorf("not connected within %v", d.t.handshake))
}

// dialled reports a finished dial to OnDial.
func (d *dialling) dialled(transport string, err error, start time.Time) {
	if d.onDial != nil && !errors.Is(err, context.Canceled) {
		d.onDial(transport, err, time.Since(start))
	}
}

// dialError says which dial failed and why. It leaves an ERROR of the gateway as it is, and adds
// its prefix only once.
func (d *dialling) dialError(ctx context.Context, transport string, err error) error {
	if ctx.Err() != nil && !errors.Is(err, context.Cause(ctx)) {
		err = context.Cause(ctx)
	}
	if e, ok := errors.AsType[*Error](err); ok && err == error(e) {
		return err // sent by the gateway
	}
	if _, ok := errors.AsType[*race.DialError](err); ok {
		return err
	}
	e := &race.DialError{Doing: "dial gateway", Gateway: d.route.addr(), Transport: transport, Err: err}
	if t, _ := transportNamed(transport); d.route.proxy != nil && !t.overUDP {
		e.Through = d.route.proxy.Host
	}
	return Explain(e)
}
