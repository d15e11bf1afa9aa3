package inprocess_test

import (
	"context"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/segmentio/kafka-go"

	"github.com/culvert-proxy/culvert/proxy/dialer"
)

// A gateway comes back with another key: connections end, and the tickets for the brokers are no
// longer accepted. With the settings that a client has by default, its user must not notice.
func restarted(t *testing.T, d *dialer.Dialer, g *gateway, send func() error) {
	t.Helper()
	for range 3 {
		for range 6 { // to each partition
			if err := send(); err != nil {
				t.Fatal(err)
			}
		}
		g.stop()
		g.start()
	}
}

// running starts a gateway, and a dialer through it, until the test ends.
func running(t *testing.T) (*dialer.Dialer, *gateway) {
	g := startCluster()
	t.Cleanup(g.cluster.Close)
	g.start()
	t.Cleanup(func() { g.stop() })
	d, err := dialer.New(g.config())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d, g
}

func TestSaramaSurvivesAGatewayThatIsReplaced(t *testing.T) {
	d, g := running(t)
	settings := sarama.NewConfig()
	settings.Net.Proxy.Enable, settings.Net.Proxy.Dialer = true, d
	settings.Producer.Return.Successes = true
	producer, err := sarama.NewSyncProducer([]string{dialer.Bootstrap}, settings)
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	restarted(t, d, g, func() error {
		_, _, err := producer.SendMessage(&sarama.ProducerMessage{Topic: "orders", Value: sarama.StringEncoder("one order")})
		return err
	})
}

func TestSegmentioSurvivesAGatewayThatIsReplaced(t *testing.T) {
	d, g := running(t)
	transport := &kafka.Transport{Dial: d.DialContext}
	defer transport.CloseIdleConnections()
	w := &kafka.Writer{Addr: kafka.TCP(dialer.Bootstrap), Topic: "orders", Transport: transport, BatchTimeout: 10 * time.Millisecond}
	defer w.Close()
	restarted(t, d, g, func() error {
		return w.WriteMessages(context.Background(), kafka.Message{Value: []byte("one order")})
	})
}
