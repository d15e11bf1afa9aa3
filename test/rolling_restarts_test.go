package test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/errgroup"

	"github.com/culvert-proxy/culvert/test/kafka"
)

// TestNoRecordIsLostInARollingRestart restarts two gateways, one after the other, behind one address
// and with a URL for each, under producers with their default retries. No record is lost or duplicated, and every new
// client is served: agents move to the other gateway before clients notice.
func TestNoRecordIsLostInARollingRestart(t *testing.T) {
	bed := sharedTestbed(t)
	ctx, cancel := context.WithTimeoutCause(t.Context(), 3*time.Minute, errors.New("not done within three minutes"))
	defer cancel()
	if err := os.WriteFile(bed.file("ticket-key"), []byte("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var gateways []*gateway
	for range 2 {
		g, err := bed.newGateway(ctx, "--ticket-key-file", bed.file("ticket-key"), "--drain-timeout", "25s")
		if err != nil {
			t.Fatal(err)
		}
		closeWith(t, g)
		gateways = append(gateways, g)
	}
	ports, err := kafka.FreePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	front := &gateway{testbed: bed, listen: address(clientHost, ports[0])}
	newBalancer(t, front.listen, gateways...)

	topics := make(map[string]*path)
	newClientsOver := make(map[string]*newClients)
	var all errgroup.Group
	clientCtx, stopClients := context.WithCancel(ctx)
	defer stopClients()
	serve := func(name string, p *path, err error) {
		if err != nil {
			t.Fatal(err)
		}
		closeWith(t, p)
		for kind, produce := range producers {
			topic := bed.cluster.Topic(t, "rolling-"+kind+"-"+name)
			topics[topic] = p
			all.Go(func() error { return produce(t, ctx, p, topic) })
		}
		v := &newClients{bootstrap: p.bootstrap}
		newClientsOver[name] = v
		all.Go(func() error { v.run(clientCtx); return nil })
	}
	for _, transport := range transports {
		p, err := bed.newPath(ctx, front, transport)
		serve(transport, p, err)
	}
	both, err := bed.newPathTo(ctx, gateways[0], "https://"+gateways[0].listen+",https://"+gateways[1].listen, "auto")
	serve("two-urls", both, err)
	rollingRestart(t, ctx, gateways, func() bool { return true })
	if n := strings.Count(both.agent.Output().String(), "connections are spread over this gateway"); n != 2 {
		t.Errorf("the agent with two URLs spreads over %d gateways", n)
	}
	stopClients()
	if err := all.Wait(); err != nil {
		t.Error(err)
	}
	for transport, v := range newClientsOver {
		t.Run("new clients over "+transport, v.check)
	}
	for topic, p := range topics {
		t.Run(topic, func(t *testing.T) {
			reader := p.franz(t, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
			consume(t, reader, producing).check(t, producing)
			p.relay.Check(t)
		})
		if t.Failed() {
			t.Logf("log of the agent over %s:\n%s", p.transport, p.agent.Output())
		}
	}
	for _, g := range gateways {
		if t.Failed() {
			t.Logf("gateway log:\n%s", g.process.Output())
		}
	}
}

// rollingRestart restarts gateways one after the other. The next is stopped only when the last is
// ready and seen reports that the balancer or ingress knows it.
func rollingRestart(t *testing.T, ctx context.Context, gateways []*gateway, seen func() bool) {
	t.Helper()
	for _, g := range gateways {
		time.Sleep(2 * time.Second)
		began := time.Now()
		if err := g.close(); err != nil {
			t.Errorf("gateway: %v", err)
		}
		t.Logf("a gateway drained in %v", time.Since(began).Round(time.Millisecond))
		if strings.Contains(g.process.Output().String(), "did not end in time") {
			t.Error("streams were cut")
		}
		if err := g.start(ctx); err != nil {
			t.Fatal(err)
		}
		for (!isReady(ctx, g.admin) || !seen()) && ctx.Err() == nil {
			time.Sleep(50 * time.Millisecond)
		}
	}
	time.Sleep(2 * time.Second)
}

// newClients connects one new client after the other. Each sends one request.
type newClients struct {
	bootstrap string
	pause     time.Duration // between two clients; 0: 20 ms
	served    atomic.Int32
	failed    atomic.Pointer[error] // the first failure
}

// check fails the test if a client was not served, or there were few.
func (v *newClients) check(t *testing.T) {
	t.Helper()
	n, err := v.served.Load(), v.failed.Load()
	t.Logf("%d new clients were served", n)
	if n < 10 {
		t.Errorf("only %d new clients were served", n)
	}
	if err != nil {
		t.Errorf("a new client was not served: %v", *err)
	}
}

func (v *newClients) run(ctx context.Context) {
	pause := cmp.Or(v.pause, 20*time.Millisecond)
	for ctx.Err() == nil {
		if err := v.ask(); err != nil {
			v.failed.CompareAndSwap(nil, &err)
		} else {
			v.served.Add(1)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

func (v *newClients) ask() error {
	began := time.Now()
	c, err := net.Dial("tcp", v.bootstrap)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(began.Add(30 * time.Second)) // as a client's request.timeout.ms
	request := kmsg.NewPtrApiVersionsRequest()
	if _, err := c.Write(kmsg.NewRequestFormatter().AppendRequest(nil, request, 1)); err != nil {
		return err
	}
	if _, err := io.ReadFull(c, make([]byte, 8)); err != nil {
		return fmt.Errorf("no answer after %v at %s: %w", time.Since(began).Round(time.Millisecond), began.Format(time.TimeOnly), err)
	}
	return nil
}
