package proxy

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/culvert-proxy/culvert/protocol"
	"github.com/culvert-proxy/culvert/proxy/internal/memnet"
	"github.com/culvert-proxy/culvert/proxy/metrics"
	"github.com/culvert-proxy/culvert/rewrite"
)

// closingAt is a broker that answers until it gets a request of a key, and then closes or resets.
func closingAt(key protocol.APIKey, resets bool) func(net.Conn) {
	return func(c net.Conn) {
		answering(func(k, _ int16, id int32) []byte {
			if protocol.APIKey(k) == key {
				if resets {
					c.(*net.TCPConn).SetLinger(0)
				}
				c.Close()
			}
			if protocol.APIKey(k) == protocol.APIVersions {
				return append(emptyAnswer(0, 0, id), make([]byte, 6)...) // no error, no versions
			}
			return metadata(id, 0)
		})(c)
	}
}

// A broker that closes a connection instead of answering does not say why. Both ends say once, and
// not for each try of the client, what it looks like and what it usually is.
func TestARequestThatABrokerDoesNotAnswerIsNamedOnce(t *testing.T) {
	produce := requestFrame(produceRequest("t", 0, "x", 1), 0, 2)
	telemetry := framed([]byte{0, 72, 0, 0, 0, 0, 0, 2, 0xff, 0xff, 0})
	asked := requestFrame(kmsg.NewPtrMetadataRequest(), 1, 1)
	versions := requestFrame(kmsg.NewPtrApiVersionsRequest(), 0, 1)
	for _, test := range []struct {
		name, broker string
		sent         [][]byte
		at           protocol.APIKey
		resets       bool
		err, hint    string
	}{
		{"Produce v0", "closes", [][]byte{asked, produce}, protocol.Produce, false,
			"a bootstrap broker closed the connection while Produce v0 awaited its answer", "does this broker answer Produce v0 at all?"},
		{"telemetry", "resets", [][]byte{asked, telemetry}, 72, true,
			"a bootstrap broker closed the connection while PushTelemetry v0 awaited its answer", "does this broker answer PushTelemetry v0 at all?"},
		{"a login is missing", "closes", [][]byte{versions, asked}, protocol.Metadata, false,
			"a bootstrap broker closed the connection while Metadata v1 awaited its answer", "it may want SASL (security.protocol=SASL_… at the client)"},
		{"an old client's login is missing", "closes", [][]byte{asked}, protocol.Metadata, false,
			"a bootstrap broker closed the connection before its first answer", "it may want SASL (security.protocol=SASL_… at the client), or TLS (--broker-tls, "},
		{"TLS is missing", "resets", [][]byte{versions}, protocol.APIVersions, true,
			"a bootstrap broker closed the connection before its first answer", "it may want SASL (security.protocol=SASL_… at the client), or TLS (--broker-tls, "},
	} {
		for _, transport := range []string{"direct", "ws"} {
			t.Run(test.name+" over "+transport, func(t *testing.T) {
				logs := map[string]*memoryLog{"agent": {}}
				broker := fakeBroker(t, closingAt(test.at, test.resets))
				up := waysTo(t, []string{broker}, transport, func(g *Gateway) {
					logs["gateway"] = &memoryLog{}
					g.Logger = logs["gateway"].logger()
				})()
				agent := startAgent(t, up, func(a *Agent) { a.Logger = logs["agent"].logger() })
				for range 3 {
					c := dialAgent(t, agent.address)
					for i, b := range test.sent {
						c.Write(b)
						if i < len(test.sent)-1 {
							readFrame(c)
						}
					}
					io.ReadAll(c)
				}
				for end, log := range logs {
					wantOnce(t, end, log, fmt.Sprintf("err=%q", test.err))
					wantOnce(t, end, log, test.hint)
				}
			})
		}
	}
}

// wantOnce reports whether a text is not in a log exactly once, within a second.
func wantOnce(t *testing.T, end string, log *memoryLog, text string) {
	t.Helper()
	waitFor(t, "the line of the "+end, func() bool { return strings.Contains(log.String(), text) })
	if n := strings.Count(log.String(), text); n != 1 {
		t.Errorf("the %s logged %d times %s:\n%s", end, n, text, log)
	}
}

// A gateway that drains ends its streams with requests unanswered that it never read. That is no
// fault of the broker, and the agent must not say so.
func TestADrainIsNotBlamedOnTheBroker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, near := memnet.Pipe(memnet.Addr("client"), memnet.Addr("near"))
		far, _ := memnet.Pipe(memnet.Addr("far"), memnet.Addr("broker"))
		log := &memoryLog{}
		s := looking{}.settings()
		s.report.log, s.report.broker = log.logger(), "broker 2"
		c := newConn(near, s)
		c.connect(far)
		c.requests.inflight.push(request{Request: protocol.Request{Key: protocol.Metadata}, sentID: 1})
		c.ending.note(metrics.CloseBrokerFIN, errGatewayFinished)
		c.report.closed(c.ending.why(), nil)
		if log.String() != "" {
			t.Errorf("the log: %s", log)
		}
		c.requests.inflight.close()
		client.Close()
	})
}

