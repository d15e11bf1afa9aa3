package proxy

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/culvert-proxy/culvert/rewrite"
)

// credentialsRetry is how long a cluster that requires credentials is not asked again. Without it,
// each client's connection to an unknown node would cost a request that cannot succeed. An operator
// may change the cluster's settings, so it is not for good.
const credentialsRetry = 30 * time.Second

// finder looks up how to reach a node, and asks the cluster if the node table does not know. Set
// the fields up to dropped before use. It starts no goroutines.
type finder struct {
	nodes    *nodes
	upstream Upstream
	dropped  func(old, now string) // called with two cluster ids when another cluster has answered
	pause    time.Duration         // between two questions to the cluster

	asking  singleflight.Group
	asked   time.Time    // when the last question was answered; owned by the call in asking
	askFrom atomic.Int64 // Unix seconds until which the cluster is not asked: it wants credentials
}

// find returns how to reach a node. If the node is not known, find asks the cluster and blocks for
// at most askTimeout. Concurrent calls share one request.
func (f *finder) find(ctx context.Context, id int32) (route, error) {
	if r, ok := f.nodes.lookup(id); ok {
		return r, nil
	}
	if time.Now().Unix() < f.askFrom.Load() {
		return route{}, errNeedsCredentials
	}
	_, err, _ := f.asking.Do("", func() (any, error) { return nil, f.askInTurn(ctx) })
	if err != nil {
		return route{}, fmt.Errorf("ask for metadata: %w", err)
	}
	if r, ok := f.nodes.lookup(id); ok {
		return r, nil
	}
	return route{}, errNoSuchNode
}

// askInTurn asks the cluster, no sooner than pause after the last time.
func (f *finder) askInTurn(ctx context.Context) error {
	if wait := time.Until(f.asked.Add(f.pause)); wait > 0 {
		<-time.After(wait) // without ctx: other callers wait for the same answer
	}
	defer func() { f.asked = time.Now() }()
	return f.ask(ctx)
}

// ask learns the nodes with a Metadata request of our own, on a stream of its own. It sends no
// credentials: the agent has none for the cluster. ctx is used for its values only, since other
// callers wait for the same answer.
func (f *finder) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTimeout)
	defer cancel()
	epoch := f.nodes.epoch()
	request := brokersRequest(ownClientID)
	c, sent, err := f.upstream.dial(ctx, destination{onTicket: f.nodes.addTicket, first: request, probe: true})
	if err != nil {
		return err
	}
	defer c.Close()
	cluster, brokers, err := askForBrokers(ctx, c, request[sent:])
	if errors.Is(err, ErrUnanswered) {
		f.needsCredentials()
		return errNeedsCredentials // a broker that requires a login closes the connection on any other request
	}
	if err != nil {
		return err
	}
	err = f.learn(epoch, cluster, brokers)
	closeWrite(c)
	return err
}

// needsCredentials has the cluster not asked again for credentialsRetry.
func (f *finder) needsCredentials() { f.askFrom.Store(time.Now().Add(credentialsRetry).Unix()) }

// learn takes what a broker has answered to a request of our own, which was made in epoch.
func (f *finder) learn(epoch int, cluster string, brokers []rewrite.Broker) error {
	_, dropped, err := f.nodes.learn(epoch, cluster, brokers)
	if dropped != "" {
		f.dropped(dropped, cluster)
	}
	return err
}
