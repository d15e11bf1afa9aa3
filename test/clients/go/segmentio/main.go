// Command segmentio runs the round trip with github.com/segmentio/kafka-go.
package main

import (
	"context"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/culvert-proxy/culvert/test/clients/go/roundtrip"
)

func main() { roundtrip.Main(run) }

func run(ctx context.Context, t *roundtrip.Trip) error {
	if err := produce(ctx, t); err != nil {
		return err
	}
	r := kafka.NewReader(kafka.ReaderConfig{Brokers: t.Brokers, GroupID: t.Group, Topic: t.Topic, StartOffset: kafka.FirstOffset, MaxWait: time.Second})
	defer r.Close()
	for !t.Done() {
		m, err := r.ReadMessage(ctx)
		if err != nil {
			return err
		}
		if err := t.Add(int32(m.Partition), m.Value); err != nil {
			return err
		}
	}
	return nil
}

func produce(ctx context.Context, t *roundtrip.Trip) error {
	w := &kafka.Writer{Addr: kafka.TCP(t.Brokers...), Topic: t.Topic, RequiredAcks: kafka.RequireAll, Balancer: &kafka.Hash{}, BatchTimeout: 20 * time.Millisecond}
	var all []kafka.Message
	for _, r := range t.Records() {
		all = append(all, kafka.Message{Key: r.Key, Value: r.Value})
	}
	if err := w.WriteMessages(ctx, all...); err != nil {
		return err
	}
	return w.Close()
}
