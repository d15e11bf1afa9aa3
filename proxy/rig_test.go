package proxy

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/culvert-proxy/culvert/proxy/fakekafka"
	"github.com/culvert-proxy/culvert/proxy/metrics"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// transports are all ways between an agent and the brokers.
var transports = []string{"ws", "h3", "direct"}

// eachTransport runs a test once for each transport.
func eachTransport(t *testing.T, test func(t *testing.T, transport string)) {
	for _, transport := range transports {
		t.Run(transport, func(t *testing.T) { test(t, transport) })
	}
}

// startCluster starts an embedded cluster that ends with the test.
func startCluster(t *testing.T, n int, opts ...kfake.Opt) *fakekafka.Cluster {
	t.Helper()
	c, err := fakekafka.Start(n, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// running is an agent or a gateway under test.
type running struct {
	address string // agent: the bootstrap address; gateway: its URL
	metrics *prometheus.Registry
	stop    func() // and wait
}

// run starts run and stops it at the end of the test, or with stop.
func run(t *testing.T, serve func(context.Context) error) func() {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- serve(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(30 * time.Second):
			t.Error("did not stop")
		}
	})
	t.Cleanup(stop)
	return stop
}

// testLogger logs to the test.
func testLogger(t *testing.T, who string) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})).With("end", who)
}

// startGateway starts a gateway on loopback in front of a cluster. change may
// alter it before it runs.
func startGateway(t *testing.T, bootstrap []string, change func(*Gateway)) running {
	t.Helper()
	ln := listenLoopback(t)
	udp, err := net.ListenPacket("udp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	reg := prometheus.NewRegistry()
	g := &Gateway{
		Version: "test", TLS: serverTLS(t), DrainTimeout: 5 * time.Second,
		Brokers: &Brokers{Bootstrap: bootstrap, Resolver: fakekafka.Resolver{}},
		Metrics: metrics.New(reg, "gateway", "test"), Logger: testLogger(t, "gateway"),
	}
	if change != nil {
		change(g)
	}
	stop := run(t, func(ctx context.Context) error { return g.Run(ctx, ln, udp) })
	return running{address: "https://" + ln.Addr().String(), metrics: reg, stop: stop}
}

// tunnelTo is an upstream through a gateway.
func tunnelTo(t *testing.T, gateway, transport string) Upstream {
	t.Helper()
	u, err := url.Parse(gateway)
	if err != nil {
		t.Fatal(err)
	}
	return NewTunnel(&tunnel.Dialer{URL: u, Transport: transport, TLS: clientTLS(t), Logger: testLogger(t, "tunnel")})
}

// startAgent starts an agent. change may alter it before it runs.
func startAgent(t *testing.T, up Upstream, change func(*Agent)) running {
	t.Helper()
	listening := make(chan []string, 1)
	reg := prometheus.NewRegistry()
	a := &Agent{
		Version: "test", Listens: []Listen{{Bind: "127.0.0.1:0"}}, BrokerPortBase: freePortBase(t), Upstream: up,
		DrainTimeout: 5 * time.Second, Metrics: metrics.New(reg, "agent", "test"), Logger: testLogger(t, "agent"),
		Listening: func(b []string) { listening <- b },
	}
	if change != nil {
		change(a)
	}
	stop := run(t, a.Run)
	select {
	case b := <-listening:
		return running{address: b[0], metrics: reg, stop: stop}
	case <-time.After(10 * time.Second):
		t.Fatal("agent does not listen")
		return running{}
	}
}

// startPath starts whatever a transport needs between clients and a cluster.
func startPath(t *testing.T, c *fakekafka.Cluster, transport string, change func(*Agent)) running {
	t.Helper()
	if transport == "direct" {
		return startAgent(t, NewDirect(&Brokers{Bootstrap: c.Bootstrap(), Resolver: c.Resolver()}), change)
	}
	g := startGateway(t, c.Bootstrap(), nil)
	return startAgent(t, tunnelTo(t, g.address, transport), change)
}

// freePortBase returns a base above which some ports are free, most likely.
func freePortBase(t *testing.T) int {
	t.Helper()
	ln := listenLoopback(t)
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port + 1
}

// newClient returns a Kafka client that fails the test when it dials anything
// but loopback: an advertised name that leaked would be dialled.
func newClient(t *testing.T, bootstrap string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		if host, _, _ := net.SplitHostPort(address); net.ParseIP(host) == nil || !net.ParseIP(host).IsLoopback() {
			t.Errorf("the client dials %s", address)
			return nil, fmt.Errorf("leaked address %s", address)
		}
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	c, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(bootstrap), kgo.Dialer(dial), kgo.AllowAutoTopicCreation()}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// produce writes n numbered records and waits for each.
func produce(t *testing.T, c *kgo.Client, topic string, n int) {
	t.Helper()
	var rs []*kgo.Record
	for i := range n {
		rs = append(rs, &kgo.Record{Topic: topic, Value: []byte(strconv.Itoa(i))})
	}
	if err := c.ProduceSync(t.Context(), rs...).FirstErr(); err != nil {
		t.Fatalf("produce: %v", err)
	}
}

// consume reads until it has seen n records and returns their values, counted.
func consume(t *testing.T, c *kgo.Client, n int) map[string]int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	seen := map[string]int{}
	for got := 0; got < n; {
		fetches := c.PollFetches(ctx)
		if err := ctx.Err(); err != nil {
			t.Fatalf("consume: %d of %d records: %v", got, n, err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			seen[string(r.Value)]++
			got++
		})
	}
	return seen
}

var certificate = sync.OnceValues(func() (tls.Certificate, *x509.CertPool) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, pool
})

func serverTLS(t *testing.T) *tls.Config {
	t.Helper()
	cert, _ := certificate()
	return &tls.Config{Certificates: []tls.Certificate{cert}}
}

func clientTLS(t *testing.T) *tls.Config {
	t.Helper()
	_, pool := certificate()
	return &tls.Config{RootCAs: pool}
}
