package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/culvert-proxy/culvert/proxy/internal/testca"
)

// namedAgent is an agent whose clients reach all brokers on one port, by name.
type namedAgent struct {
	running
	ca    *testca.CA
	log   *memoryLog
	agent *Agent
}

const brokerNames = "broker-{id}.kafka.example.com"

func startNamedAgent(t *testing.T, up Upstream, change func(*Agent)) *namedAgent {
	t.Helper()
	n := &namedAgent{ca: testca.New(t, "CA"), log: &memoryLog{}}
	n.running = startAgent(t, up, func(a *Agent) {
		n.agent = a
		a.ListenTLS = &tls.Config{Certificates: []tls.Certificate{n.ca.Server(t, "kafka.example.com", "*.kafka.example.com")}}
		a.BrokerNames, a.Logger = mustNames(t, brokerNames), n.log.logger()
		a.listenOn = func(_, address string) (net.Listener, error) {
			t.Errorf("the agent listens on %s", address)
			return nil, errors.New("one port is enough")
		}
		if change != nil {
			change(a)
		}
	})
	return n
}

func (n *namedAgent) config(name string) *tls.Config {
	return &tls.Config{RootCAs: n.ca.Pool(), ServerName: name}
}

// dial connects as a client that wants name.
func (n *namedAgent) dial(t *testing.T, name string) (*tls.Conn, error) {
	t.Helper()
	return n.dialWith(t, n.config(name))
}

func (n *namedAgent) dialWith(t *testing.T, config *tls.Config) (*tls.Conn, error) {
	t.Helper()
	c := tls.Client(dialAgent(t, n.address), config)
	return c, c.HandshakeContext(t.Context())
}

// client returns a Kafka client that verifies the name of each broker, and fails the test when it
// dials anything but one of the agent's names.
func (n *namedAgent) client(t *testing.T, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	_, port, _ := net.SplitHostPort(n.address)
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		name, p, _ := net.SplitHostPort(address)
		if _, isBroker := n.agent.BrokerNames.NodeID(name); p != port || !isBroker && name != "kafka.example.com" {
			t.Errorf("the client dials %s", address)
		}
		return (&tls.Dialer{Config: n.config(name)}).DialContext(ctx, network, n.address)
	}
	return newClient(t, net.JoinHostPort("kafka.example.com", port), append([]kgo.Opt{kgo.Dialer(dial)}, opts...)...)
}

// leadsTo asks over c which node answers, and fails unless its answer is that of node.
func leadsTo(t *testing.T, c *tls.Conn, asked *atomic.Int32, node int32) {
	t.Helper()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	c.Write(requestFrame(kmsg.NewPtrListGroupsRequest(), 0, 1))
	if _, err := readFrame(c); err != nil || asked.Load() != node {
		t.Errorf("node %d answered as %s, %v, want node %d", asked.Load(), c.ConnectionState().ServerName, err, node)
	}
}

// answeredBy has the cluster record which node has answered ListGroups last.
func answeredBy(c *kfake.Cluster) *atomic.Int32 {
	var last atomic.Int32
	c.ControlKey(int16(kmsg.ListGroups), func(kmsg.Request) (kmsg.Response, error, bool) {
		last.Store(c.CurrentNode())
		c.KeepControl()
		return nil, nil, false
	})
	return &last
}

