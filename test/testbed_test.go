package test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/culvert-proxy/culvert/test/hostsfile"
	"github.com/culvert-proxy/culvert/test/kafka"
)

// transports are the ones that every client must work over.
var transports = []string{"ws", "h3", "h2"}

// direct is not a transport: the agent dials the brokers itself.
const direct = "direct"

// testbed is a cluster, a gateway beside it, and agents that connect to it.
type testbed struct {
	dir     string
	binary  string // culvert
	cluster *kafka.Cluster
	brokers string // the brokers' addresses that culvert is given
	gateway *gateway
	paths   map[string]*path // by transport

	toBrokers, toClients []string // flags of the process that dials brokers, and of agents
}

// shared is the testbed of most tests, since a cluster takes seconds to start.
var shared struct {
	once    sync.Once
	testbed *testbed
	err     error
}

// sharedTestbed returns the shared testbed. The first call starts it.
func sharedTestbed(t *testing.T) *testbed {
	t.Helper()
	needReal(t)
	shared.once.Do(func() {
		if shared.testbed, shared.err = newSharedTestbed(); shared.err != nil {
			t.Log(shared.err)
		}
	})
	if shared.err != nil {
		t.Fatal("the shared testbed did not start")
	}
	return shared.testbed
}

func newSharedTestbed() (*testbed, error) {
	dir, err := os.MkdirTemp("", "culvert-test-")
	if err != nil {
		return nil, err
	}
	bed, err := newTestbed(context.Background(), dir, kafka.Config{}, (*kafka.Cluster).Bootstrap, append(transports, direct, snowflake)...)
	if err != nil {
		os.RemoveAll(dir)
	}
	return bed, err
}

// closeShared stops the shared testbed if a test has started it.
func closeShared() error {
	bed := shared.testbed
	if bed == nil {
		return nil
	}
	return errors.Join(bed.close(), os.RemoveAll(bed.dir))
}

// eachTransport runs a test in parallel over each transport and through the stand-in for Snowflake.
// It fails the test if a broker's name reached a client, if no bytes came through the agent, or if
// the agent refused anything.
func eachTransport(t *testing.T, test func(*testing.T, *path)) {
	sharedTestbed(t).each(t, append(transports, snowflake), test)
}

// eachWay is eachTransport plus an agent that dials the brokers itself.
func eachWay(t *testing.T, test func(*testing.T, *path)) {
	sharedTestbed(t).each(t, append(transports, direct, snowflake), test)
}

func (b *testbed) each(t *testing.T, ways []string, test func(*testing.T, *path)) {
	for _, way := range ways {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			p := b.paths[way]
			p.relay.Check(t)
			sent, refused := p.relay.Sent(), scrape(t, p.admin).sum("culvert_refused_total")
			test(t, p)
			p.relay.Check(t)
			if p.relay.Sent() == sent {
				t.Error("no bytes came through the agent")
			}
			if n := scrape(t, p.admin).sum("culvert_refused_total") - refused; n > 0 {
				t.Errorf("the agent refused %v times", n)
			}
			b.logIfFailed(t)
		})
	}
}

// newTestbed starts a cluster, a gateway that is given the addresses of one of its listeners, and
// one path per way.
func newTestbed(ctx context.Context, dir string, cfg kafka.Config, listener func(*kafka.Cluster) string, ways ...string) (*testbed, error) {
	bed := &testbed{dir: dir}
	return bed, bed.start(ctx, cfg, listener, ways...)
}

func (b *testbed) start(ctx context.Context, cfg kafka.Config, listener func(*kafka.Cluster) string, ways ...string) (err error) {
	b.paths = make(map[string]*path)
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	if b.binary, err = build(); err != nil {
		return err
	}
	if b.cluster, err = kafka.New(ctx, b.dir, cfg); err != nil {
		return err
	}
	b.brokers = listener(b.cluster)
	if err := writeCredentials(b.dir); err != nil {
		return err
	}
	if err := hostsfile.Write(b.file("brokers-hosts"), b.cluster.Hosts()); err != nil {
		return err
	}
	if b.gateway, err = b.newGateway(ctx); err != nil {
		return err
	}
	for _, way := range ways {
		p, err := b.newPath(ctx, b.gateway, way)
		if err != nil {
			return err
		}
		b.paths[way] = p
	}
	return nil
}

// close stops agents, gateway and brokers. Culvert must stop gracefully.
func (b *testbed) close() error {
	var all []error
	for _, p := range b.paths {
		all = append(all, p.close())
	}
	if b.gateway != nil {
		all = append(all, b.gateway.close())
	}
	if b.cluster != nil {
		b.cluster.Close()
	}
	return errors.Join(all...)
}

// closeWith closes c at the end of the test, and fails it if that fails.
func closeWith(t *testing.T, c interface{ close() error }) {
	t.Cleanup(func() {
		if err := c.close(); err != nil {
			t.Error(err)
		}
	})
}

// logIfFailed logs the output of all processes if the test has failed.
func (b *testbed) logIfFailed(t *testing.T) {
	if !t.Failed() {
		return
	}
	t.Logf("broker logs:\n%s", b.cluster.Log())
	t.Logf("gateway log:\n%s", b.gateway.process.Output())
	for _, p := range b.paths {
		t.Logf("log of the agent over %s:\n%s", p.transport, p.agent.Output())
		if p.standIn != nil {
			p.standIn.report(t)
		}
	}
}

func (b *testbed) file(name string) string { return filepath.Join(b.dir, name) }
