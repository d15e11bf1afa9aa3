package proxy

import (
	"net"
	"net/url"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// usage is what a process holds.
type usage struct {
	goroutines  int
	descriptors int // 0 where the system does not tell
	heap        int // bytes that live
}

// measure looks at this process, after what can be freed was freed.
func measure(t *testing.T) usage {
	t.Helper()
	runtime.GC()
	runtime.GC() // pools give back what they hold in two rounds
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	u := usage{goroutines: runtime.NumGoroutine(), heap: int(m.HeapAlloc)}
	if list, err := os.ReadDir("/proc/self/fd"); err == nil {
		u.descriptors = len(list)
	}
	return u
}

// wantAsBefore waits until no more is held than before, but for what a process may keep for the
// next one to come.
func wantAsBefore(t *testing.T, before usage) {
	t.Helper()
	const (
		spares      = 32 // the most that a burst leaves ready; each has a goroutine and a socket at both ends
		goroutines  = 2*spares + 20
		descriptors = 2*spares + 10
		heap        = 3 << 20
	)
	var now usage
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(250 * time.Millisecond) {
		now = measure(t)
		if now.goroutines <= before.goroutines+goroutines && now.descriptors <= before.descriptors+descriptors && now.heap <= before.heap+heap {
			t.Logf("before: %+v, after: %+v", before, now)
			return
		}
	}
	t.Errorf("before: %+v, and two minutes after: %+v", before, now)
}

// long reports whether tests are to take the time that their names promise.
func long() bool { return os.Getenv("CULVERT_TEST_LONG") != "" }

// soakPath starts a path that logs nothing: a test keeps what is logged to it.
func soakPath(t *testing.T, transport string) running {
	t.Helper()
	c := startCluster(t, 1)
	quiet := func(a *Agent) { a.Logger = nil }
	if transport == "direct" {
		return startPath(t, c, transport, quiet)
	}
	gateway := startGateway(t, c.Bootstrap(), func(g *Gateway) { g.Logger = nil })
	u, err := url.Parse(gateway.address)
	if err != nil {
		t.Fatal(err)
	}
	return startAgent(t, NewTunnel(&tunnel.Dialer{URL: u, Transport: transport, TLS: clientTLS(t)}), quiet)
}

// One question and its answer on each of 10,000 connections, eight at a time; without
// CULVERT_TEST_LONG it is a tenth.
func TestClosedConnectionsLeaveNothingBehind(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		path := soakPath(t, transport)
		cycles := 1000
		if long() {
			cycles = 10_000
		}
		comeAndGo(t, path.address, 100)
		before := measure(t)
		comeAndGo(t, path.address, cycles)
		wantAsBefore(t, before)
	})
}

func comeAndGo(t *testing.T, address string, cycles int) {
	t.Helper()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range cycles / 8 {
				c := ask(t, address)
				if c != nil {
					c.Close()
				}
			}
		})
	}
	all.Wait()
}

// ask connects, and returns the connection when it has an answer.
func ask(t *testing.T, address string) net.Conn {
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Error(err)
		return nil
	}
	c.SetDeadline(time.Now().Add(time.Minute))
	c.Write(requestFrame(kmsg.NewPtrApiVersionsRequest(), 0, 1))
	if _, err := c.Read(make([]byte, 4<<10)); err != nil {
		t.Errorf("no answer: %v", err)
	}
	return c
}

// 1,000 connections on which nothing happens, for 10 minutes; without CULVERT_TEST_LONG it is some
// seconds. They come a second time: the first thousand leave what a process keeps for the next,
// carriers that share streams and the runtime's own record of each goroutine, which it never gives
// back.
func TestIdleConnectionsLeaveNothing(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		path := soakPath(t, transport)
		idle := 3 * time.Second
		if long() {
			idle = 10 * time.Minute
		}
		idleFor(t, path.address, 0)
		waitFor(t, "the first ones to be gone", func() bool { return gauge(t, path, "culvert_connections") == 0 })
		before := measure(t)
		idleFor(t, path.address, idle)
		wantAsBefore(t, before)
	})
}

func idleFor(t *testing.T, address string, idle time.Duration) {
	t.Helper()
	n := 1000
	if underRace {
		n = 300
	}
	var conns []net.Conn
	for range n {
		c := ask(t, address)
		if c == nil {
			break
		}
		defer c.Close()
		conns = append(conns, c)
	}
	time.Sleep(idle)
	t.Logf("%d connections: %+v", len(conns), measure(t))
	for _, c := range conns {
		c.SetReadDeadline(time.Now().Add(time.Millisecond))
		if _, err := c.Read(make([]byte, 1)); !tunnel.IsTimeout(err) {
			t.Fatalf("an idle connection: %v", err)
		}
	}
}