// A client reads and writes on all brokers over one port, and each name leads to its own broker.
func TestAllBrokersOnOnePort(t *testing.T) {
	eachTransport(t, func(t *testing.T, transport string) {
		c := startCluster(t, 3)
		asked := answeredBy(c.Cluster)
		onePartitionEach(t, c, "t", 0, 1, 2)
		n := startNamedAgent(t, waysTo(t, c.Bootstrap(), transport, nil)(), nil)
		producer := n.client(t, kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
		produce(t, producer, "t", 30)
		wantStored(t, c, "t", numbered(0, 30))
		consume(t, n.client(t, kgo.ConsumeTopics("t"), kgo.ConsumerGroup("g")), 30)
		for id := range int32(3) {
			secure, err := n.dial(t, n.agent.BrokerNames.Of(id))
			if err != nil {
				t.Fatal(err)
			}
			leadsTo(t, secure, asked, id)
		}
		for i, l := range n.agent.NodeListeners() {
			if want := net.JoinHostPort(n.agent.BrokerNames.Of(int32(i)), strconv.Itoa(portOf(n.address))); l.Address != want || l.Err != nil {
				t.Errorf("node %d is at %s, %v, want %s", l.NodeID, l.Address, l.Err, want)
			}
		}
		d := n.agent.Status()
		if l := d.Listeners[0]; len(d.Listeners) != 1 || l.Advertised != brokerNames || len(d.Nodes) != 3 || d.Nodes[2].Local[0] != n.agent.NodeListeners()[2].Address {
			t.Errorf("/status has listeners %v, nodes %v", d.Listeners, d.Nodes)
		}
	})
}

func portOf(address string) int {
	_, port, _ := net.SplitHostPort(address)
	n, _ := strconv.Atoi(port)
	return n
}

// Clients are told the port that something maps to the agent's.
func TestNamesWithTheirOwnPort(t *testing.T) {
	c := startCluster(t, 1)
	n := startNamedAgent(t, waysTo(t, c.Bootstrap(), "direct", nil)(), func(a *Agent) { a.Listens[0].Host, a.Listens[0].Port = "bootstrap.example.com", 443 })
	config := n.config("bootstrap.example.com")
	config.InsecureSkipVerify = true // the certificate is not for that name
	secure, err := n.dialWith(t, config)
	if err != nil {
		t.Fatal(err)
	}
	if got := brokersOver(t, secure); got[0] != "broker-0.kafka.example.com:443" {
		t.Errorf("clients are told %v", got)
	}
}

// brokersOver asks for metadata over c, and returns the addresses by node id.
func brokersOver(t *testing.T, c net.Conn) map[int32]string {
	t.Helper()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	c.Write(requestFrame(kmsg.NewPtrMetadataRequest(), 2, 1))
	frame, err := readFrame(c)
	response := kmsg.MetadataResponse{Version: 2} // which names the cluster
	if err == nil {
		err = response.ReadFrom(frame[4:])
	}
	if err != nil {
		t.Fatal(err)
	}
	brokers := map[int32]string{}
	for _, b := range response.Brokers {
		brokers[b.NodeID] = net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port)))
	}
	return brokers
}

// A name that certainly leads nowhere is refused by the alert that RFC 6066 has for it, and the log
// says which name it was and which would do.
func TestAServerNameThatLeadsNowhere(t *testing.T) {
	c := startCluster(t, 2)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			for _, test := range []struct {
				name string
				want []string
			}{
				{"", []string{`server_name=""`, "the client sends no server name (SNI)", "bootstrap brokers: kafka.example.com", "an IP address"}},
				{"foo.kafka.example.com", []string{"server_name=foo.kafka.example.com", "neither that of a broker, as " + brokerNames, "bootstrap brokers: kafka.example.com"}},
				{"broker-01.kafka.example.com", []string{"neither that of a broker"}},
				{"broker-1.kafka.example.org", []string{"neither that of a broker"}},
				{"broker-77.kafka.example.com", []string{"server_name=broker-77.kafka.example.com", "the cluster has no broker 77", "was it removed"}},
				{"broker-2147483647.kafka.example.com", []string{"the cluster has no broker 2147483647"}},
			} {
				n := startNamedAgent(t, waysTo(t, c.Bootstrap(), "direct", nil)(), nil)
				config := n.config(test.name)
				config.InsecureSkipVerify, config.MaxVersion = true, version
				secure, err := n.dialWith(t, config)
				var alert tls.AlertError
				if !errors.As(err, &alert) && !strings.Contains(fmt.Sprint(err), "unrecognized name") {
					t.Errorf("%q: handshake %v (version %x), want the alert unrecognized_name", test.name, err, secure.ConnectionState().Version)
				}
				want := append(test.want, "client's TLS handshake refused")
				waitFor(t, fmt.Sprintf("a log of %q", want), func() bool { return warns(n.log.String(), want) })
				if got := series(t, n.running, "culvert_refused_total", "server_name"); got != 1 {
					t.Errorf("%q: culvert_refused_total{reason=server_name} is %v, want 1", test.name, got)
				}
			}
		})
	}
}

