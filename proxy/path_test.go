package proxy

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

func TestClientProducesAndConsumesInAGroup(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		c := startCluster(t, 3, kfake.SeedTopics(6, "t"))
		path := startPath(t, c, transport, nil)
		const n = 1000
		produce(t, newClient(t, path.address), "t", n)
		group := newClient(t, path.address, kgo.ConsumerGroup("g"), kgo.ConsumeTopics("t"))
		for value, times := range consume(t, group, n) {
			if times != 1 {
				t.Errorf("record %s came %d times", value, times)
			}
		}
	})
}
