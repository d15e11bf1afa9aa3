package proxy

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/culvert-proxy/culvert/protocol"
)

// What follows are connections with raw sockets at both ends, for how they end is what is looked
// at. The broker is one that a test plays.

// meeting is a client's and a broker's end of one Kafka connection.
type meeting struct {
	client *kafkaConn
	broker *net.TCPConn
	id     int32 // of the request, as the broker was given it
	agent  running
}

// meet starts a path to a broker, and connects through it. The client has sent a request already,
// which the broker has read.
func meet(t *testing.T, transport string) meeting {
	t.Helper()
	arrived := make(chan meeting, 1)
	over := make(chan struct{})
	broker := fakeBroker(t, func(c net.Conn) {
		c.SetDeadline(time.Now().Add(20 * time.Second))
		request, err := readFrame(c)
		if err != nil {
			return // the gateway looks whether the broker is there
		}
		arrived <- meeting{broker: c.(*net.TCPConn), id: idOf(request)}
		<-over
	})
	t.Cleanup(func() { close(over) })
	agent := startAgent(t, waysTo(t, []string{broker}, transport, nil)(), nil)
	client := dialKafka(t, agent.address)
	client.send(kmsg.NewPtrMetadataRequest(), 1)
	m := <-arrived
	m.client, m.agent = client, agent
	return m
}

// idOf is the correlation id of a request, as readFrame returns it.
func idOf(request []byte) int32 { return int32(binary.BigEndian.Uint32(request[4:])) }

// ended reads until the end, and returns what came before it and whether the end was a reset.
func ended(t *testing.T, c net.Conn) (got []byte, reset bool) {
	t.Helper()
	got, err := io.ReadAll(c)
	if err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection ended with %v, want an end or a reset", err)
	}
	return got, err != nil
}

// heartbeatAnswer is a response whose body is opaque to everybody but the client.
func heartbeatAnswer(id int32) []byte {
	return framed(append(binary.BigEndian.AppendUint32(nil, uint32(id)), 0, 0, 0, 0, 0, 0))
}

func TestClientFINIsRelayedAndResponsesStillArrive(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		m := meet(t, transport)
		m.client.send(kmsg.NewPtrHeartbeatRequest(), 2)
		m.client.CloseWrite()
		frame, err := readFrame(m.broker)
		if err != nil || frame[1] != 12 {
			t.Fatalf("the broker read %q, %v, want the last request", frame, err)
		}
		if got, reset := ended(t, m.broker); len(got) > 0 || reset {
			t.Errorf("the broker read %q, reset %v, want an end", got, reset)
		}
		m.broker.Write(append(framed(metadata(m.id, 0)), heartbeatAnswer(idOf(frame))...))
		m.broker.CloseWrite()
		if got, reset := ended(t, m.client); !bytes.Equal(got, append(framed(metadata(1, 0)), heartbeatAnswer(2)...)) || reset {
			t.Errorf("the client read %q, reset %v, want both answers and an end", got, reset)
		}
	})
}

func TestBrokerFINIsRelayed(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		m := meet(t, transport)
		answer := framed(metadata(1, 0))
		m.broker.Write(framed(metadata(m.id, 0)))
		m.broker.Close()
		if got, reset := ended(t, m.client); !bytes.Equal(got, answer) || reset {
			t.Errorf("the client read %q, reset %v, want the answer and an end", got, reset)
		}
	})
}

func TestBrokerResetIsRelayed(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		m := meet(t, transport)
		answer := framed(metadata(1, 0))
		m.broker.Write(framed(metadata(m.id, 0)))
		if got, err := readFrame(m.client); err != nil || len(got) != len(answer)-4 {
			t.Fatalf("the client read %q, %v, want the answer", got, err)
		}
		m.broker.SetLinger(0)
		m.broker.Close()
		if got, reset := ended(t, m.client); len(got) > 0 || !reset {
			t.Errorf("the client read %q, reset %v, want a reset", got, reset)
		}
	})
}

