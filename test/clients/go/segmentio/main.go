// Command segmentio runs the round trip with github.com/segmentio/kafka-go.
package main

import (
	"context"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/culvert-proxy/culvert/test/clients/go/inprocess"
	"github.com/culvert-proxy/culvert/test/clients/go/roundtrip"
)

func main() { roundtrip.Main(run) }

func run(ctx context.Context, t *roundtrip.Trip) error {
	d, err := inprocess.Dialer(t)
	if err != nil {
		return err
	}
	transport, dial := &kafka.Transport{}, *kafka.DefaultDialer
	if d != nil {
		defer d.Close()
		transport.Dial, dial.DialFunc = d.DialContext, d.DialContext
	}
	defer transport.CloseIdleConnections()
	if err := produce(ctx, t, transport); err != nil {
		return err
	}
	r := kafka.NewReader(kafka.ReaderConfig{Dialer: &dial, Brokers: t.Brokers, GroupID: t.Group, Topic: t.Topic, StartOffset: kafka.FirstOffset, MaxWait: time.Second})
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

func produce(ctx context.Context, t *roundtrip.Trip, transport *kafka.Transport) error {
	w := &kafka.Writer{Transport: transport, Addr: kafka.TCP(t.Brokers...), Topic: t.Topic, RequiredAcks: kafka.RequireAll, Balancer: &kafka.Hash{}, BatchTimeout: 20 * time.Millisecond}
	var all []kafka.Message
	for _, r := range t.Records() {
		all = append(all, kafka.Message{Key: r.Key, Value: r.Value})
	}
	if err := w.WriteMessages(ctx, all...); err != nil {
		return err
	}
	return w.Close()
}
