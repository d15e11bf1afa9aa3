package test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"
)

// TestNoRecordIsLostWhenCulvertRestarts kills and restarts the agents and then the gateway while
// clients produce and consume. The new gateway has a new ticket key, so its old tickets are
// invalid.
func TestNoRecordIsLostWhenCulvertRestarts(t *testing.T) {
	bed := sharedTestbed(t)
	ctx, cancel := context.WithTimeoutCause(t.Context(), 2*time.Minute, errors.New("producers not done within two minutes"))
	defer cancel()
	g, err := bed.newGateway(ctx)
	if err != nil {
		t.Fatal(err)
	}
	closeWith(t, g)
	topics := make(map[string]*path)
	var all errgroup.Group
	for _, transport := range transports {
		p, err := bed.newPath(ctx, g, transport)
		if err != nil {
			t.Fatal(err)
		}
		closeWith(t, p)
		for kind, produce := range producers {
			topic := bed.cluster.Topic(t, "restart-"+kind+"-"+transport)
			topics[topic] = p
			all.Go(func() error { return produce(t, ctx, p, topic) })
		}
	}
	readers := make(map[string]chan *arrivals)
	for topic, p := range topics {
		readers[topic] = make(chan *arrivals, 1)
		client := p.franz(t, kgo.ConsumeTopics(topic), kgo.ConsumerGroup(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
		go func() { readers[topic] <- consume(t, client, producing) }()
	}
	restart(t, ctx, g, slices.Compact(slices.SortedFunc(maps.Values(topics), func(a, b *path) int { return a.port - b.port })))
	if err := all.Wait(); err != nil {
		t.Error(err)
	}
	for topic, p := range topics {
		t.Run(topic, func(t *testing.T) {
			(<-readers[topic]).checkAtLeastOnce(t, producing)
			reader := p.franz(t, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
			consume(t, reader, producing).check(t, producing)
			p.relay.Check(t)
		})
		if t.Failed() {
			t.Logf("log of the agent over %s:\n%s", p.transport, p.agent.Output())
		}
	}
	if t.Failed() {
		t.Logf("gateway log:\n%s", g.process.Output())
	}
}

// restart restarts agents and gateway twice, once after SIGKILL and once gracefully.
func restart(t *testing.T, ctx context.Context, g *gateway, paths []*path) {
	t.Helper()
	for _, end := range []string{"crash", "order"} {
		time.Sleep(2 * time.Second)
		for _, p := range paths {
			if end == "crash" {
				p.agent.Kill()
			} else if err := stopCulvert(p.agent); err != nil {
				t.Errorf("agent over %s: %v", p.transport, err)
			}
			if err := p.start(ctx); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(2 * time.Second)
		if end == "crash" {
			g.process.Kill()
		} else if err := g.close(); err != nil {
			t.Errorf("gateway: %v", err)
		}
		if err := g.start(ctx); err != nil {
			t.Fatal(err)
		}
	}
}
