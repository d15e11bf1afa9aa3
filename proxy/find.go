package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/culvert-proxy/culvert/protocol"
	"github.com/culvert-proxy/culvert/rewrite"
)

const (
	// askTimeout bounds our own Metadata request.
	askTimeout = 5 * time.Second
	// lockedFor is how long a cluster that wants credentials is not asked again.
	lockedFor = 30 * time.Second
	// askVersion is the version of our Metadata request: the oldest with a
	// cluster id that asks for no topics without creating any, and known to all
	// brokers since 0.11.
	askVersion = 4
)

var errWantsCredentials = errors.New("the cluster wants credentials, which only clients have")

// find returns how to reach a node. Of one that is not known, the cluster is
// asked, by one request for all clients who wait.
func (a *Agent) find(ctx context.Context, id int32) (route, error) {
	if r, ok := a.nodes.lookup(id); ok {
		return r, nil
	}
	if time.Now().Unix() < a.locked.Load() {
		return route{}, errWantsCredentials
	}
	_, err, _ := a.asking.Do("", func() (any, error) { return nil, a.ask(ctx) })
	if err != nil {
		return route{}, fmt.Errorf("ask for metadata: %w", err)
	}
	if r, ok := a.nodes.lookup(id); ok {
		return r, nil
	}
	return route{}, errors.New("the cluster has no such node")
}

// ask learns the nodes with a Metadata request of our own, on a stream of its
// own. It has no credentials, and sends none.
func (a *Agent) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTimeout)
	defer cancel()
	epoch := a.nodes.epoch()
	request := kmsg.NewPtrMetadataRequest()
	request.Version = askVersion
	request.Topics = []kmsg.MetadataRequestTopic{} // none, where nil would be all
	frame := kmsg.NewRequestFormatter(kmsg.FormatterClientID("culvert-agent")).AppendRequest(nil, request, 0)
	c, sent, err := a.Upstream.dial(ctx, destination{onTicket: a.nodes.addTicket, first: frame})
	if err != nil {
		return err
	}
	defer c.Close()
	deadline, _ := ctx.Deadline()
	c.SetDeadline(deadline)
	if _, err := c.Write(frame[sent:]); err != nil {
		return err
	}
	f := protocol.NewFlow(c, io.Discard)
	defer f.Release()
	size, _, err := protocol.PeekResponse(f)
	if errors.Is(err, io.EOF) {
		a.locked.Store(time.Now().Add(lockedFor).Unix())
		return errWantsCredentials // a broker closes on any request but SASL's
	}
	if err != nil {
		return err
	}
	cluster, brokers, err := rewrite.Brokers(f, protocol.Metadata, askVersion, size)
	if err != nil {
		return err
	}
	_, dropped, err := a.nodes.learn(epoch, cluster, brokers)
	if dropped != "" {
		a.dropCluster(dropped, cluster)
	}
	closeWrite(c)
	return err
}
