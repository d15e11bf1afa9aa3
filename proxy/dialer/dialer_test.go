package dialer_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl/plain"

	"github.com/culvert-proxy/culvert/proxy"
	"github.com/culvert-proxy/culvert/proxy/dialer"
	"github.com/culvert-proxy/culvert/proxy/fakekafka"
)

// patience is how long a test waits for what must happen.
const patience = time.Minute

// franz makes a client that dials with d.
func franz(t *testing.T, d *dialer.Dialer, options ...kgo.Opt) *kgo.Client {
	t.Helper()
	client, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(dialer.Bootstrap), kgo.Dialer(d.DialContext), kgo.MetadataMinAge(100 * time.Millisecond)}, options...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

// produce sends one record to each partition of a topic of three.
func produce(t *testing.T, client *kgo.Client, to string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for p := range int32(3) {
		if err := client.ProduceSync(ctx, &kgo.Record{Topic: to, Partition: p, Value: []byte{byte('0' + p)}}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
}

// advertised returns the address that a broker advertises.
func advertised(t *testing.T, c *fakekafka.Cluster, node int) string {
	t.Helper()
	_, port, err := net.SplitHostPort(c.Bootstrap()[node])
	if err != nil {
		t.Fatal(err)
	}
	return net.JoinHostPort(fakekafka.Host(int32(node)), port)
}

// ask sends an ApiVersions request on a connection, and returns the error of the answer.
func ask(t *testing.T, c net.Conn) error {
	t.Helper()
	request := kmsg.NewRequestFormatter().AppendRequest(nil, kmsg.NewPtrApiVersionsRequest(), 7)
	if _, err := c.Write(request); err != nil {
		return err
	}
	c.SetReadDeadline(time.Now().Add(patience))
	var head [8]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return err
	}
	if head[7] != 7 {
		t.Errorf("the answer has correlation id %d, want 7", head[7])
	}
	return nil
}

// The partitions have different leaders, so this dials each broker by its advertised address, which
// only the gateway can resolve.
func TestClientsReachEachBroker(t *testing.T) {
	for _, transport := range transports {
		t.Run(transport, func(t *testing.T) {
			c := startCluster(t, topic("t"))
			d := open(t, gatewayTo(t, c, nil).config(transport))
			client := franz(t, d, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ConsumeTopics("t"), kgo.ConsumerGroup("g"),
				kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
			produce(t, client, "t")
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			for seen := 0; seen < 3; {
				fetches := client.PollFetches(ctx)
				if err := fetches.Err(); err != nil {
					t.Fatal(err)
				}
				seen += fetches.NumRecords()
			}
			if err := client.CommitUncommittedOffsets(ctx); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestClientsLogIn(t *testing.T) {
	c := startCluster(t, topic("t"), kfake.EnableSASL(), kfake.Superuser("PLAIN", "alice", "pw"))
	d := open(t, gatewayTo(t, c, nil).config("ws"))
	client := franz(t, d, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.SASL(plain.Auth{User: "alice", Pass: "pw"}.AsMechanism()))
	produce(t, client, "t")
}

// A program may know a broker by its own name only.
func TestAdvertisedAddressIsEnough(t *testing.T) {
	c := startCluster(t)
	d := open(t, gatewayTo(t, c, func(g *proxy.Gateway) { g.Brokers.Bootstrap = c.Bootstrap()[:1] }).config("ws"))
	conn, err := d.DialContext(t.Context(), "tcp", advertised(t, c, 2))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := ask(t, conn); err != nil {
		t.Error(err)
	}
	if got, want := conn.RemoteAddr().String(), advertised(t, c, 2); got != want {
		t.Errorf("RemoteAddr is %s, want %s", got, want)
	}
}

func TestAddressThatNoBrokerHasIsRefused(t *testing.T) {
	var asked atomic.Int32
	c := startCluster(t)
	c.ControlKey(int16(kmsg.Metadata), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		asked.Add(1)
		return nil, nil, false
	})
	d := open(t, gatewayTo(t, c, nil).config("ws"))
	for range 5 {
		conn, err := d.DialContext(t.Context(), "tcp", "db.internal.invalid:5432")
		if err == nil {
			err = ask(t, conn)
			conn.Close()
		}
		checkError(t, err, dialer.ErrNotAllowed, "db.internal.invalid:5432 may not be dialled", "does a broker advertise it?")
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%v is no ECONNRESET", err)
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("the cluster was asked for its brokers %d times, want once", n)
	}
}

func TestBrokerThatIsDownIsNamed(t *testing.T) {
	c := startCluster(t)
	d := open(t, gatewayTo(t, c, nil).config("ws"))
	down := advertised(t, c, 2)
	conn, err := d.DialContext(t.Context(), "tcp", advertised(t, c, 1)) // gets the tickets for all brokers
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := c.RemoveNode(2); err != nil {
		t.Fatal(err)
	}
	conn, err = d.DialContext(t.Context(), "tcp", down)
	if err == nil {
		defer conn.Close()
		err = ask(t, conn)
	}
	checkError(t, err, dialer.ErrUnreachable, "dial broker at "+down, "is the broker running")
}

func TestGatewayThatIsNotThereIsNamed(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	d := open(t, dialer.Config{GatewayURLs: []string{"https://" + ln.Addr().String()}, Transport: "ws"})
	_, err = d.DialContext(t.Context(), "tcp", dialer.Bootstrap)
	checkError(t, err, dialer.ErrNoGateway, ln.Addr().String(), "connection refused", "is the port in Config.GatewayURLs right?")
}

func TestWrongTokenIsExplained(t *testing.T) {
	config := gatewayTo(t, startCluster(t), nil).config("ws")
	config.Token = func() (string, error) { return "another", nil }
	_, err := open(t, config).DialContext(t.Context(), "tcp", dialer.Bootstrap)
	checkError(t, err, dialer.ErrNoGateway, "unknown token", "is the first line of Config.TokenFile in the gateway's file too?")
}

// So it is behind kubectl port-forward.
func TestGatewayOnLoopbackNeedsNoTLS(t *testing.T) {
	g := gatewayTo(t, startCluster(t), func(g *proxy.Gateway) { g.TLS = nil })
	config := g.config("")
	config.GatewayURLs = []string{strings.Replace(g.url, "https://", "http://", 1)}
	conn, err := open(t, config).DialContext(t.Context(), "tcp", dialer.Bootstrap)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := ask(t, conn); err != nil {
		t.Error(err)
	}
}

func TestForwardsAreReached(t *testing.T) {
	registry := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "at "+r.URL.Path) }))
	defer registry.Close()
	g := gatewayTo(t, startCluster(t), func(g *proxy.Gateway) {
		g.Forwards = []proxy.Forward{{Name: "schema-registry", Address: strings.TrimPrefix(registry.URL, "http://")}, {Name: "connect", Address: "127.0.0.1:1"}}
	})
	for _, transport := range transports {
		t.Run(transport, func(t *testing.T) {
			d := open(t, g.config(transport))
			way := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return d.DialForward(ctx, "schema-registry")
			}}
			defer way.CloseIdleConnections()
			answer, err := (&http.Client{Transport: way}).Get("http://schema-registry/subjects")
			if err != nil {
				t.Fatal(err)
			}
			defer answer.Body.Close()
			if got, err := io.ReadAll(answer.Body); err != nil || string(got) != "at /subjects" {
				t.Errorf("the registry answered %q, %v", got, err)
			}
		})
	}
	d := open(t, g.config("ws"))
	_, err := d.DialForward(t.Context(), "ui")
	checkError(t, err, dialer.ErrNotAllowed, "dial tcp ui: the gateway offers no forward ui: it offers connect, schema-registry")
	conn, err := d.DialForward(t.Context(), "connect")
	if err == nil {
		_, err = io.ReadAll(conn)
		conn.Close()
	}
	checkError(t, err, dialer.ErrUnreachable, "127.0.0.1:1", "connection refused")
	for _, name := range []string{"", "Schema", "a b", strings.Repeat("a", 64), "x\n"} {
		if conn, err := d.DialForward(t.Context(), name); err == nil {
			t.Errorf("%q is taken for a name", name)
			conn.Close()
		}
	}
}