// An end in the middle of a response is no end of the stream.
func TestTruncatedResponseResetsTheClient(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		m := meet(t, transport)
		m.client.send(kmsg.NewPtrHeartbeatRequest(), 2)
		frame, err := readFrame(m.broker)
		if err != nil {
			t.Fatal(err)
		}
		m.broker.Write(framed(metadata(m.id, 0)))
		m.broker.Write(heartbeatAnswer(idOf(frame))[:10])
		m.broker.Close()
		if _, reset := ended(t, m.client); !reset {
			t.Error("the client saw an end, want a reset")
		}
	})
}

// What cuts the tunnel, in a response or between two, is a reset to the client.
func TestTunnelCutResetsTheClient(t *testing.T) {
	broker := fakeBroker(t, answering(func(_, _ int16, id int32) []byte { return metadata(id, 0) }))
	gateway := startGateway(t, []string{broker}, nil)
	ingress := newCrossing(t, strings.TrimPrefix(gateway.address, "https://"))
	agent := startAgent(t, tunnelTo(t, "https://"+ingress.address(), "ws"), nil)
	client := dialKafka(t, agent.address)
	if _, err := client.ask(kmsg.NewPtrMetadataRequest(), 1); err != nil {
		t.Fatal(err)
	}
	ingress.cut()
	if got, reset := ended(t, client); len(got) > 0 || !reset {
		t.Errorf("the client read %q, reset %v, want a reset", got, reset)
	}
	for name, end := range map[string]running{"agent": agent, "gateway": gateway} {
		waitFor(t, "the "+name+" to count a cut", func() bool {
			return series(t, end, "culvert_connection_closes_total", "tunnel_cut") > 0
		})
	}
}

// Records with acks=0 have no answer that could fail: a client that resets its connection right
// after writing them believes that they are on their way, and so they are.
func TestRecordsWithoutAcksSurviveTheClientsReset(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		c := startCluster(t, 1, kfake.SeedTopics(1, "t"))
		path := startPath(t, c, transport, nil)
		dialKafka(t, path.address).brokers(t)
		const n = 200
		client := dialKafka(t, path.node(0))
		for i := range n {
			client.send(produceRequest("t", 0, strconv.Itoa(i), 0), 7)
		}
		waitFor(t, "the agent to have read all that came", func() bool {
			return series(t, path, "culvert_requests_total", "Produce") == n
		})
		client.SetLinger(0)
		client.Close()
		waitFor(t, "the records", func() bool { return c.PartitionInfo("t", 0).HighWatermark == n })
		wantStored(t, c, "t", numbered(0, n))
	})
}

// A broker may be slow to read what a client has sent before its reset, and answer in between. A
// socket that were closed by then would answer with a reset, and the rest be lost.
func TestRequestsSurviveTheClientsResetWhenTheBrokerAnswersFirst(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		m := meet(t, transport)
		m.broker.SetReadBuffer(8 << 10) // so that most waits with us
		const n = 200
		for i := range n {
			m.client.send(produceRequest("t", 0, strings.Repeat("x", 1000)+strconv.Itoa(i), 0), 7)
		}
		waitFor(t, "the agent to have read all that came", func() bool {
			return series(t, m.agent, "culvert_requests_total", "Produce") == n
		})
		m.client.SetLinger(0)
		m.client.Close()
		time.Sleep(200 * time.Millisecond) // for the reset to be acted on
		m.broker.Write(framed(metadata(m.id, 0)))
		time.Sleep(50 * time.Millisecond)
		for i := range n {
			if _, err := readFrame(m.broker); err != nil {
				t.Fatalf("request %d of %d: %v", i, n, err)
			}
		}
		m.broker.Close()
	})
}

