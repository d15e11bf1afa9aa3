package test

import (
	"context"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

// TestBrokersThatTradeAddressesLoseNothing has two brokers of kfake trade their addresses twice
// while librdkafka produces. As where a NAT is remapped, the addresses lead to the other broker at
// once, and a moment later the brokers say so. A client without culvert sees the new addresses in
// metadata and connects again.
func TestBrokersThatTradeAddressesLoseNothing(t *testing.T) {
	needReal(t)
	binary, err := build()
	if err != nil {
		t.Fatal(err)
	}
	for _, way := range []string{"without culvert", "through an agent"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			f := startForwarded(t, 3) // kcat ends when no broker is left
			bootstrap := f.bootstrap()
			if way != "without culvert" {
				bootstrap = agentFor(t, binary, f.bootstrap())
			}
			go f.trade(t.Context(), 2*time.Second, 8*time.Second)
			produceWithKcat(t, bootstrap, 1500, 100)
			reader, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(f.bootstrap(), ",")...), kgo.ConsumeTopics("t"))
			if err != nil {
				t.Fatal(err)
			}
			defer reader.Close()
			consume(t, reader, 1500).checkAtLeastOnce(t, 1500)
		})
	}
}

// agentFor starts an agent that dials the brokers itself, and returns its bootstrap address.
func agentFor(t *testing.T, binary, brokers string) string {
	t.Helper()
	base, err := freeBase([]int{0, 1, 2, 3})
	if err != nil {
		t.Fatal(err)
	}
	bootstrap := address(clientHost, base)
	agent, err := startCulvert(t.Context(), exec.Command(binary, "agent", "--gateway-url", "tcp://"+brokers, "--listen", bootstrap,
		"--broker-port-base", fmt.Sprint(base+1), "--admin-listen", "none", "--state-file", "none", "--drain-timeout", "2s"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stopCulvert(agent); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("log of the agent:\n%s", agent.Output())
		}
	})
	return bootstrap
}

// produceWithKcat sends the numbers below count to all partitions, so many a second. A record has
// 10 s to be acknowledged.
func produceWithKcat(t *testing.T, bootstrap string, count, rate int) {
	t.Helper()
	path, err := exec.LookPath("kcat")
	if err != nil {
		t.Skip("needs kcat (Debian: apt-get install kcat)")
	}
	cmd := exec.CommandContext(t.Context(), path, "-b", bootstrap, "-P", "-t", "t", "-K:", "-X", "message.timeout.ms=10000", "-X", "linger.ms=0")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer stdin.Close()
		ticks := time.NewTicker(time.Second / time.Duration(rate))
		defer ticks.Stop()
		for i := range count {
			fmt.Fprintf(stdin, "key-%d:%d\n", i, i)
			<-ticks.C
		}
	}()
	out, err := cmd.CombinedOutput()
	failed := strings.Count(string(out), "Delivery failed")
	if t.Logf("kcat: %d of %d records failed, %v", failed, count, err); err != nil || failed > 0 {
		t.Errorf("kcat: %v\n%.2000s", err, out)
	}
}

// forwarded is a cluster of kfake's. Each broker advertises a forwarder.
type forwarded struct {
	*kfake.Cluster
	forwarders []net.Listener
	group      sync.WaitGroup

	mu         sync.Mutex
	brokers    []string         // where they listen
	leads      []int            // by forwarder: to which broker
	advertised []int            // by broker: which forwarder
	conns      map[net.Conn]int // which forwarder's
}

func startForwarded(t *testing.T, n int) *forwarded {
	t.Helper()
	f := &forwarded{conns: map[net.Conn]int{}}
	for i := range n {
		ln, err := net.Listen("tcp", address(clientHost, 0))
		if err != nil {
			t.Fatal(err)
		}
		f.forwarders = append(f.forwarders, ln)
		f.leads, f.advertised = append(f.leads, i), append(f.advertised, i)
	}
	var err error
	f.Cluster, err = kfake.NewCluster(kfake.NumBrokers(n), kfake.ListenFn(f.listen), kfake.SeedTopics(int32(n), "t"))
	if err != nil {
		t.Fatal(err)
	}
	for i, ln := range f.forwarders {
		if err := f.MoveTopicPartition("t", int32(i), int32(i)); err != nil {
			t.Fatal(err)
		}
		f.group.Go(func() { f.accept(i, ln) })
	}
	t.Cleanup(f.close)
	return f
}

func (f *forwarded) close() {
	for _, ln := range f.forwarders {
		ln.Close()
	}
	for i := range f.forwarders {
		f.cut(i)
	}
	f.group.Wait()
	f.Cluster.Close()
}

// bootstrap returns the addresses of the forwarders.
func (f *forwarded) bootstrap() string {
	var all []string
	for _, ln := range f.forwarders {
		all = append(all, ln.Addr().String())
	}
	return strings.Join(all, ",")
}

// listen makes the listener of the next broker.
func (f *forwarded) listen(network, address string) (net.Listener, error) {
	ln, err := net.Listen(network, address)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.brokers = append(f.brokers, ln.Addr().String())
	return forwardedListener{ln, f, len(f.brokers) - 1}, nil
}

// forwardedListener is a broker's. kfake advertises what Addr returns.
type forwardedListener struct {
	net.Listener
	of     *forwarded
	broker int
}

func (l forwardedListener) Addr() net.Addr {
	l.of.mu.Lock()
	defer l.of.mu.Unlock()
	return l.of.forwarders[l.of.advertised[l.broker]].Addr()
}

// trade has brokers 0 and 1 trade addresses at these times.
func (f *forwarded) trade(ctx context.Context, at ...time.Duration) {
	started := time.Now()
	for _, when := range at {
		select {
		case <-ctx.Done():
			return
		case <-time.After(when - time.Since(started)):
		}
		f.swap(f.leads)
		f.cut(0)
		f.cut(1)
		time.Sleep(500 * time.Millisecond) // clients come back, and reach the other broker
		f.swap(f.advertised)
	}
}

func (f *forwarded) swap(of []int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	of[0], of[1] = of[1], of[0]
}

// cut closes the connections through a forwarder.
func (f *forwarded) cut(forwarder int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c, by := range f.conns {
		if by == forwarder {
			c.Close()
			delete(f.conns, c)
		}
	}
}

func (f *forwarded) accept(forwarder int, ln net.Listener) {
	for {
		near, err := ln.Accept()
		if err != nil {
			return
		}
		f.mu.Lock()
		far, err := net.Dial("tcp", f.brokers[f.leads[forwarder]])
		if err != nil {
			f.mu.Unlock()
			near.Close()
			continue
		}
		f.conns[near], f.conns[far] = forwarder, forwarder
		f.mu.Unlock()
		for _, pair := range [][2]net.Conn{{near, far}, {far, near}} {
			f.group.Go(func() {
				io.Copy(pair[0], pair[1])
				pair[0].Close()
			})
		}
	}
}
