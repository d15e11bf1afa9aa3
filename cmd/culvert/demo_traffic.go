package main

import (
	"context"
	"log/slog"
	"math"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	trafficTopic = "demo-traffic"
	trafficGroup = "demo-traffic-readers"

	// A record every so often, in waves: figures that never change look as if they were stale.
	trafficFast = 150 * time.Millisecond
	trafficSlow = 600 * time.Millisecond
	trafficWave = 40 * time.Second

	lagEvery    = 5 * time.Second // how often the lag of the group is asked for
	deleteEvery = time.Minute     // how often all records are deleted, which would otherwise fill the memory
	// trafficTimeout bounds each step, so that a broker that is gone does not end the traffic.
	trafficTimeout = 10 * time.Second
)

// traffic is a client of the demo's own: it produces and consumes a few records per second through
// the agent, so that the page, the metrics and the log have something to show. Its topic is its
// own, so that other clients find in theirs only what they put there.
type traffic struct {
	client *kgo.Client
	admin  *kadm.Client
	log    *slog.Logger
}

// newTraffic makes the client, which run closes.
func newTraffic(k kafkaClient, log *slog.Logger) (*traffic, error) {
	client, err := k.new(
		kgo.ClientID("culvert-demo"), kgo.DefaultProduceTopic(trafficTopic), kgo.ProducerLinger(0),
		kgo.RecordPartitioner(kgo.RoundRobinPartitioner()), // each broker gets some
		kgo.ConsumerGroup(trafficGroup), kgo.ConsumeTopics(trafficTopic),
	)
	if err != nil {
		return nil, err
	}
	return &traffic{client: client, admin: kadm.NewClient(client), log: log}, nil
}

// run lasts until ctx is done. Errors are no reason to end: whoever watches the demo may break it on
// purpose.
func (t *traffic) run(ctx context.Context) error {
	defer t.client.Close()
	t.try(ctx, "create topic", func(ctx context.Context) error {
		_, err := t.admin.CreateTopic(ctx, demoBrokers, demoBrokers, nil, trafficTopic)
		return err
	})
	var consumer sync.WaitGroup
	consumer.Go(func() { t.consume(ctx) })
	t.produce(ctx)
	consumer.Wait()
	return nil
}

// consume reads what produce writes, as a member of a group that commits.
func (t *traffic) consume(ctx context.Context) {
	for ctx.Err() == nil {
		t.client.PollFetches(ctx)
	}
}

// produce writes records, asks for the lag now and then, and deletes what was read. One goroutine
// does it all, so that no record is deleted that was produced a moment ago.
func (t *traffic) produce(ctx context.Context) {
	begin := time.Now()
	lagAt, deleteAt := begin.Add(lagEvery), begin.Add(deleteEvery)
	for i := 0; pause(ctx, trafficPause(time.Since(begin))); i++ {
		now := time.Now()
		if now.After(deleteAt) {
			deleteAt = now.Add(deleteEvery)
			t.try(ctx, "delete records", t.deleteAll)
		}
		if now.After(lagAt) {
			lagAt = now.Add(lagEvery)
			t.try(ctx, "ask for the lag", t.lag)
		}
		t.try(ctx, "produce", func(ctx context.Context) error {
			return t.client.ProduceSync(ctx, kgo.StringRecord("record "+strconv.Itoa(i))).FirstErr()
		})
	}
}

// try bounds a step, and logs its error unless ctx is the reason.
func (t *traffic) try(ctx context.Context, step string, do func(context.Context) error) {
	bounded, cancel := context.WithTimeout(ctx, trafficTimeout)
	defer cancel()
	if err := do(bounded); err != nil && ctx.Err() == nil {
		t.log.DebugContext(ctx, "step of the demo's traffic failed", "step", step, "err", err)
	}
}

// lag asks for what a monitor would: the state of the group, its offsets, and those of the
// partitions.
func (t *traffic) lag(ctx context.Context) error {
	lags, err := t.admin.Lag(ctx, trafficGroup)
	if err != nil {
		return err
	}
	return lags.Error()
}

// deleteAll deletes all records, for the brokers keep them in memory.
func (t *traffic) deleteAll(ctx context.Context) error {
	ends, err := t.admin.ListEndOffsets(ctx, trafficTopic)
	if err != nil {
		return err
	}
	deleted, err := t.admin.DeleteRecords(ctx, ends.Offsets())
	if err != nil {
		return err
	}
	return deleted.Error()
}

// trafficPause is the time between two records, age after the start.
func trafficPause(age time.Duration) time.Duration {
	wave := (1 + math.Sin(2*math.Pi*age.Seconds()/trafficWave.Seconds())) / 2
	return trafficFast + time.Duration(wave*float64(trafficSlow-trafficFast))
}

// pause waits for d, and reports whether ctx is still not done.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
