package proxy

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"
)

// lockedFor is how long a cluster that wants credentials is not asked again.
const lockedFor = 30 * time.Second

var errWantsCredentials = errors.New("the cluster wants credentials, which only clients have")

// finder looks up how to reach a node, and asks the cluster where the table does not
// say. Set the first fields before use.
type finder struct {
	nodes    *nodes
	upstream Upstream
	dropped  func(old, now string) // told that another cluster has answered

	asking singleflight.Group
	locked atomic.Int64 // Unix seconds until which the cluster is not asked: it wants credentials
}

// find returns how to reach a node. If the node is not known, one request asks the
// cluster on behalf of all clients that wait.
func (f *finder) find(ctx context.Context, id int32) (route, error) {
	if r, ok := f.nodes.lookup(id); ok {
		return r, nil
	}
	if time.Now().Unix() < f.locked.Load() {
		return route{}, errWantsCredentials
	}
	_, err, _ := f.asking.Do("", func() (any, error) { return nil, f.ask(ctx) })
	if err != nil {
		return route{}, fmt.Errorf("ask for metadata: %w", err)
	}
	if r, ok := f.nodes.lookup(id); ok {
		return r, nil
	}
	return route{}, errors.New("the cluster has no such node")
}

// ask learns the nodes with a Metadata request of our own, on a stream of its
// own. It has no credentials, and sends none.
func (f *finder) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTimeout)
	defer cancel()
	epoch := f.nodes.epoch()
	request := brokersRequest("culvert-agent")
	c, sent, err := f.upstream.dial(ctx, destination{onTicket: f.nodes.addTicket, first: request})
	if err != nil {
		return err
	}
	defer c.Close()
	cluster, brokers, err := askForBrokers(ctx, c, request[sent:])
	if errors.Is(err, ErrUnanswered) {
		f.locked.Store(time.Now().Add(lockedFor).Unix())
		return errWantsCredentials // a broker closes on any request but SASL's
	}
	if err != nil {
		return err
	}
	_, dropped, err := f.nodes.learn(epoch, cluster, brokers)
	if dropped != "" {
		f.dropped(dropped, cluster)
	}
	closeWrite(c)
	return err
}
