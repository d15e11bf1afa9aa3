package main

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kgo"
)

// kgoLoad measures a real client, franz-go. Most of the time is the client's own, since it handles
// each record separately.
func kgoLoad(run func(context.Context, *kgo.Client, *atomic.Int64), opts ...kgo.Opt) func(*row, *options) (figures, error) {
	return func(r *row, o *options) (figures, error) {
		client, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(r.brokers[0]), kgo.Dialer(r.dial)}, opts...)...)
		if err != nil {
			return nil, err
		}
		defer client.CloseAllowingRebalance()
		ctx, cancel := context.WithCancel(context.Background())
		var carried atomic.Int64
		over := make(chan struct{})
		go func() {
			defer close(over)
			run(ctx, client, &carried)
		}()
		f := observe(r, o.window, &carried)
		cancel()
		<-over
		if f[rate.name] == 0 {
			return nil, errors.New("franz-go got nothing done")
		}
		return f, nil
	}
}

// dial replaces the address that a broker advertises with the row's address for it.
func (r *row) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if id := slices.Index(r.advertised, address); id >= 0 {
		address = r.brokers[id]
	}
	return r.wan.dialContext(ctx, network, address)
}

var kgoProducer = []kgo.Opt{
	kgo.DefaultProduceTopic(topic), kgo.DisableIdempotentWrite(), kgo.RequiredAcks(kgo.LeaderAck()),
	kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.MaxProduceRequestsInflightPerBroker(inFlight),
}

func kgoProduce(ctx context.Context, client *kgo.Client, carried *atomic.Int64) {
	value := make([]byte, recordSize)
	done := func(_ *kgo.Record, err error) {
		if err == nil {
			carried.Add(recordSize)
		}
	}
	for ctx.Err() == nil {
		client.Produce(ctx, &kgo.Record{Value: value}, done)
	}
}

var kgoConsumer = []kgo.Opt{
	kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().At(0), 1: kgo.NewOffset().At(0), 2: kgo.NewOffset().At(0)}}),
	kgo.DisableFetchSessions(),
}

func kgoConsume(ctx context.Context, client *kgo.Client, carried *atomic.Int64) {
	for ctx.Err() == nil {
		client.PollFetches(ctx).EachRecord(func(r *kgo.Record) { carried.Add(int64(len(r.Value))) })
	}
}
