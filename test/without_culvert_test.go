package test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// TestBrokersCannotBeUsedDirectly is the control. Without culvert only the bootstrap address
// answers, and the names in the response do not resolve. If a client works all the same, the other
// tests prove nothing.
func TestBrokersCannotBeUsedDirectly(t *testing.T) {
	bed := sharedTestbed(t)
	topic := bed.cluster.Topic(t, "control")
	t.Run("franz-go", func(t *testing.T) {
		client, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(bed.cluster.Bootstrap(), ",")...), kgo.DisableIdempotentWrite())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		if err := client.Ping(t.Context()); err != nil {
			t.Errorf("the bootstrap address does not answer: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if err := client.ProduceSync(ctx, numbered(topic, 1)...).FirstErr(); err == nil {
			t.Error("a record arrived")
		}
	})
	t.Run("kcat", func(t *testing.T) {
		if out, err := kcat(t, bed.cluster.Bootstrap(), "hello\n", "-P", "-t", topic, "-X", "message.timeout.ms=2000"); err == nil {
			t.Errorf("a record arrived: %s", out)
		}
	})
}
