// Command franz runs the round trip with github.com/twmb/franz-go.
package main

import (
	"context"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/culvert-proxy/culvert/test/clients/go/inprocess"
	"github.com/culvert-proxy/culvert/test/clients/go/roundtrip"
)

func main() { roundtrip.Main(run) }

func run(ctx context.Context, t *roundtrip.Trip) error {
	d, err := inprocess.Dialer(t)
	if err != nil {
		return err
	}
	options := []kgo.Opt{
		kgo.SeedBrokers(t.Brokers...), kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ConsumeTopics(t.Topic), kgo.ConsumerGroup(t.Group), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
	}
	if d != nil {
		defer d.Close()
		options = append(options, kgo.Dialer(d.DialContext))
	}
	client, err := kgo.NewClient(options...)
	if err != nil {
		return err
	}
	defer client.Close()
	var all []*kgo.Record
	for _, r := range t.Records() {
		all = append(all, &kgo.Record{Topic: t.Topic, Key: r.Key, Value: r.Value})
	}
	if err := client.ProduceSync(ctx, all...).FirstErr(); err != nil {
		return err
	}
	for !t.Done() {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return err
		}
		for _, r := range fetches.Records() {
			if err := t.Add(r.Partition, r.Value); err != nil {
				return err
			}
		}
	}
	return nil
}
