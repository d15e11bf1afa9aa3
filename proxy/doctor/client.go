package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// tickets are those that arrived on streams, by address.
type tickets struct {
	mu sync.Mutex
	by map[string]*tunnel.Ticket
}

func (t *tickets) add(tk tunnel.Ticket) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.by == nil {
		t.by = map[string]*tunnel.Ticket{}
	}
	if len(t.by) < maxNodes {
		t.by[tk.Address] = &tk
	}
}

func (t *tickets) of(address string) *tunnel.Ticket {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.by[address]
}

// newClient makes a Kafka client that connects by dial and logs in as the settings say. The caller
// closes it.
func (c *cluster) newClient(dial func(ctx context.Context, address string) (net.Conn, error), more ...kgo.Opt) (*kgo.Client, error) {
	opts := []kgo.Opt{
		kgo.ClientID(clientID), kgo.SeedBrokers(seed), kgo.DisableClientMetrics(), kgo.RequestRetries(0), kgo.BrokerMaxReadBytes(maxResponse),
		kgo.FetchMaxBytes(maxResponse / 4), kgo.FetchMaxPartitionBytes(maxResponse / 4),
		kgo.Dialer(func(ctx context.Context, _, address string) (net.Conn, error) { return dial(ctx, address) }),
	}
	if c.Client != nil && c.Client.SASL != nil && c.wantsLogin {
		opts = append(opts, kgo.SASL(c.Client.SASL))
	}
	return kgo.NewClient(append(opts, more...)...)
}

// seed is the address by which a client asks for a bootstrap broker. It is never looked up.
const seed = "bootstrap.invalid:9092"

// askAsClient connects to a node as a client does, and asks it one thing.
func (c *cluster) askAsClient(ctx context.Context, to node, request kmsg.Request) (kmsg.Response, error) {
	conn, err := c.open(ctx, to)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return c.askOver(ctx, conn, request)
}

// errClosed ends a client's second dial: it tries again when the first connection is closed.
var errClosed = errors.New("the broker closed the connection")

// askOver is askAsClient over a connection that is open.
func (c *cluster) askOver(ctx context.Context, conn net.Conn, request kmsg.Request) (kmsg.Response, error) {
	client, err := c.newClient(func(context.Context, string) (net.Conn, error) {
		if conn == nil {
			return nil, errClosed
		}
		once := conn
		conn = nil
		return once, nil
	})
	if err != nil {
		return nil, err
	}
	defer client.Close()
	response, err := client.SeedBrokers()[0].Request(ctx, request)
	if errors.Is(err, errClosed) {
		err = errClosed // it was wrapped as the error of a dial
	}
	return response, err
}

func (c *cluster) askForMetadata(ctx context.Context, to node) (*kmsg.MetadataResponse, error) {
	conn, err := c.open(ctx, to)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return c.metadataOver(ctx, conn)
}

// metadataOver asks for the brokers of a cluster, and for no topics.
func (c *cluster) metadataOver(ctx context.Context, conn net.Conn) (*kmsg.MetadataResponse, error) {
	request := kmsg.NewPtrMetadataRequest()
	request.Topics = []kmsg.MetadataRequestTopic{} // nil means all
	response, err := c.askOver(ctx, conn, request)
	if err != nil {
		return nil, err
	}
	m, is := response.(*kmsg.MetadataResponse)
	if !is {
		return nil, fmt.Errorf("an answer to another request: %T", response)
	}
	return m, kerr.ErrorForCode(m.ErrorCode)
}

// clientFailure is failure with a remedy for what brokers answer to clients.
func (c *cluster) clientFailure(ctx context.Context, err error) Finding {
	f := c.failure(ctx, err)
	switch {
	case errors.Is(err, kerr.SaslAuthenticationFailed):
		return f.or(c.whatPassword())
	case errors.Is(err, kerr.TopicAuthorizationFailed), errors.Is(err, kerr.GroupAuthorizationFailed), errors.Is(err, kerr.ClusterAuthorizationFailed):
		return f.or("grant the client's user Write and Read on the topic")
	case errors.Is(err, kerr.UnknownTopicOrPartition):
		return f.or("create the topic, or name one that exists")
	}
	return f
}

// whatPassword asks whether the login is the right one.
func (c *cluster) whatPassword() string {
	return c.Names.Sprintf("are the user and the password in %s right, and do the brokers know that user for this mechanism?", hints.ClientConfig)
}
