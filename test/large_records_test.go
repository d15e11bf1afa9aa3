package test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

// TestLargeRecordsArriveUnchanged fetches responses of many megabytes. They are noise, so any
// misplaced byte shows.
func TestLargeRecordsArriveUnchanged(t *testing.T) {
	eachWay(t, func(t *testing.T, p *path) {
		topic := p.cluster.Topic(t, "large-"+p.transport)
		noise := rand.NewChaCha8([32]byte{1})
		sums := make(map[[sha256.Size]byte]bool)
		var records []*kgo.Record
		for range 40 {
			value := make([]byte, 900<<10)
			noise.Read(value)
			sums[sha256.Sum256(value)] = true
			records = append(records, &kgo.Record{Topic: topic, Value: value})
		}
		produce(t, p.franz(t, kgo.ProducerBatchCompression(kgo.NoCompression())), records)
		reader := p.franz(t, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
			kgo.FetchMaxBytes(50<<20), kgo.FetchMaxPartitionBytes(50<<20), kgo.FetchMinBytes(10<<20))
		ctx, cancel := context.WithTimeoutCause(t.Context(), patience, errors.New("not all large records came"))
		defer cancel()
		for len(sums) > 0 {
			fetches := reader.PollFetches(ctx)
			if ctx.Err() != nil {
				t.Fatal(context.Cause(ctx))
			}
			fetches.EachRecord(func(r *kgo.Record) {
				sum := sha256.Sum256(r.Value)
				if !sums[sum] {
					t.Errorf("record %d of partition %d is not one that was sent: %x…", r.Offset, r.Partition, bytes.Clone(r.Value[:8]))
				}
				delete(sums, sum)
			})
		}
	})
}