// Names of DNS have no case.
func TestBootstrapNamesHaveNoCase(t *testing.T) {
	c := startCluster(t, 1)
	n := startNamedAgent(t, waysTo(t, c.Bootstrap(), "direct", nil)(), nil)
	for _, name := range []string{"kafka.example.com", "KAFKA.Example.COM", "Broker-0.kafka.Example.com"} {
		secure, err := n.dial(t, name)
		if err != nil {
			t.Fatal(name, err)
		}
		if got := brokersOver(t, secure); got[0] != fmt.Sprintf("broker-0.kafka.example.com:%d", portOf(n.address)) {
			t.Errorf("%s: clients are told %v", name, got)
		}
	}
}

// A broker that has joined the cluster is reached by its name on an agent that no response has told
// of it: clients may have learned of it from another agent.
func TestABrokerThatThisAgentHasNotSeen(t *testing.T) {
	c := startCluster(t, 1)
	asked := answeredBy(c.Cluster)
	n := startNamedAgent(t, waysTo(t, c.Bootstrap(), "ws", nil)(), nil)
	if _, err := n.dial(t, "broker-1.kafka.example.com"); err == nil {
		t.Fatal("a broker is reached before it exists")
	}
	if err := c.Add(1); err != nil {
		t.Fatal(err)
	}
	secure, err := n.dial(t, "broker-1.kafka.example.com")
	if err != nil {
		t.Fatal(err)
	}
	leadsTo(t, secure, asked, 1)
}

// What the agent cannot know yet is no reason to tell a client that the name is wrong: clients in
// Java would give up for good. The connection is reset, as by a process that restarts.
func TestANameThatIsNotKnownYet(t *testing.T) {
	sasl := startCluster(t, 2, kfake.EnableSASL(), kfake.Superuser("PLAIN", "u", "u"))
	for _, test := range []struct {
		what      string
		bootstrap []string
		want      []string
	}{
		{"the cluster wants a login", sasl.Bootstrap(), []string{"broker 1 is not known yet", "cannot be asked without credentials", "list the node ids with --expect-nodes"}},
		{"no broker is reached", []string{"127.0.0.1:1"}, []string{"broker 1 is not known yet", "is the cluster reached?"}},
	} {
		t.Run(test.what, func(t *testing.T) {
			n := startNamedAgent(t, waysTo(t, test.bootstrap, "direct", nil)(), nil)
			if _, err := n.dial(t, "broker-1.kafka.example.com"); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("handshake: %v, want a reset", err)
			}
			waitFor(t, fmt.Sprintf("a log of %q", test.want), func() bool { return warns(n.log.String(), test.want) })
			if n := series(t, n.running, "culvert_refused_total", "server_name"); n != 1 {
				t.Errorf("culvert_refused_total{reason=server_name} is %v, want 1", n)
			}
		})
	}
	t.Run("it is expected", func(t *testing.T) {
		n := startNamedAgent(t, waysTo(t, sasl.Bootstrap(), "direct", nil)(), func(a *Agent) { a.ExpectNodes = []int32{1} })
		secure, err := n.dial(t, "broker-1.kafka.example.com")
		if err != nil {
			t.Fatal(err)
		}
		c := kafkaOver{secure}
		if err := c.login("u"); err != nil {
			t.Fatal(err)
		}
		if got := brokersOver(t, secure); len(got) != 2 {
			t.Errorf("clients are told %v", got)
		}
	})
}

