package tunnel

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
)

// helloSize is how much a hello sends and wants back: more than an intermediary that buffers, or drops large packets, lets through unnoticed.
const helloSize = 64 << 10

// Hello asks the gateway who it is, checks with an echo of 64 KiB that bytes pass both ways, and hands the gateway's tickets to tickets,
// which may be nil.
func (d *Dialer) Hello(ctx context.Context, tickets func(Ticket)) (o Opened, err error) {
	err = d.overBest(ctx, func(transport string) error {
		o, err = d.hello(ctx, transport, tickets)
		return err
	})
	return o, err
}

func (d *Dialer) hello(ctx context.Context, transport string, tickets func(Ticket)) (Opened, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, d.t.hello, fmt.Errorf("no end of it within %v", d.t.hello))
	defer cancel()
	c, err := d.dial(ctx, transport, Open{Target: TargetHello})
	if err != nil {
		return Opened{}, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(aLongTimeAgo) })
	defer stop()
	c.OnTicket(tickets)
	if err := echo(c); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return Opened{}, explain(fmt.Errorf("hello to gateway %s over %s: %w", d.addr(), transport, err))
	}
	return c.answer, nil
}

// echo sends bytes and wants them back, and then the end.
func echo(c *Conn) error {
	sent := make([]byte, helloSize)
	rand.NewChaCha8([32]byte{1}).Read(sent)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		if _, err := c.Write(sent); err == nil {
			c.CloseWrite()
		}
	})
	got := make([]byte, helloSize)
	if _, err := io.ReadFull(c, got); err != nil {
		c.SetWriteDeadline(aLongTimeAgo)
		return err
	}
	if !bytes.Equal(got, sent) {
		return fmt.Errorf("echo differs from what was sent")
	}
	if n, err := c.Read(got); err != io.EOF {
		return fmt.Errorf("echo goes on after its end: %d bytes, %v", n, err)
	}
	return nil
}
