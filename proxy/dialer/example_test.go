package dialer_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/culvert-proxy/culvert/proxy/dialer"
	"github.com/culvert-proxy/culvert/proxy/fakekafka"
)

// A program that reaches its gateway over HTTPS, with a token.
func ExampleNew() {
	config := dialer.Config{
		GatewayURLs: []string{"https://kafka.example.com"},
		TokenFile:   "/etc/app/culvert-token",
	}
	d, err := dialer.New(config)
	if err != nil {
		log.Fatal(err)
	}
	defer d.Close()
	// Give d.DialContext to a Kafka client, and dialer.Bootstrap as its seed.
}

// With franz-go, brokers that speak TLS to their clients need a dialer that does too.
func ExampleDialer_DialContext() {
	d, err := dialer.New(dialer.Config{GatewayURLs: []string{"https://kafka.example.com"}})
	if err != nil {
		log.Fatal(err)
	}
	defer d.Close()
	dialTLS := func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := d.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		host, _, _ := net.SplitHostPort(address)
		secure := tls.Client(conn, &tls.Config{ServerName: host})
		if err := secure.HandshakeContext(ctx); err != nil {
			conn.Close()
			return nil, err
		}
		return secure, nil
	}
	client, err := kgo.NewClient(kgo.SeedBrokers("kafka-0.kafka.internal:9093"), kgo.Dialer(dialTLS))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
}

// What the gateway offers beside Kafka is reached by its name, with any client that dials.
func ExampleDialer_DialForward() {
	d, err := dialer.New(dialer.Config{GatewayURLs: []string{"https://kafka.example.com"}})
	if err != nil {
		log.Fatal(err)
	}
	defer d.Close()
	registry := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return d.DialForward(ctx, "schema-registry")
		},
	}}
	defer registry.CloseIdleConnections()
	answer, err := registry.Get("http://schema-registry/subjects")
	if err != nil {
		log.Print(err)
		return
	}
	answer.Body.Close()
}

// franz-go: the dialer is an option of the client, and Bootstrap is its seed.
func Example_franz() {
	config, stop := exampleGateway() // in your program: GatewayURLs and TokenFile
	defer stop()

	d, err := dialer.New(config)
	if err != nil {
		log.Fatal(err)
	}
	defer d.Close()
	client, err := kgo.NewClient(
		kgo.SeedBrokers(dialer.Bootstrap),
		kgo.Dialer(d.DialContext),
		kgo.ConsumeTopics("orders"),
	)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	ctx := context.Background()
	if err := client.ProduceSync(ctx, &kgo.Record{Topic: "orders", Value: []byte("one order")}).FirstErr(); err != nil {
		log.Fatal(err)
	}
	client.PollFetches(ctx).EachRecord(func(r *kgo.Record) {
		fmt.Printf("%s: %s\n", r.Topic, r.Value)
	})
	// Output: orders: one order
}

// exampleGateway starts three brokers in memory and a gateway in front of them. It returns how to
// reach the gateway.
func exampleGateway() (config dialer.Config, stop func()) {
	cluster, err := fakekafka.Start(3, topic("orders"))
	if err != nil {
		log.Fatal(err)
	}
	g, err := startGateway("127.0.0.1:0", cluster.Bootstrap(), slog.New(slog.DiscardHandler), nil)
	if err != nil {
		log.Fatal(err)
	}
	return g.config("ws"), func() { g.stop(); cluster.Close() }
}
