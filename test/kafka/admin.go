package kafka

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Need skips a test that starts Apache Kafka, unless that was requested and is possible.
func Need(t testing.TB) {
	t.Helper()
	if os.Getenv("CULVERT_TEST_REAL") == "" {
		t.Skip("needs Apache Kafka and its clients: set CULVERT_TEST_REAL=1 to install and start them (go run ./test/all does)")
	}
	if err := Available(); err != nil {
		t.Skip(err)
	}
}

// metadataAge is how long a client may use cached metadata. By default it would wait five seconds
// for a topic that was just created.
const metadataAge = 20 * time.Millisecond

// Admin returns a client of the internal listener that ends with the test. Tests use it to prepare,
// and to compare with results through culvert.
func (c *Cluster) Admin(t testing.TB) *kadm.Client {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(c.Internal(), ",")...), kgo.MetadataMinAge(metadataAge))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return kadm.NewClient(client)
}

// Unique returns the name with a number appended that no other name has.
func (c *Cluster) Unique(name string) string {
	return fmt.Sprintf("%s-%d", name, c.names.Add(1))
}

// Topic creates a topic of three partitions, each on up to three brokers. It returns when every
// broker knows the leaders. The topic's name is the given one with a number appended.
func (c *Cluster) Topic(t testing.TB, name string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	admin, topic := c.Admin(t), c.Unique(name)
	if _, err := admin.CreateTopic(ctx, 3, int16(min(len(c.nodes), 3)), nil, topic); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.nodes {
		if err := n.waitTopic(ctx, topic, 3); err != nil {
			t.Fatal(err)
		}
	}
	if err := waitLeaders(ctx, admin, topic); err != nil {
		t.Fatal(err)
	}
	return topic
}

// waitLeaders returns when the leader of each partition acts as such. A broker names itself as
// leader a moment earlier.
func waitLeaders(ctx context.Context, admin *kadm.Client, topic string) error {
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for {
		offsets, err := admin.ListEndOffsets(ctx, topic)
		if err == nil {
			err = offsets.Error()
		}
		if err == nil {
			return nil
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return fmt.Errorf("leaders of topic %s: %w", topic, err)
		}
	}
}

// ShareFromEarliest makes a share group start at the first record instead of the next one. Only the
// group's own configuration can set that.
func (c *Cluster) ShareFromEarliest(t testing.TB, group string) {
	t.Helper()
	const groupResource = 32
	earliest := "earliest"
	config := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
	config.Name, config.Value = "share.auto.offset.reset", &earliest
	resource := kmsg.NewIncrementalAlterConfigsRequestResource()
	resource.ResourceType, resource.ResourceName = groupResource, group
	resource.Configs = append(resource.Configs, config)
	request := kmsg.NewPtrIncrementalAlterConfigsRequest()
	request.Resources = append(request.Resources, resource)

	client, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(c.Internal(), ",")...))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	response, err := request.RequestWith(t.Context(), client)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range response.Resources {
		if err := kerr.ErrorForCode(r.ErrorCode); err != nil {
			t.Fatal(fmt.Errorf("share group %s from earliest: %w", group, err))
		}
	}
}
