package main

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

// The brokers of the demo hold records in memory, and the demo may stay up for days.
func TestTrafficDeletesItsRecords(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(demoBrokers))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	k := kafkaClient{bootstrap: cluster.ListenAddrs()[0]}
	traffic, err := newTraffic(k, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		traffic.run(ctx)
	}()
	defer func() { stop(); <-done }()

	observer, err := k.new()
	if err != nil {
		t.Fatal(err)
	}
	defer observer.Close()
	admin := kadm.NewClient(observer)
	awaitRead(t, admin, 6)
	if err := traffic.lag(ctx); err != nil {
		t.Errorf("lag: %v", err)
	}
	before, err := admin.ListEndOffsets(ctx, trafficTopic)
	if err != nil {
		t.Fatal(err)
	}
	if err := traffic.deleteAll(ctx); err != nil {
		t.Fatal(err)
	}
	starts, err := admin.ListStartOffsets(ctx, trafficTopic)
	if err != nil {
		t.Fatal(err)
	}
	before.Each(func(end kadm.ListedOffset) {
		if start, _ := starts.Lookup(end.Topic, end.Partition); start.Offset < end.Offset || end.Offset == 0 {
			t.Errorf("partition %d: the first of %d records is %d, want none", end.Partition, end.Offset, start.Offset)
		}
	})
	awaitRead(t, admin, sum(before)+6) // it goes on
}

// awaitRead waits until the group has committed n records.
func awaitRead(t *testing.T, admin *kadm.Client, n int64) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		offsets, err := admin.FetchOffsets(t.Context(), trafficGroup)
		var read int64
		offsets.Each(func(o kadm.OffsetResponse) { read += o.At })
		if read >= n {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d records read, want %d: %v", read, n, err)
		}
	}
}

func sum(offsets kadm.ListedOffsets) (n int64) {
	offsets.Each(func(o kadm.ListedOffset) { n += o.Offset })
	return n
}

// Whoever stops the brokers, or deletes the topic, sees the demo stay up.
func TestTrafficOutlivesErrors(t *testing.T) {
	traffic, err := newTraffic(kafkaClient{bootstrap: "127.0.0.1:1", options: []kgo.Opt{kgo.RequestRetries(0)}}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), time.Second)
	defer stop()
	if err := traffic.run(ctx); err != nil || ctx.Err() == nil {
		t.Errorf("ended with %v before it was stopped", err)
	}
}
