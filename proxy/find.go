package proxy

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// lockedFor is how long a cluster that wants credentials is not asked again.
const lockedFor = 30 * time.Second

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
	request := brokersRequest("culvert-agent")
	c, sent, err := a.Upstream.dial(ctx, destination{onTicket: a.nodes.addTicket, first: request})
	if err != nil {
		return err
	}
	defer c.Close()
	cluster, brokers, err := askForBrokers(ctx, c, request[sent:])
	if errors.Is(err, ErrUnanswered) {
		a.locked.Store(time.Now().Add(lockedFor).Unix())
		return errWantsCredentials // a broker closes on any request but SASL's
	}
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
