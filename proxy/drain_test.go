package proxy

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/culvert-proxy/culvert/proxy/internal/memnet"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// An end that is told to stop while a request is in flight which the broker does not answer resets
// that connection when its time to drain is over, and ends.
func TestDrainEndsWhatIsNotAnswered(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		arrived := make(chan struct{}, 1)
		broker := fakeBroker(t, func(c net.Conn) {
			if _, err := c.Read(make([]byte, 1)); err != nil {
				return // the end looks whether the broker is there
			}
			arrived <- struct{}{}
			io.Copy(io.Discard, c)
		})
		short := func(a *Agent) { a.DrainTimeout = 50 * time.Millisecond }
		if transport == "direct" {
			path := startAgent(t, quietUpstream{NewDirect(&Brokers{Bootstrap: []string{broker}})}, short)
			resetByStop(t, path.address, arrived, path.stop)
			return
		}
		gateway := startGateway(t, []string{broker}, func(g *Gateway) { g.DrainTimeout = 50 * time.Millisecond })
		path := startAgent(t, quietUpstream{tunnelTo(t, gateway.address, transport)}, short)
		resetByStop(t, path.address, arrived, gateway.stop)
	})
}

func resetByStop(t *testing.T, address string, arrived <-chan struct{}, stop func()) {
	t.Helper()
	c := dialAgent(t, address)
	c.Write(requestFrame(kmsg.NewPtrMetadataRequest(), 1, 1))
	<-arrived
	stop()
	if got, err := io.ReadAll(c); len(got) > 0 || tunnel.IsTimeout(err) {
		t.Errorf("the client read %q, %v, want an end", got, err)
	}
}

// A client that resets while answers are on their way does not keep its connection from draining.
func TestDrainDoesNotWaitForAClientThatIsGone(t *testing.T) {
	answer := make(chan struct{})
	var requests atomic.Int32
	broker := fakeBroker(t, answering(func(_, _ int16, id int32) []byte {
		if requests.Add(1) == 2 {
			<-answer
		}
		return metadata(id, 1)
	}))
	path := startAgent(t, NewDirect(&Brokers{Bootstrap: []string{broker}}), nil)
	c := dialAgent(t, path.address)
	c.Write(requestFrame(kmsg.NewPtrMetadataRequest(), 1, 1))
	c.Read(make([]byte, 1))
	for id := range int32(5) {
		c.Write(requestFrame(kmsg.NewPtrMetadataRequest(), 1, 2+id))
	}
	c.SetLinger(0)
	c.Close()
	time.AfterFunc(50*time.Millisecond, func() { close(answer) })
	path.stop() // fails the test if it takes longer than the drain timeout allows
}

// A stream that was opened before the gateway was told to stop gets the answer to its first
// request, which may still be on its way.
func TestDrainLetsTheFirstRequestCome(t *testing.T) {
	for _, transport := range []string{"ws", "h3", "h2"} {
		t.Run(transport, func(t *testing.T) {
			broker := fakeBroker(t, answering(func(_, _ int16, id int32) []byte { return metadata(id, 0) }))
			var g *Gateway
			gateway := startGateway(t, []string{broker}, func(it *Gateway) { g = it })
			up := tunnelTo(t, gateway.address, transport)
			t.Cleanup(func() { up.close() })
			s, _, err := up.dial(t.Context(), destination{})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			waitFor(t, "the stream to be served", func() bool { return gauge(t, gateway, "culvert_connections") == 1 })
			stopped := make(chan struct{})
			go func() { defer close(stopped); gateway.stop() }()
			waitFor(t, "the drain to begin", func() bool {
				return !g.relays.drainingSince().IsZero()
			})
			s.Write(requestFrame(kmsg.NewPtrMetadataRequest(), 1, 7))
			got, err := io.ReadAll(s)
			if want := framed(metadata(7, 0)); !bytes.Equal(got, want) || err != nil {
				t.Errorf("the agent read %q, %v, want an answer and an end", got, err)
			}
			s.Close()
			<-stopped
		})
	}
}