// checkError checks an error that a client gets.
func checkError(t *testing.T, err, kind error, parts ...string) {
	t.Helper()
	var network net.Error
	switch {
	case err == nil:
		t.Fatal("no error")
	case !errors.Is(err, kind):
		t.Errorf("%v: is not %q", err, kind)
	case !errors.As(err, &network):
		t.Errorf("%v: is no net.Error, so clients may not try again", err)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%v: does not say %q", err, part)
		}
	}
}

func TestAddressesAndNetworksAreChecked(t *testing.T) {
	d := open(t, gatewayTo(t, startCluster(t), nil).config("ws"))
	for _, test := range []struct{ network, address, want string }{
		{"udp", "kafka:9092", "unknown network udp"},
		{"tcp", "kafka", "want HOST:PORT"},
		{"tcp", "kafka:0", "port"},
		{"tcp", "", "want HOST:PORT"},
		{"tcp", "bootstrap", "want HOST:PORT"},
		{"tcp", "kafka:9092\n", "port"},
		{"tcp", strings.Repeat("a", 300) + ":9092", "exceed the limit"},
	} {
		if _, err := d.DialContext(t.Context(), test.network, test.address); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("dial of %s %q: %v, want an error with %q", test.network, test.address, err, test.want)
		}
	}
}

