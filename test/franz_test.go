package test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// patience is how long a test waits for records.
const patience = time.Minute

// franz returns a franz-go client that goes through culvert.
func (p *path) franz(t *testing.T, options ...kgo.Opt) *kgo.Client {
	t.Helper()
	common := []kgo.Opt{kgo.SeedBrokers(p.bootstrap), kgo.RequiredAcks(kgo.AllISRAcks())}
	if p.at != nil {
		common = append(common, kgo.Dialer(p.at.Dial))
	}
	client, err := kgo.NewClient(append(common, options...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

// numbered returns count numbered records.
func numbered(topic string, count int) []*kgo.Record {
	records := make([]*kgo.Record, count)
	for i := range records {
		records[i] = &kgo.Record{Topic: topic, Key: fmt.Appendf(nil, "key-%d", i), Value: strconv.AppendInt(nil, int64(i), 10)}
	}
	return records
}

// filled returns numbered records of about size bytes each. Their noise is what arrivals checks.
func filled(topic string, count, size int) []*kgo.Record {
	records := numbered(topic, count)
	for i, r := range records {
		r.Value = append(append(r.Value, ' '), noise(i, size)...)
	}
	return records
}

// noise returns size bytes that are different for every n.
func noise(n, size int) []byte {
	b := make([]byte, size)
	rand.NewChaCha8([32]byte{byte(n), byte(n >> 8), byte(n >> 16)}).Read(b)
	return b
}

// produce returns when all records are acknowledged.
func produce(t *testing.T, client *kgo.Client, records []*kgo.Record) {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), patience, errors.New("not all records acknowledged in time"))
	defer cancel()
	if err := client.ProduceSync(ctx, records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

// consume reads numbered records until count different ones have come.
func consume(t *testing.T, client *kgo.Client, count int) *arrivals {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	late := time.AfterFunc(patience, func() { cancel(fmt.Errorf("none of %d records for %s", count, patience)) })
	defer late.Stop()
	arrived := newArrivals()
	for seen := 0; seen < count; {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			t.Error(context.Cause(ctx))
			return arrived
		}
		before := seen
		fetches.EachRecord(func(r *kgo.Record) { seen = arrived.add(r.Partition, r.Value) })
		if seen > before {
			late.Reset(patience)
		}
	}
	return arrived
}

func TestFranz(t *testing.T) {
	groups := map[string][]kgo.Opt{
		"classic": nil,
		"KIP-848": {kgo.ServerSideBalancer()},
	}
	eachWay(t, func(t *testing.T, p *path) {
		topic := p.cluster.Topic(t, "franz-"+p.transport)
		produce(t, p.franz(t), numbered(topic, 3000))
		for name, options := range groups {
			t.Run(name, func(t *testing.T) {
				client := p.franz(t, append(options, kgo.ConsumeTopics(topic), kgo.ConsumerGroup(topic+"-"+name), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))...)
				consume(t, client, 3000).check(t, 3000)
				if err := client.CommitUncommittedOffsets(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		t.Run("share", func(t *testing.T) {
			p.cluster.ShareFromEarliest(t, topic+"-share")
			client := p.franz(t, kgo.ConsumeTopics(topic), kgo.ShareGroup(topic+"-share"))
			consume(t, client, 3000).checkAtLeastOnce(t, 3000)
		})
	})
}

// TestFranzTransactions consumes, produces and commits in one transaction, and aborts and repeats
// every third. Each record must be copied exactly once.
func TestFranzTransactions(t *testing.T) {
	eachWay(t, func(t *testing.T, p *path) {
		from, to := p.cluster.Topic(t, "eos-from-"+p.transport), p.cluster.Topic(t, "eos-to-"+p.transport)
		produce(t, p.franz(t), numbered(from, 500))
		copyTransactionally(t, p, from, to, 500)
		reader := p.franz(t, kgo.ConsumeTopics(to), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
		consume(t, reader, 500).check(t, 500)
	})
}

func copyTransactionally(t *testing.T, p *path, from, to string, count int) {
	t.Helper()
	session, err := kgo.NewGroupTransactSession(kgo.SeedBrokers(p.bootstrap), kgo.TransactionalID(to), kgo.ConsumerGroup(to),
		kgo.ConsumeTopics(from), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for copied, round := 0, 0; copied < count; round++ {
		fetches := session.PollRecords(ctx, 60)
		if err := fetches.Err0(); err != nil {
			t.Fatal(err)
		}
		if err := session.Begin(); err != nil {
			t.Fatal(err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			session.Produce(ctx, &kgo.Record{Topic: to, Key: r.Key, Value: r.Value}, nil)
		})
		committed, err := session.End(ctx, kgo.TransactionEndTry(round%3 != 1))
		if err != nil {
			t.Fatal(err)
		}
		if committed {
			copied += fetches.NumRecords()
		}
	}
}
