package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	demoTopic      = "demo"
	demoGroup      = "demo-readers"
	demoPartitions = 6
	demoBrokers    = 3 // one replica on each
	// attemptTimeout is how long a client tries that is meant to fail.
	attemptTimeout = time.Second
	// attemptDialTimeout is how long it waits where a resolver is silent. It dials
	// twice, and its own error names the address.
	attemptDialTimeout = 400 * time.Millisecond
)

// kafkaClient is a client as anybody would write it, which knows nothing of
// culvert.
type kafkaClient struct {
	bootstrap string
	tls       *tls.Config // nil: plaintext
	options   []kgo.Opt
}

func (k kafkaClient) new(more ...kgo.Opt) (*kgo.Client, error) {
	options := append([]kgo.Opt{kgo.SeedBrokers(k.bootstrap)}, k.options...)
	if k.tls != nil {
		options = append(options, kgo.DialTLSConfig(k.tls))
	}
	return kgo.NewClient(append(options, more...)...)
}

// createTopic creates the topic and returns where the client has been told that
// the brokers are.
func (k kafkaClient) createTopic(ctx context.Context) (brokers []string, err error) {
	client, err := k.new()
	if err != nil {
		return nil, err
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	if _, err := admin.CreateTopic(ctx, demoPartitions, demoBrokers, nil, demoTopic); err != nil {
		return nil, err
	}
	details, err := admin.ListBrokers(ctx)
	for _, b := range details {
		brokers = append(brokers, net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port))))
	}
	return brokers, err
}

// attempt is createTopic by a client that soon gives up.
func (k kafkaClient) attempt(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	k.options = []kgo.Opt{kgo.RequestRetries(0), kgo.DialTimeout(attemptDialTimeout)}
	_, err := k.createTopic(ctx)
	return err
}

// produce writes records that are numbered, each when the one before has been
// acknowledged.
func (k kafkaClient) produce(ctx context.Context, n int) error {
	client, err := k.new(kgo.DefaultProduceTopic(demoTopic), kgo.RequiredAcks(kgo.AllISRAcks()), kgo.ProducerLinger(0))
	if err != nil {
		return err
	}
	defer client.Close()
	for i := range n {
		r := kgo.KeyStringRecord("key-"+strconv.Itoa(i), strconv.Itoa(i))
		if err := client.ProduceSync(ctx, r).FirstErr(); err != nil {
			return fmt.Errorf("record %d of %d: %w", i+1, n, err)
		}
	}
	return nil
}

// consume reads n records as a member of a group, commits, and returns how many
// were in each partition. It fails unless they are those that produce wrote.
func (k kafkaClient) consume(ctx context.Context, n int) (counts []int, err error) {
	client, err := k.new(
		kgo.ConsumerGroup(demoGroup), kgo.ConsumeTopics(demoTopic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.DisableAutoCommit(),
		kgo.FetchMaxPartitionBytes(512), // many small requests, so that there is something to measure
	)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	l := newLedger(n)
	for l.total < n {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return nil, fmt.Errorf("%d of %d records: %w", l.total, n, err)
		}
		fetches.EachPartition(l.note)
	}
	if err := l.check(); err != nil {
		return nil, err
	}
	return l.counts[:], client.CommitUncommittedOffsets(ctx)
}

// ledger holds what was consumed against what was produced: the numbers from 0,
// rising within each partition.
type ledger struct {
	times  []int // that each number came
	total  int
	counts [demoPartitions]int   // by partition
	ends   [demoPartitions]int64 // their logs'
	last   [demoPartitions]int   // numbers
	wrong  error                 // the first thing that was
}

func newLedger(n int) *ledger {
	l := &ledger{times: make([]int, n)}
	for p := range l.last {
		l.last[p] = -1
	}
	return l
}

func (l *ledger) note(p kgo.FetchTopicPartition) {
	l.ends[p.Partition] = p.HighWatermark
	p.EachRecord(func(r *kgo.Record) {
		if err := l.add(r); err != nil && l.wrong == nil {
			l.wrong = fmt.Errorf("partition %d, offset %d: %w", r.Partition, r.Offset, err)
		}
	})
}

func (l *ledger) add(r *kgo.Record) error {
	l.total++
	l.counts[r.Partition]++
	i, err := strconv.Atoi(string(r.Value))
	if err != nil || i < 0 || i >= len(l.times) {
		return fmt.Errorf("%q was never produced", r.Value)
	}
	last := l.last[r.Partition]
	l.times[i]++
	l.last[r.Partition] = i
	if i < last {
		return fmt.Errorf("record %d after record %d", i, last)
	}
	return nil
}

// check fails unless each number came once, in order, and the logs hold no more.
func (l *ledger) check() error {
	if l.wrong != nil {
		return l.wrong
	}
	for i, n := range l.times {
		if n != 1 {
			return fmt.Errorf("record %d came %d times", i, n)
		}
	}
	var written int64
	for _, end := range l.ends {
		written += end
	}
	if written != int64(l.total) {
		return fmt.Errorf("the brokers hold %d records, and %d were produced", written, l.total)
	}
	return nil
}

// plain is what a client's error says has happened.
func plain(err error) string {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Error()
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Sprintf("no answer within %v", attemptTimeout)
	}
	return err.Error()
}

// timing is what one end has measured of an API key.
type timing struct {
	requests uint64
	mean     time.Duration
}

// measured reads culvert_request_duration_seconds.
func measured(g prometheus.Gatherer, apiKey string) (t timing, err error) {
	families, err := g.Gather()
	if err != nil {
		return t, err
	}
	for _, f := range families {
		if f.GetName() != "culvert_request_duration_seconds" {
			continue
		}
		for _, m := range f.GetMetric() {
			if h := m.GetHistogram(); m.GetLabel()[0].GetValue() == apiKey {
				t.requests = h.GetSampleCount()
				t.mean = time.Duration(h.GetSampleSum() / float64(t.requests) * float64(time.Second))
			}
		}
	}
	return t, nil
}