func TestDialEndsWithItsContext(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	d := open(t, dialer.Config{GatewayURLs: []string{"https://" + ln.Addr().String()}, Transport: "ws"})
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	if _, err := d.DialContext(ctx, "tcp", dialer.Bootstrap); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v, want context.Canceled", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err = d.DialContext(ctx, "tcp", dialer.Bootstrap)
	if timeout, ok := errors.AsType[net.Error](err); !ok || !timeout.Timeout() {
		t.Errorf("error is %v, want a timeout", err)
	}
}

// What many clients dial at the same time is asked for once.
func TestDialsShareTheTicketsOfOneAnswer(t *testing.T) {
	var asked atomic.Int32
	c := startCluster(t)
	c.ControlKey(int16(kmsg.Metadata), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		asked.Add(1)
		return nil, nil, false
	})
	d := open(t, gatewayTo(t, c, func(g *proxy.Gateway) { g.Brokers.Bootstrap = c.Bootstrap()[:1] }).config("ws"))
	var dials sync.WaitGroup
	for i := range 12 {
		to := advertised(t, c, 1+i%2)
		dials.Go(func() {
			conn, err := d.DialContext(t.Context(), "tcp", to)
			if err == nil {
				err = ask(t, conn)
				conn.Close()
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	dials.Wait()
	if n := asked.Load(); n != 1 {
		t.Errorf("the cluster was asked for its brokers %d times, want once", n)
	}
}

// A client would take an EOF for the end of what the broker had to say.
func TestBrokenTunnelIsAReset(t *testing.T) {
	g, cutter := cuttable(t, gatewayTo(t, startCluster(t), nil))
	conn, err := open(t, g.config("ws")).DialContext(t.Context(), "tcp", dialer.Bootstrap)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := ask(t, conn); err != nil {
		t.Fatal(err)
	}
	cutter.cut()
	if _, err := io.Copy(io.Discard, conn); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("error is %v, want an ECONNRESET", err)
	}
}

// Without a key file each start of a gateway makes a new key, so the tickets are no longer accepted.
func TestClientSurvivesAGatewayWithANewKey(t *testing.T) {
	c := startCluster(t, topic("t"))
	g := gatewayTo(t, c, nil)
	client := franz(t, open(t, g.config("ws")), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	produce(t, client, "t")
	g.stop()
	gatewayAt(t, strings.TrimPrefix(g.url, "https://"), c, func(again *proxy.Gateway) { again.TLS = g.tls })
	produce(t, client, "t")
}

func TestAnotherGatewayTakesOver(t *testing.T) {
	c := startCluster(t, topic("t"))
	a, b := gatewayTo(t, c, nil), gatewayTo(t, c, nil)
	config := a.config("ws")
	config.GatewayURLs = append(config.GatewayURLs, b.url)
	config.TLS.RootCAs.AddCert(b.cert)
	client := franz(t, open(t, config), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	produce(t, client, "t")
	a.stop()
	produce(t, client, "t") // the tickets of a are not accepted by b
}

func TestNothingIsDialledAfterClose(t *testing.T) {
	d := open(t, gatewayTo(t, startCluster(t), nil).config("ws"))
	conn, err := d.DialContext(t.Context(), "tcp", dialer.Bootstrap)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("read of an open connection: %v, want an error", err)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	if _, err := d.DialContext(t.Context(), "tcp", dialer.Bootstrap); !errors.Is(err, net.ErrClosed) {
		t.Errorf("dial: %v, want net.ErrClosed", err)
	}
	if err := d.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("second Close: %v, want net.ErrClosed", err)
	}
}