// A broker comes to the next request when it has written its response, and nobody must stop taking
// that because the client disconnected: not even when the time is over that was set for the wait
// before it.
func TestBrokerCanWriteItsResponseAfterTheClientIsGone(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		m := meet(t, transport)
		const size = 40 << 20
		m.broker.Write(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, size), uint32(m.id)))
		m.broker.Write(make([]byte, 64<<10))
		io.ReadFull(m.client, make([]byte, 8))
		m.client.SetLinger(0)
		m.client.Close()
		m.broker.Write(make([]byte, 256<<10)) // meets the reset
		time.Sleep(idleAfter + idleAfter/5)
		if _, err := m.broker.Write(make([]byte, size-4-320<<10)); err != nil {
			t.Errorf("the broker's response: %v", err)
		}
		m.broker.Close()
	})
}

// A process that is told to end answers what is in flight, then ends the connection; the client
// that asks on gets no half of an answer.
func TestDrainAnswersWhatIsInFlight(t *testing.T) {
	for _, end := range []string{"agent", "gateway"} {
		for _, transport := range transports {
			if end == "gateway" && transport == "direct" {
				continue
			}
			t.Run(end+" over "+transport, func(t *testing.T) {
				asked, release := make(chan struct{}, 9), make(chan struct{})
				var requests atomic.Int32
				broker := fakeBroker(t, answering(func(key, _ int16, id int32) []byte {
					if key == int16(protocol.Metadata) && requests.Add(1) > 1 { // the first one opens the stream, and those behind it wait for that
						asked <- struct{}{}
						<-release
					}
					return metadata(id, 0)
				}))
				p := startPlace(t, transport, "", []string{broker})
				agent := startAgent(t, p.up(t), nil)
				client := dialKafka(t, agent.address)
				client.send(kmsg.NewPtrMetadataRequest(), 1)
				first := make([]byte, len(framed(metadata(1, 0))))
				if _, err := io.ReadFull(client, first); err != nil {
					t.Fatal(err)
				}
				client.Write(append(requestFrame(kmsg.NewPtrMetadataRequest(), 1, 2), requestFrame(kmsg.NewPtrMetadataRequest(), 1, 3)...))
				<-asked
				stop := map[string]func(){"agent": agent.stop, "gateway": p.gateway.stop}[end]
				stopped := make(chan struct{})
				go func() { defer close(stopped); stop() }()
				waitFor(t, "the drain to begin", func() bool { return refuses(agent, end) || end == "gateway" })
				close(release)
				got, reset := ended(t, client)
				if want := append(framed(metadata(2, 0)), framed(metadata(3, 0))...); !bytes.Equal(got, want) || reset {
					t.Errorf("the client read %q, reset %v, want two answers and an end", got, reset)
				}
				<-stopped
			})
		}
	}
}

func refuses(r running, end string) bool {
	c, err := net.Dial("tcp", r.address)
	if err == nil {
		c.Close()
	}
	return err != nil
}

// Many a client does not notice the end of a connection that it does not use. That must not keep a
// gateway from ending.
func TestDrainDoesNotWaitForIdleClients(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		c := startCluster(t, 1)
		p := startPlace(t, transport, "", c.Bootstrap())
		log := &memoryLog{}
		loudGateway := func(g *Gateway) { g.Logger = log.logger() }
		if transport != "direct" {
			p.gateway.stop()
			p.gateway = startGatewayOn(t, p.gateway.address, p.bootstrap, loudGateway)
		}
		agent := startAgent(t, p.up(t), func(a *Agent) { a.Logger = log.logger() })
		idle := dialKafka(t, agent.address)
		idle.brokers(t)
		dialKafka(t, agent.node(0)).brokers(t)
		if transport != "direct" {
			p.gateway.stop()
		}
		agent.stop()
		if strings.Contains(log.String(), "did not end in time") {
			t.Errorf("the drain waited for an idle client:\n%s", log)
		}
		if got, reset := ended(t, idle); len(got) > 0 || reset {
			t.Errorf("the idle client read %q, reset %v, want an end", got, reset)
		}
	})
}
