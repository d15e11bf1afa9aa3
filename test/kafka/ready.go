package kafka

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// WaitReady returns when every running node has all nodes in its metadata. It returns an error when
// a node has ended, or after a minute and a half.
func (c *Cluster) WaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 90*time.Second, errors.New("not ready within 90 s"))
	defer cancel()
	running := 0
	for _, n := range c.nodes {
		if n.runs() {
			running++
		}
	}
	for _, n := range c.nodes {
		if n.process == nil {
			continue
		}
		if err := n.waitPort(ctx); err != nil {
			return fmt.Errorf("node %d: %w", n.id, err)
		}
	}
	for _, n := range c.nodes {
		if err := n.waitMetadata(ctx, running); err != nil {
			return fmt.Errorf("node %d: %w", n.id, err)
		}
	}
	return nil
}

func (n *node) runs() bool {
	if n.process == nil {
		return false
	}
	select {
	case <-n.process.Done():
		return false
	default:
		return true
	}
}

// waitPort waits for the client listener, which a broker opens last.
func (n *node) waitPort(ctx context.Context) error {
	for {
		conn, err := net.DialTimeout("tcp", loopback(n.ports.client), time.Second)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-n.process.Done():
			return errors.New("ended at start")
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// waitMetadata waits until the node lists as many brokers as there are.
func (n *node) waitMetadata(ctx context.Context, brokers int) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(loopback(n.ports.internal)))
	if err != nil {
		return err
	}
	defer client.Close()
	for {
		listed, err := n.listed(ctx, client)
		if err == nil && listed == brokers {
			return nil
		}
		select {
		case <-n.process.Done():
			return errors.New("ended at start")
		case <-ctx.Done():
			return fmt.Errorf("%w: %d of %d brokers, %v", context.Cause(ctx), listed, brokers, err) //nolint:errorlint // err may be nil
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// listed returns how many brokers the node knows, if it belongs to this cluster: another process
// may have taken the port.
func (n *node) listed(ctx context.Context, client *kgo.Client) (int, error) {
	request := kmsg.NewPtrMetadataRequest()
	request.Topics = []kmsg.MetadataRequestTopic{} // none
	response, err := client.SeedBrokers()[0].Request(ctx, request)
	if err != nil {
		return 0, err
	}
	metadata := response.(*kmsg.MetadataResponse)
	if id := metadata.ClusterID; id == nil || *id != n.cluster.cfg.ClusterID {
		return 0, errors.New("another cluster answers at its port")
	}
	return len(metadata.Brokers), nil
}

// waitTopic waits until the node, if it runs, knows the leader of each of the topic's partitions.
func (n *node) waitTopic(ctx context.Context, topic string, partitions int) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(loopback(n.ports.internal)))
	if err != nil {
		return err
	}
	defer client.Close()
	for n.runs() {
		request := kmsg.NewPtrMetadataRequest()
		request.Topics = []kmsg.MetadataRequestTopic{{Topic: &topic}}
		response, err := client.SeedBrokers()[0].Request(ctx, request)
		if err == nil && leaders(response.(*kmsg.MetadataResponse)) == partitions {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("node %d: topic %s: %w", n.id, topic, context.Cause(ctx))
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

func leaders(r *kmsg.MetadataResponse) (n int) {
	for _, topic := range r.Topics {
		for _, p := range topic.Partitions {
			if p.Leader >= 0 {
				n++
			}
		}
	}
	return n
}
