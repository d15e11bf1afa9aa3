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
	// attemptTimeout bounds a client that is meant to fail.
	attemptTimeout = time.Second
	// attemptDialTimeout bounds each of its two dials, where a resolver does not answer. It is less
	// than half of attemptTimeout, so that the error printed is the client's own, which names the
	// address.
	attemptDialTimeout = 400 * time.Millisecond
)

// kafkaClient is an ordinary Kafka client: nothing in it knows of culvert.
type kafkaClient struct {
	bootstrap string
	tls       *tls.Config // nil: plaintext
	options   []kgo.Opt
}

// new makes a client of franz-go. The caller closes it.
func (k kafkaClient) new(more ...kgo.Opt) (*kgo.Client, error) {
	options := append([]kgo.Opt{kgo.SeedBrokers(k.bootstrap)}, k.options...)
	if k.tls != nil {
		options = append(options, kgo.DialTLSConfig(k.tls))
	}
	return kgo.NewClient(append(options, more...)...)
}

// createTopic creates the topic, and returns the addresses of brokers that the client has been
// told.
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

// attempt is createTopic by a client that gives up soon and does not retry.
func (k kafkaClient) attempt(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	k.options = []kgo.Opt{kgo.RequestRetries(0), kgo.DialTimeout(attemptDialTimeout)}
	_, err := k.createTopic(ctx)
	return err
}

// produce writes n numbered records, each after the one before has been acknowledged.
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

// consume reads n records as a member of a group, commits, and returns how many were in each
// partition. It fails unless they are exactly those that produce wrote.
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
	check := newRecordCheck(n)
	for check.total < n {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return nil, fmt.Errorf("%d of %d records: %w", check.total, n, err)
		}
		fetches.EachPartition(check.add)
	}
	if err := check.verify(); err != nil {
		return nil, err
	}
	return check.counts[:], client.CommitUncommittedOffsets(ctx)
}

// recordCheck compares what was consumed with what produce wrote: the numbers from 0, rising within
// each partition.
type recordCheck struct {
	seen   []int                 // how often each number was consumed
	total  int                   // records consumed
	counts [demoPartitions]int   // records consumed, by partition
	ends   [demoPartitions]int64 // high watermarks
	last   [demoPartitions]int   // the number consumed last
	err    error                 // the first thing that was wrong
}

// newRecordCheck makes a check of n records.
func newRecordCheck(n int) *recordCheck {
	c := &recordCheck{seen: make([]int, n)}
	for p := range c.last {
		c.last[p] = -1 // less than any number
	}
	return c
}

// add takes the records of one partition out of one Fetch response.
func (c *recordCheck) add(p kgo.FetchTopicPartition) {
	c.ends[p.Partition] = p.HighWatermark
	p.EachRecord(func(r *kgo.Record) {
		if err := c.addRecord(r); err != nil && c.err == nil {
			c.err = fmt.Errorf("partition %d, offset %d: %w", r.Partition, r.Offset, err)
		}
	})
}

func (c *recordCheck) addRecord(r *kgo.Record) error {
	c.total++
	c.counts[r.Partition]++
	i, err := strconv.Atoi(string(r.Value))
	if err != nil || i < 0 || i >= len(c.seen) {
		return fmt.Errorf("%q was never produced", r.Value)
	}
	last := c.last[r.Partition]
	c.seen[i]++
	c.last[r.Partition] = i
	if i < last {
		return fmt.Errorf("record %d after record %d", i, last)
	}
	return nil
}

// verify fails unless each number came exactly once, in order, and the brokers hold no further
// records.
func (c *recordCheck) verify() error {
	if c.err != nil {
		return c.err
	}
	for i, n := range c.seen {
		if n != 1 {
			return fmt.Errorf("record %d came %d times", i, n)
		}
	}
	var written int64
	for _, end := range c.ends {
		written += end
	}
	if written != int64(c.total) {
		return fmt.Errorf("the brokers hold %d records, and %d were produced", written, c.total)
	}
	return nil
}

// clientError is the text of a client's error without the layers that name its retries and
// requests.
func clientError(err error) string {
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

// measured reads culvert_request_duration_seconds of one end. Its only label is the API key.
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