// After a restart, a client comes straight back to a broker's name.
func TestNamesAreKnownFromTheStateFile(t *testing.T) {
	c := startCluster(t, 2)
	asked := answeredBy(c.Cluster)
	ways, file := waysTo(t, c.Bootstrap(), "ws", nil), filepath.Join(t.TempDir(), "state.json")
	first := startNamedAgent(t, ways(), func(a *Agent) { a.StateFile = file })
	secure, err := first.dial(t, "kafka.example.com")
	if err != nil {
		t.Fatal(err)
	}
	brokersOver(t, secure)
	secure.Close()
	first.stop()
	second := startNamedAgent(t, ways(), func(a *Agent) { a.StateFile = file })
	if secure, err = second.dial(t, "broker-1.kafka.example.com"); err != nil {
		t.Fatal(err)
	}
	leadsTo(t, secure, asked, 1)
	if !second.agent.finder.asked.IsZero() {
		t.Error("the cluster was asked where the broker is")
	}
}

// Whoever reaches the port may ask for any name, without credentials. However many do, the cluster
// is asked once a second at most.
func TestManyUnknownNamesAreFewQuestions(t *testing.T) {
	c := startCluster(t, 1)
	n := startNamedAgent(t, waysTo(t, c.Bootstrap(), "direct", nil)(), nil)
	var metadata atomic.Int32
	c.ControlKey(int16(kmsg.Metadata), func(kmsg.Request) (kmsg.Response, error, bool) {
		metadata.Add(1)
		c.KeepControl()
		return nil, nil, false
	})
	began := time.Now()
	var all sync.WaitGroup
	for i := range 60 {
		all.Go(func() {
			if _, err := n.dial(t, n.agent.BrokerNames.Of(int32(100+i))); err == nil {
				t.Error("the handshake succeeded")
			}
		})
	}
	all.Wait()
	most := int32(2 + time.Since(began)/askPause)
	if got := metadata.Load(); got < 1 || got > most {
		t.Errorf("the cluster was asked %d times, want 1 to %d", got, most)
	}
	if lines := strings.Count(n.log.String(), "client's TLS handshake refused"); lines > int(1+time.Since(began)/warnEvery) {
		t.Errorf("%d warnings:\n%s", lines, n.log)
	}
	if got := len(n.agent.Status().Nodes); got > 1 {
		t.Errorf("%d nodes are known, want those of the cluster only", got)
	}
}

// A broker that restarts is missing from metadata as well, so its name is refused only after it has
// been gone for long.
func TestANodeThatIsGone(t *testing.T) {
	c := startCluster(t, 1)
	n := startNamedAgent(t, waysTo(t, c.Bootstrap(), "direct", nil)(), nil)
	remember := func(ago time.Duration) {
		nodes := &n.agent.nodes
		nodes.mu.Lock()
		defer nodes.mu.Unlock()
		nodes.started = time.Now().Add(-time.Hour)
		nodes.known[5] = node{id: 5, address: "127.0.0.1:1", stale: true, namedAt: time.Now().Add(-ago)}
	}
	remember(goneAfter / 2)
	if _, err := n.dial(t, "broker-5.kafka.example.com"); err != nil {
		t.Errorf("a broker that may be restarting: %v", err)
	}
	remember(goneAfter + time.Minute)
	if _, err := n.dial(t, "broker-5.kafka.example.com"); err == nil || !strings.Contains(err.Error(), "unrecognized name") {
		t.Errorf("a broker that is gone: %v", err)
	}
	waitFor(t, "a log of it", func() bool { return warns(n.log.String(), []string{"the cluster has no broker 5"}) })
}

// oneSession has a client try to resume the same session under any name.
type oneSession struct{ session *tls.ClientSessionState }

func (s *oneSession) Get(string) (*tls.ClientSessionState, bool) {
	return s.session, s.session != nil
}

func (s *oneSession) Put(_ string, session *tls.ClientSessionState) {
	if session != nil {
		s.session = session
	}
}

