package tunnel

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/culvert-proxy/culvert/proxy/tunnel/race"
)

// try opens a stream over the best transport. again says that another try may do better at once. patient says that what is ready now was made
// lately, and deserves to be waited for: on a slow network an answer may take long.
func (d *Dialer) try(ctx context.Context, o Open, first []byte, patient bool) (c *Conn, again bool, err error) {
	chosen, err := d.race.Choose(ctx)
	if err != nil {
		return nil, false, err
	}
	open, err := encodeOpen(o)
	if err != nil {
		return nil, false, err
	}
	pool := d.pools[chosen.Transport]
	start := time.Now()
	c, ready, err := d.attempt(ctx, chosen.Transport, open, false, func(c *Conn, ready bool) error {
		return d.await(ctx, c, ready && !patient, first)
	})
	if err == nil {
		return c, false, nil
	}
	answered := false
	if c != nil {
		c.Close()
		answered = c.ending.told.Load()
	}
	if e, ok := errors.AsType[*Error](err); ok && e.Code == CodeVersion {
		answered = true
	}
	slow := errors.Is(ctx.Err(), context.DeadlineExceeded) && time.Since(start) > d.t.handshake/2
	switch {
	case race.Draining(err): // a fresh carrier may lead to another gateway
		pool.drop()
		return nil, true, err
	case answered || ctx.Err() != nil && !slow:
		return nil, false, err
	case ready && !race.Authoritative(err):
		d.race.Unanswered(chosen, err, pool.drop)
		return nil, true, err
	}
	return nil, d.race.Refused(chosen, err), err
}

func encodeOpen(o Open) ([]byte, error) {
	o.Version = Version
	value, err := encodeJSON(capsuleOpen, o)
	if err != nil {
		return nil, err
	}
	return appendCapsule(nil, capsuleOpen, value), nil
}

// await sends OPEN and first, and waits for the answer to OPEN: not for long where the stream is made of what was ready.
func (d *Dialer) await(ctx context.Context, c *Conn, ready bool, first []byte) error {
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
	if _, err := c.Opened(ctx); err != nil {
		return d.dialError(ctx, c.Transport(), err)
	}
	if !stop() {
		return d.dialError(ctx, c.Transport(), context.Cause(ctx))
	}
	d.rtt.Store(int64(time.Since(start)))
	return nil
}

// attempt makes a stream over one transport, and has use wait for the gateway on it. When the ingress refuses the credentials and may take
// others, all of that is done again; there is no other place that does so. The stream is returned also with an error of use.
func (d *Dialer) attempt(ctx context.Context, transport string, open []byte, fresh bool, use func(c *Conn, ready bool) error) (c *Conn, ready bool, err error) {
	for try := 0; ; try++ {
		c, ready, err = d.dial(ctx, transport, open, fresh)
		if err == nil {
			err = use(c, ready)
		}
		e, ok := errors.AsType[*AnswerError](err)
		if !ok || !e.Again || try == MaxAgain || ctx.Err() != nil {
			return c, ready, err
		}
		if c != nil {
			c.Close()
		}
		d.log.Debug("exchange is tried again with other credentials", "err", err)
	}
}

// dial makes a stream over one transport, up to where OPEN can leave.
func (d *Dialer) dial(ctx context.Context, transport string, open []byte, fresh bool) (c *Conn, ready bool, err error) {
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
	c, ready, err = p.take(ctx, open, fresh)
	if !ready {
		d.dialled(transport, err, start)
	}
	if err != nil {
		return nil, ready, d.dialError(ctx, transport, err)
	}
	if ready {
		d.spares.look()
	}
	return c, ready, nil
}

// dialSpare is dialFresh without an OPEN.
func (d *Dialer) dialSpare(ctx context.Context, transport string) (*Conn, error) {
	return d.dialFresh(ctx, transport, nil)
}

// dialFresh is dial where nothing that is ready will do, and the gateway's answer is not waited for.
func (d *Dialer) dialFresh(ctx context.Context, transport string, open []byte) (*Conn, error) {
	c, _, err := d.attempt(ctx, transport, open, true, func(*Conn, bool) error { return nil })
	return c, err
}

// bound is how long a dial may take.
func (d *Dialer) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, d.t.handshake, fmt.Errorf("no exchange within %v", d.t.handshake))
}

// dialled reports a dial of a transport.
func (d *Dialer) dialled(transport string, err error, start time.Time) {
	if d.OnDial != nil && !errors.Is(err, context.Canceled) {
		d.OnDial(transport, err, time.Since(start))
	}
}

// dialError says what was done, and why it failed.
func (d *Dialer) dialError(ctx context.Context, transport string, err error) error {
	if ctx.Err() != nil && !errors.Is(err, context.Cause(ctx)) {
		err = context.Cause(ctx)
	}
	if e, ok := errors.AsType[*Error](err); ok && err == error(e) {
		return err // the gateway's word
	}
	prefix := fmt.Sprintf("dial gateway %s: ", d.way(transport))
	if strings.HasPrefix(err.Error(), prefix) {
		return err
	}
	return Explain(fmt.Errorf("%s%w", prefix, err))
}

// way says where a dial leads: the gateway, the transport, and the proxy before it.
func (d *Dialer) way(transport string) string {
	way := d.route.addr() + " over " + transport
	if t, _ := transportNamed(transport); d.route.proxy != nil && !t.overUDP {
		way += " through the proxy " + d.route.proxy.Host
	}
	return way
}