// The platform must not send anybody to a gateway that drains, nor cut off the QUIC connections of
// those who are still there.
func TestReadinessEndsWithTheDrain(t *testing.T) {
	for _, transport := range []string{"ws", "h3"} {
		t.Run(transport, func(t *testing.T) {
			asked, release := make(chan struct{}, 1), make(chan struct{})
			broker := fakeBroker(t, answering(func(_, _ int16, id int32) []byte {
				asked <- struct{}{}
				<-release
				return metadata(id, 0)
			}))
			var g *Gateway
			gateway := startGateway(t, []string{broker}, func(it *Gateway) { g = it; g.DrainTimeout = time.Minute })
			waitFor(t, "the gateway to be ready", func() bool { return g.Ready() == nil })
			up := tunnelTo(t, gateway.address, transport)
			t.Cleanup(func() { up.close() })
			s, _, err := up.dial(t.Context(), destination{})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			s.Write(requestFrame(kmsg.NewPtrMetadataRequest(), 1, 7))
			<-asked
			stopped := make(chan struct{})
			go func() { defer close(stopped); gateway.stop() }()
			waitFor(t, "the drain to begin", func() bool {
				return !g.relays.drainingSince().IsZero()
			})
			if err := g.Ready(); (err == nil) != (transport == "h3") {
				t.Errorf("with a stream over %s: Ready = %v", transport, err)
			}
			if c, err := net.Dial("tcp", strings.TrimPrefix(gateway.address, "https://")); err != nil {
				t.Errorf("the listener accepts nobody who could be told: %v", err)
			} else {
				c.Close()
			}
			close(release)
			if _, err := io.ReadAll(s); err != nil {
				t.Error(err)
			}
			s.Close()
			waitFor(t, "readiness to end", func() bool { return g.Ready() != nil })
			<-stopped
		})
	}
}

// Who has QUIC connections that do not end is not ready for ever.
func TestReadinessEndsAfterHalfOfTheDrain(t *testing.T) {
	asked := make(chan struct{}, 1)
	broker := fakeBroker(t, func(c net.Conn) {
		if n, _ := c.Read(make([]byte, 1)); n > 0 {
			asked <- struct{}{}
		}
		io.Copy(io.Discard, c)
	})
	var g *Gateway
	gateway := startGateway(t, []string{broker}, func(it *Gateway) { g = it; g.DrainTimeout = 500 * time.Millisecond })
	up := tunnelTo(t, gateway.address, "h3")
	t.Cleanup(func() { up.close() })
	s, _, err := up.dial(t.Context(), destination{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.Write(requestFrame(kmsg.NewPtrMetadataRequest(), 1, 7))
	<-asked
	began := time.Now()
	stopped := make(chan struct{})
	go func() { defer close(stopped); gateway.stop() }()
	waitFor(t, "readiness to end", func() bool { return g.Ready() != nil })
	if took := time.Since(began); took < g.DrainTimeout/2 {
		t.Errorf("not ready after %v", took)
	}
	if _, err := s.Read(make([]byte, 1)); !errors.As(err, new(*tunnel.Error)) {
		t.Errorf("the stream that did not end in time: %v, want an ERROR", err)
	}
	<-stopped
}

// A client that produces with acks=0 gets no responses, and learns late that its connection ends:
// what it sends until then arrives.
func TestRecordsWithoutAcksSurviveADrain(t *testing.T) {
	for _, end := range []string{"agent", "gateway"} {
		for _, transport := range []string{"ws", "h3", "h2"} {
			t.Run(end+"_"+transport, func(t *testing.T) {
				c := startCluster(t, 1, kfake.SeedTopics(1, "t"))
				gateway := startGateway(t, c.Bootstrap(), nil)
				path := startAgent(t, tunnelTo(t, gateway.address, transport), nil)
				dialKafka(t, path.address).brokers(t)
				client := dialKafka(t, path.node(0))
				client.send(produceRequest("t", 0, "0", 0), 7)
				waitFor(t, "the first record", func() bool { return c.PartitionInfo("t", 0).HighWatermark == 1 })
				stopped := make(chan struct{})
				go func() {
					defer close(stopped)
					if end == "agent" {
						path.stop()
					} else {
						gateway.stop()
					}
				}()
				if n, err := client.Read(make([]byte, 1)); n != 0 || err != io.EOF {
					t.Errorf("the client read %d bytes, %v, want an end", n, err)
				}
				const n = 50
				for i := range n - 1 {
					client.send(produceRequest("t", 0, strconv.Itoa(1+i), 0), 7)
				}
				client.CloseWrite()
				waitFor(t, "the other records", func() bool { return c.PartitionInfo("t", 0).HighWatermark == n })
				wantStored(t, c, "t", numbered(0, n))
				<-stopped
			})
		}
	}
}

// A connection that drains reads no more from its client, so nobody notices that it has left. A
// broker that never answers cannot keep it for ever.
func TestADrainDoesNotWaitForEverForABroker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, near := memnet.Pipe(memnet.Addr("client"), memnet.Addr("near"))
		far, broker := memnet.Pipe(memnet.Addr("far"), memnet.Addr("broker"))
		c := newConn(near, looking{}.settings())
		c.connect(far)
		over := make(chan struct{})
		go func() { c.run(t.Context()); close(over) }()
		go io.Copy(io.Discard, broker)
		client.Write(framed([]byte{0, 3, 0, 1, 0, 0, 0, 1, 0xff, 0xff}))
		synctest.Wait()
		start := time.Now()
		c.drain()
		synctest.Wait()
		client.Cut()
		<-over
		if took := time.Since(start); took < answerTimeout || took > answerTimeout+2*lingerTimeout {
			t.Errorf("the connection ended after %v, want %v", took, answerTimeout)
		}
		broker.Close()
	})
}
