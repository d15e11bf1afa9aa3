package test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/culvert-proxy/culvert/test/inside"
	"github.com/culvert-proxy/culvert/test/kafka"
)

// transports are those that every client must work over.
var transports = []string{"ws", "h3", "h2"}

// direct is no transport: the agent dials the brokers itself.
const direct = "direct"

// world is a cluster, a gateway beside it, and agents that lead to it.
type world struct {
	dir     string
	binary  string // culvert
	cluster *kafka.Cluster
	brokers string // the addresses of theirs that culvert is given
	gateway *gateway
	paths   map[string]*path // by transport

	toBrokers, toClients []string // flags of whoever dials brokers, and of agents
}

// shared is the world of most tests: a cluster takes seconds to start.
var shared struct {
	once  sync.Once
	world *world
	err   error
}

// theWorld returns the shared world and starts it for the first test.
func theWorld(t *testing.T) *world {
	t.Helper()
	needReal(t)
	shared.once.Do(func() {
		if shared.world, shared.err = newSharedWorld(); shared.err != nil {
			t.Log(shared.err)
		}
	})
	if shared.err != nil {
		t.Fatal("the shared world did not start")
	}
	return shared.world
}

func newSharedWorld() (*world, error) {
	dir, err := os.MkdirTemp("", "culvert-test-")
	if err != nil {
		return nil, err
	}
	w, err := newWorld(context.Background(), dir, kafka.Config{}, (*kafka.Cluster).Bootstrap, append(transports, direct, snowflake)...)
	if err != nil {
		os.RemoveAll(dir)
	}
	return w, err
}

// closeShared ends the shared world if a test has started it.
func closeShared() error {
	w := shared.world
	if w == nil {
		return nil
	}
	return errors.Join(w.close(), os.RemoveAll(w.dir))
}

// eachTransport runs a test once per transport, and through the stand-in for
// Snowflake, side by side, and fails it if
// a broker's name has reached a client, if nothing came through the agent, or if
// the agent has refused anything.
func eachTransport(t *testing.T, test func(*testing.T, *path)) {
	theWorld(t).each(t, append(transports, snowflake), test)
}

// eachWay is eachTransport and, besides, an agent that dials the brokers itself.
func eachWay(t *testing.T, test func(*testing.T, *path)) {
	theWorld(t).each(t, append(transports, direct, snowflake), test)
}

func (w *world) each(t *testing.T, ways []string, test func(*testing.T, *path)) {
	for _, way := range ways {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			p := w.paths[way]
			p.relay.Check(t)
			sent, refused := p.relay.Sent(), scrape(t, p.admin).sum("culvert_refused_total")
			test(t, p)
			p.relay.Check(t)
			if p.relay.Sent() == sent {
				t.Error("nothing came through the agent")
			}
			if n := scrape(t, p.admin).sum("culvert_refused_total") - refused; n > 0 {
				t.Errorf("the agent has refused something %v times", n)
			}
			w.logIfFailed(t)
		})
	}
}

// newWorld starts a cluster, a gateway that is given the addresses of one of
// its listeners, and a path per way to it.
func newWorld(ctx context.Context, dir string, cfg kafka.Config, listener func(*kafka.Cluster) string, ways ...string) (*world, error) {
	w := &world{dir: dir}
	return w, w.start(ctx, cfg, listener, ways...)
}

func (w *world) start(ctx context.Context, cfg kafka.Config, listener func(*kafka.Cluster) string, ways ...string) (err error) {
	w.paths = make(map[string]*path)
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	if w.binary, err = build(); err != nil {
		return err
	}
	if w.cluster, err = kafka.New(ctx, w.dir, cfg); err != nil {
		return err
	}
	w.brokers = listener(w.cluster)
	if err := writeCredentials(w.dir); err != nil {
		return err
	}
	if err := inside.WriteHosts(w.file("inside-hosts"), w.cluster.Hosts()); err != nil {
		return err
	}
	if w.gateway, err = w.newGateway(ctx); err != nil {
		return err
	}
	for _, way := range ways {
		p, err := w.newPath(ctx, w.gateway, way)
		if err != nil {
			return err
		}
		w.paths[way] = p
	}
	return nil
}

// close ends the agents, the gateway and the brokers. Culvert must end in good
// order.
func (w *world) close() error {
	var all []error
	for _, p := range w.paths {
		all = append(all, p.close())
	}
	if w.gateway != nil {
		all = append(all, w.gateway.close())
	}
	if w.cluster != nil {
		w.cluster.Close()
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

// logIfFailed adds what all said to the report of a test that has failed.
func (w *world) logIfFailed(t *testing.T) {
	if !t.Failed() {
		return
	}
	t.Logf("what the brokers said:\n%s", w.cluster.Log())
	t.Logf("what the gateway said:\n%s", w.gateway.process.Output())
	for _, p := range w.paths {
		t.Logf("what the agent over %s said:\n%s", p.transport, p.agent.Output())
		if p.standIn != nil {
			p.standIn.report(t)
		}
	}
}

func (w *world) file(name string) string { return filepath.Join(w.dir, name) }
