package inprocess_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/IBM/sarama"
	"github.com/segmentio/kafka-go"

	"github.com/culvert-proxy/culvert/proxy/dialer"
)

func Example_sarama() {
	config, stop := exampleGateway() // in your program: GatewayURLs and TokenFile
	defer stop()

	d, err := dialer.New(config)
	if err != nil {
		log.Fatal(err)
	}
	defer d.Close()
	settings := sarama.NewConfig()
	settings.Net.Proxy.Enable = true
	settings.Net.Proxy.Dialer = d
	settings.Producer.Return.Successes = true
	client, err := sarama.NewClient([]string{dialer.Bootstrap}, settings)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	producer, err := sarama.NewSyncProducerFromClient(client)
	if err != nil {
		log.Fatal(err)
	}
	defer producer.Close()
	partition, offset, err := producer.SendMessage(&sarama.ProducerMessage{Topic: "orders", Value: sarama.StringEncoder("one order")})
	if err != nil {
		log.Fatal(err)
	}
	consumer, err := sarama.NewConsumerFromClient(client)
	if err != nil {
		log.Fatal(err)
	}
	defer consumer.Close()
	messages, err := consumer.ConsumePartition("orders", partition, offset)
	if err != nil {
		log.Fatal(err)
	}
	defer messages.Close()
	m := <-messages.Messages()
	fmt.Printf("%s: %s\n", m.Topic, m.Value)
	// Output: orders: one order
}

func Example_segmentio() {
	config, stop := exampleGateway() // in your program: GatewayURLs and TokenFile
	defer stop()

	d, err := dialer.New(config)
	if err != nil {
		log.Fatal(err)
	}
	defer d.Close()
	transport := &kafka.Transport{Dial: d.DialContext}
	defer transport.CloseIdleConnections()
	w := &kafka.Writer{Addr: kafka.TCP(dialer.Bootstrap), Topic: "orders", Transport: transport}
	defer w.Close()
	r := kafka.NewReader(kafka.ReaderConfig{
		Brokers: []string{dialer.Bootstrap},
		Dialer:  &kafka.Dialer{DialFunc: d.DialContext},
		Topic:   "orders", GroupID: "billing", StartOffset: kafka.FirstOffset, MaxWait: time.Second,
	})
	defer r.Close()

	ctx := context.Background()
	if err := w.WriteMessages(ctx, kafka.Message{Value: []byte("one order")}); err != nil {
		log.Fatal(err)
	}
	m, err := r.ReadMessage(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s: %s\n", m.Topic, m.Value)
	// Output: orders: one order
}
