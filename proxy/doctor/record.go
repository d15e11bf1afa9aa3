package doctor

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/culvert-proxy/culvert/proxy/printable"
)

// produce writes one record to a topic, and reads it again.
func (c *cluster) produce(ctx context.Context) {
	if !c.loggedIn {
		f := skipped("a record", "writing a record needs a login that works", "")
		f.Hop = "record"
		c.report(f)
		return
	}
	c.hop(ctx, "record", c.record)
}

func (c *cluster) record(ctx context.Context) Finding {
	topic := printable.Text(c.Produce, printable.Name)
	record := &kgo.Record{Topic: c.Produce, Key: []byte(clientID), Value: []byte("written by culvert doctor at " + time.Now().UTC().Format(time.RFC3339Nano))}
	start := time.Now()
	// Without idempotence, the client's user needs no right but to write to this topic.
	producer, err := c.newClient(c.dialNode, kgo.DisableIdempotentWrite(), kgo.UnknownTopicRetries(1), kgo.RecordRetries(2))
	if err != nil {
		return c.failure(ctx, err)
	}
	defer producer.Close()
	if err := producer.ProduceSync(ctx, record).FirstErr(); err != nil {
		return c.clientFailure(ctx, fmt.Errorf("write a record to %s: %w", topic, err))
	}
	where := fmt.Sprintf("%s, partition %d, offset %d", topic, record.Partition, record.Offset)
	wrote := time.Since(start)
	if err := c.readBack(ctx, record); err != nil {
		return c.clientFailure(ctx, fmt.Errorf("a record was written to %s; read it: %w", where, err))
	}
	c.tally.recorded = true
	return ok("wrote %q to %s after %s, and read it after %s", record.Value, where, millis(wrote), millis(time.Since(start)))
}

// readBack reads the record at an offset, and checks that it is the one that was written.
func (c *cluster) readBack(ctx context.Context, wrote *kgo.Record) error {
	consumer, err := c.newClient(c.dialNode, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{
		wrote.Topic: {wrote.Partition: kgo.NewOffset().At(wrote.Offset)},
	}), kgo.RequestRetries(2))
	if err != nil {
		return err
	}
	defer consumer.Close()
	for {
		fetches := consumer.PollRecords(ctx, 1)
		if err := fetches.Err(); err != nil {
			return err
		}
		for r := range fetches.RecordsAll() {
			if r.Offset != wrote.Offset || string(r.Value) != string(wrote.Value) || string(r.Key) != string(wrote.Key) {
				return fmt.Errorf("at offset %d there is another record", r.Offset)
			}
			return nil
		}
	}
}

// dialNode connects a client to a broker that Metadata has named, or to a bootstrap broker.
func (c *cluster) dialNode(ctx context.Context, address string) (net.Conn, error) {
	if address == seed {
		return c.open(ctx, node{})
	}
	return c.open(ctx, node{address: address, ticket: c.tickets.of(address)})
}