// A session is resumed for the broker that it was made for, and for no other: RFC 6066 section 3.
// The certificate of a client is verified each time.
func TestASessionIsForOneName(t *testing.T) {
	c := startCluster(t, 2)
	asked := answeredBy(c.Cluster)
	clientCA := testca.New(t, "clients")
	var verified atomic.Int32
	n := startNamedAgent(t, waysTo(t, c.Bootstrap(), "direct", nil)(), func(a *Agent) {
		a.ListenTLS.ClientAuth = tls.RequireAnyClientCert
		a.ListenTLS.VerifyConnection = func(s tls.ConnectionState) error {
			if verified.Add(1); len(s.PeerCertificates) == 0 {
				return errors.New("no certificate")
			}
			return nil
		}
	})
	own := clientCA.Server(t, "client")
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			sessions := &oneSession{}
			connect := func(name string, node int32, resumed bool) {
				t.Helper()
				config := n.config(name)
				config.MaxVersion, config.ClientSessionCache, config.Certificates = version, sessions, []tls.Certificate{own}
				before := verified.Load()
				secure, err := n.dialWith(t, config)
				if err != nil {
					t.Fatal(name, err)
				}
				leadsTo(t, secure, asked, node)
				if got := secure.ConnectionState().DidResume; got != resumed {
					t.Errorf("%s: resumed %v, want %v", name, got, resumed)
				}
				if verified.Load() == before {
					t.Errorf("%s: the client's certificate was not verified", name)
				}
			}
			connect("broker-0.kafka.example.com", 0, false)
			connect("broker-0.kafka.example.com", 0, true)
			connect("broker-1.kafka.example.com", 1, false)
			connect("broker-1.kafka.example.com", 1, true)
			connect("broker-0.kafka.example.com", 0, false)
			// A session does not open the way to a name that leads nowhere.
			config := n.config("broker-9.kafka.example.com")
			config.MaxVersion, config.ClientSessionCache, config.Certificates = version, sessions, []tls.Certificate{own}
			if _, err := n.dialWith(t, config); err == nil || !strings.Contains(err.Error(), "unrecognized name") {
				t.Errorf("a broker that does not exist: %v", err)
			}
		})
	}
}

// A broker whose name is not in the certificate is logged when it is known: its clients only say
// that the certificate is bad.
func TestACertificateWithoutABrokersName(t *testing.T) {
	c := startCluster(t, 3)
	n := startNamedAgent(t, waysTo(t, c.Bootstrap(), "direct", nil)(), nil)
	n.agent.serverNames.tls.Certificates[0] = n.ca.Server(t, "kafka.example.com", "broker-0.kafka.example.com", "broker-1.kafka.example.com")
	secure, err := n.dial(t, "kafka.example.com")
	if err != nil {
		t.Fatal(err)
	}
	brokersOver(t, secure)
	want := []string{"node_id=2", "the certificate is not for broker-2.kafka.example.com: it is for kafka.example.com, broker-0", "--listen-tls-cert-file"}
	if log := n.log.String(); !warns(log, want) || strings.Count(log, "level=WARN") != 1 {
		t.Errorf("want one warning with %q:\n%s", want, log)
	}
}

// kafkaOver is a client's connection over TLS.
type kafkaOver struct{ *tls.Conn }

func (c kafkaOver) login(user string) error {
	handshake := kmsg.NewPtrSASLHandshakeRequest()
	handshake.Mechanism = "PLAIN"
	authenticate := kmsg.NewPtrSASLAuthenticateRequest()
	authenticate.SASLAuthBytes = []byte("\x00" + user + "\x00" + user)
	c.SetDeadline(time.Now().Add(20 * time.Second))
	for _, r := range []kmsg.Request{handshake, authenticate} {
		if _, err := c.Write(requestFrame(r, 1, 1)); err != nil {
			return err
		}
		frame, err := readFrame(c)
		if err != nil {
			return err
		}
		if !bytes.Equal(frame[4:6], []byte{0, 0}) {
			return fmt.Errorf("login refused: %x", frame)
		}
	}
	return nil
}
