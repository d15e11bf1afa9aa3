// Command sarama runs the round trip with github.com/IBM/sarama. With sasl.user and sasl.password
// it logs in as clients did before Kafka 1.0: no ApiVersions, SaslHandshake v0 and raw tokens.
package main

import (
	"context"

	"github.com/IBM/sarama"

	"github.com/culvert-proxy/culvert/test/clients/go/inprocess"
	"github.com/culvert-proxy/culvert/test/clients/go/roundtrip"
)

func main() { roundtrip.Main(run) }

func run(ctx context.Context, t *roundtrip.Trip) error {
	config := settings(t)
	d, err := inprocess.Dialer(t)
	if err != nil {
		return err
	}
	if d != nil {
		defer d.Close()
		config.Net.Proxy.Enable, config.Net.Proxy.Dialer = true, d
	}
	if err := produce(t, config); err != nil {
		return err
	}
	group, err := sarama.NewConsumerGroup(t.Brokers, t.Group, config)
	if err != nil {
		return err
	}
	defer group.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	h := &handler{trip: t, done: cancel, claims: make(chan *sarama.ConsumerMessage)}
	go h.collect(ctx)
	for ctx.Err() == nil {
		if err := group.Consume(ctx, []string{t.Topic}, h); err != nil {
			return err
		}
	}
	return h.err
}

func settings(t *roundtrip.Trip) *sarama.Config {
	config := sarama.NewConfig()
	config.Producer.RequiredAcks = sarama.WaitForAll
	config.Producer.Return.Successes = true
	config.Producer.Idempotent = true
	config.Net.MaxOpenRequests = 1
	config.Consumer.Offsets.Initial = sarama.OffsetOldest
	if user := t.Options["sasl.user"]; user != "" {
		config.ApiVersionsRequest = false
		config.Net.SASL.Enable = true
		config.Net.SASL.Version = sarama.SASLHandshakeV0
		config.Net.SASL.User = user
		config.Net.SASL.Password = t.Options["sasl.password"]
	}
	return config
}

func produce(t *roundtrip.Trip, config *sarama.Config) error {
	producer, err := sarama.NewSyncProducer(t.Brokers, config)
	if err != nil {
		return err
	}
	defer producer.Close()
	var all []*sarama.ProducerMessage
	for _, r := range t.Records() {
		all = append(all, &sarama.ProducerMessage{Topic: t.Topic, Key: sarama.ByteEncoder(r.Key), Value: sarama.ByteEncoder(r.Value)})
	}
	return producer.SendMessages(all)
}

// handler collects the records of all partitions, which are consumed in parallel.
type handler struct {
	trip   *roundtrip.Trip
	claims chan *sarama.ConsumerMessage
	done   context.CancelFunc
	err    error
}

func (h *handler) collect(ctx context.Context) {
	defer h.done()
	for h.err == nil && !h.trip.Done() {
		select {
		case m := <-h.claims:
			h.err = h.trip.Add(m.Partition, m.Value)
		case <-ctx.Done():
			return
		}
	}
}

func (h *handler) Setup(sarama.ConsumerGroupSession) error   { return nil }
func (h *handler) Cleanup(sarama.ConsumerGroupSession) error { return nil }

func (h *handler) ConsumeClaim(s sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for m := range claim.Messages() {
		select {
		case h.claims <- m:
			s.MarkMessage(m, "")
		case <-s.Context().Done():
			return nil
		}
	}
	return nil
}