// A broker that drops packets says nothing at all. When the client gives up, that is said.
func TestAClientThatLeftWhileItWaitedIsNamedOnce(t *testing.T) {
	for _, test := range []struct {
		wait time.Duration
		key  byte
		want string
	}{
		{32 * time.Second, 3, "client left while waiting 32s for the answer to Metadata v1 of broker 2"},
		{3 * time.Second, 3, ""},
		{32 * time.Second, 11, ""}, // JoinGroup: members wait for one another
	} {
		for _, leave := range []func(*memnet.Conn){func(c *memnet.Conn) { c.Close() }, (*memnet.Conn).Cut} {
			synctest.Test(t, func(t *testing.T) {
				log, limiter := &memoryLog{}, &logLimiter{}
				for range 2 {
					client, near := memnet.Pipe(memnet.Addr("client"), memnet.Addr("near"))
					far, broker := memnet.Pipe(memnet.Addr("far"), memnet.Addr("broker"))
					s := looking{}.settings()
					s.report.log, s.report.limiter, s.report.broker = log.logger(), limiter, "broker 2"
					c := newConn(near, s)
					c.connect(far)
					over := make(chan struct{})
					go func() { c.run(t.Context()); close(over) }()
					go io.Copy(io.Discard, broker)
					client.Write(framed([]byte{0, test.key, 0, 1, 0, 0, 0, 1, 0xff, 0xff}))
					time.Sleep(test.wait)
					leave(client)
					time.Sleep(2 * lingerTimeout) // the line comes even if the broker never ends its side
					if n := strings.Count(log.String(), fmt.Sprintf("err=%q", test.want)); test.want != "" && n != 1 {
						t.Errorf("after %v, %d times %q:\n%s", test.wait, n, test.want, log)
					}
					<-over
					broker.Close()
				}
				if n := strings.Count(log.String(), fmt.Sprintf("err=%q", test.want)); test.want != "" && n != 1 || test.want == "" && log.String() != "" {
					t.Errorf("after %v, %d times %q:\n%s", test.wait, n, test.want, log)
				}
			})
		}
	}
}

// A login that waits for its next step has a reason when it ends.
func TestALoginWithoutAnAnswerIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, near := memnet.Pipe(memnet.Addr("client"), memnet.Addr("near"))
		far, broker := memnet.Pipe(memnet.Addr("far"), memnet.Addr("broker"))
		log := &memoryLog{}
		s := looking{}.settings()
		s.report.log, s.report.broker = log.logger(), "broker 2"
		c := newConn(near, s)
		c.connect(far)
		over := make(chan struct{})
		go func() { c.run(t.Context()); close(over) }()
		go io.Copy(io.Discard, broker)
		client.Write(append(handshakeV0("PLAIN", 5), framed([]byte("\x00user\x00password"))...))
		<-over
		if want := `err="broker 2: the broker does not answer: the client's login has waited for its next step for 30s"`; strings.Count(log.String(), want) != 1 {
			t.Errorf("the log lacks %s:\n%s", want, log)
		}
		client.Close()
		broker.Close()
	})
}

// A client in a container that is told 127.0.0.1 connects to itself.
func TestAClientFromElsewhereThatIsToldLoopbackIsNamedOnce(t *testing.T) {
	for remote, want := range map[string]int{"172.17.0.2:40000": 1, "127.0.0.1:40000": 0, "10.0.0.1:40000": 0} {
		log := &memoryLog{}
		s := connSettings{report: reporter{log: log.logger(), limiter: &logLimiter{}}, settingNames: flags}
		near := addressed{local: tcpAddr(t, "10.0.0.1:9092"), remote: tcpAddr(t, remote)}
		c := &agentConn{agent: &Agent{}, conn: newConn(near, s)}
		c.agent.nodes.opened = map[int32][]*nodeListener{0: {{told: endpoint{"127.0.0.1", 19092}}}}
		for range 3 {
			directory{c: c}.Local(rewrite.Broker{NodeID: 0})
		}
		if n := strings.Count(log.String(), "is told that brokers are at 127.0.0.1, which for that client is its own machine"); n != want {
			t.Errorf("client %s: %d lines, want %d:\n%s", remote, n, want, log)
		}
		if want > 0 && !strings.Contains(log.String(), "--listen ADDRESS=HOST") {
			t.Errorf("the line names no setting:\n%s", log)
		}
	}
}

// addressed is a connection of which only the addresses matter.
type addressed struct {
	net.Conn
	local, remote net.Addr
}

func (a addressed) LocalAddr() net.Addr  { return a.local }
func (a addressed) RemoteAddr() net.Addr { return a.remote }

func tcpAddr(t *testing.T, address string) net.Addr {
	t.Helper()
	a, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// The memory of what has been said is bounded, whatever brokers call themselves.
func TestWhatIsSaidOnceIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l logLimiter
		for i := range 2 * maxTold {
			l.news(warning{"m", fmt.Sprint(i)})
		}
		if len(l.told) != maxTold {
			t.Errorf("%d warnings are remembered, want %d", len(l.told), maxTold)
		}
		if l.news(warning{"m", "0"}) {
			t.Error("a warning was news twice")
		}
		time.Sleep(tellEvery)
		if !l.news(warning{"m", "another"}) || len(l.told) != 1 {
			t.Errorf("after %v, %d warnings are remembered", tellEvery, len(l.told))
		}
	})
}
