package proxy

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/culvert-proxy/culvert/proxy/fakekafka"
	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/internal/testlog"
	"github.com/culvert-proxy/culvert/proxy/metrics"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// transports are all ways between an agent and the brokers.
var transports = []string{"ws", "h3", "h2", "direct"}

// eachTransport runs a test once for each transport.
func eachTransport(t *testing.T, test func(t *testing.T, transport string)) {
	for _, transport := range transports {
		t.Run(transport, func(t *testing.T) { test(t, transport) })
	}
}

// startCluster starts an embedded cluster that ends with the test.
func startCluster(t *testing.T, n int, opts ...kfake.Opt) *fakekafka.Cluster {
	t.Helper()
	if n <= 9 { // ports to which a broker can return after a restart; opts may choose others
		var ports []int
		for base, i := freePortBase(t), 0; i < n; i++ {
			ports = append(ports, base+i)
		}
		opts = append([]kfake.Opt{kfake.Ports(ports...)}, opts...)
	}
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
	base    int    // agent: of the brokers' ports
	metrics *prometheus.Registry
	stop    func() // and wait
}

// node is where an agent listens for a node that has no place of its own.
func (r running) node(id int32) string {
	host, _, _ := net.SplitHostPort(r.address)
	return net.JoinHostPort(host, strconv.Itoa(r.base+int(id)))
}

// again places another agent where this one has been.
func (r running) again(a *Agent) {
	a.Listens, a.BrokerPortBase = []Listen{{Bind: r.address}}, r.base
}

// run starts run and stops it at the end of the test, or with stop.
func run(t testing.TB, serve func(context.Context) error) func() {
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

// flags names settings as the command line does.
func flags(s hints.Setting) string {
	return "--" + strings.ReplaceAll(strings.ToLower(string(s)), " ", "-")
}

// startGateway starts a gateway on loopback in front of a cluster. change may alter it before it
// runs.
func startGateway(t testing.TB, bootstrap []string, change func(*Gateway)) running {
	t.Helper()
	return startGatewayOn(t, freeAddress(t), bootstrap, change)
}

// startGatewayOn is startGateway on an address, or in the place of another gateway whose URL it is.
func startGatewayOn(t testing.TB, address string, bootstrap []string, change func(*Gateway)) running {
	t.Helper()
	ln, err := net.Listen("tcp", strings.TrimPrefix(address, "https://"))
	if err != nil {
		t.Fatal(err)
	}
	udp, err := net.ListenPacket("udp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	reg := prometheus.NewRegistry()
	g := &Gateway{
		Version: "test", TLS: serverTLS(t), DrainTimeout: 5 * time.Second,
		Brokers: &Brokers{Bootstrap: bootstrap, Resolver: fakekafka.Resolver{}, Names: flags, dialIsAnswer: true},
		Metrics: metrics.New(reg, "gateway", "test"), Logger: testlog.New(t, "gateway"), Names: flags,
	}
	if change != nil {
		change(g)
	}
	stop := run(t, func(ctx context.Context) error { return g.Run(ctx, ln, udp) })
	return running{address: "https://" + ln.Addr().String(), metrics: reg, stop: stop}
}

// tunnelTo is an upstream through a gateway.
func tunnelTo(t testing.TB, gateway, transport string) Upstream {
	t.Helper()
	u, err := url.Parse(gateway)
	if err != nil {
		t.Fatal(err)
	}
	return NewTunnel(&tunnel.Dialer{URL: u, Transport: transport, TLS: clientTLS(t), Logger: testlog.New(t, "tunnel")})
}

// startAgent starts an agent. change may alter it before it runs.
func startAgent(t testing.TB, up Upstream, change func(*Agent)) running {
	t.Helper()
	listening := make(chan []string, 1)
	reg := prometheus.NewRegistry()
	a := &Agent{
		Version: "test", Listens: []Listen{{Bind: freeAddress(t)}}, BrokerPortBase: freePortBase(t), Upstream: up,
		DrainTimeout: 5 * time.Second, Metrics: metrics.New(reg, "agent", "test"), Logger: testlog.New(t, "agent"), Names: flags,
		Listening: func(b []string) { listening <- b },
	}
	a.ask = func(ctx context.Context) error { return a.hello(ctx) } // many tests count what reaches their brokers
	if change != nil {
		change(a)
	}
	stop := run(t, a.Run)
	select {
	case b := <-listening:
		return running{address: b[0], base: a.BrokerPortBase, metrics: reg, stop: stop}
	case <-time.After(10 * time.Second):
		t.Fatal("agent does not listen")
		return running{}
	}
}

// startPath starts whatever a transport needs between clients and a cluster.
func startPath(t *testing.T, c *fakekafka.Cluster, transport string, change func(*Agent)) running {
	t.Helper()
	return startAgent(t, waysTo(t, c.Bootstrap(), transport, nil)(), change)
}

// waysTo starts what a transport needs in front of brokers, and returns a maker of ways to them:
// each agent needs its own.
func waysTo(t *testing.T, bootstrap []string, transport string, change func(*Gateway)) func() Upstream {
	t.Helper()
	if transport == "direct" {
		return func() Upstream { return NewDirect(&Brokers{Bootstrap: bootstrap, Resolver: fakekafka.Resolver{}}) }
	}
	g := startGateway(t, bootstrap, change)
	return func() Upstream { return tunnelTo(t, g.address, transport) }
}

// portBases counts the blocks of ports that freePortBase has tried, from a random start so that
// test processes that run at the same time begin elsewhere.
var (
	portBases     atomic.Int32
	firstPortBase = mathrand.Int32N(2000)
)

// freePortBase returns a base such that the ports from it to base+8 are free on loopback, and stay
// so until the test ends: no other test takes them, even between two starts of a listener. Port
// base+9 over UDP marks the block as taken, also for other processes. The ports are below the range
// from which systems choose ports of outgoing connections.
func freePortBase(t testing.TB) int {
	t.Helper()
	for range 100 {
		base := 11000 + 10*int((firstPortBase+portBases.Add(1))%2000)
		mark, err := net.ListenPacket("udp", net.JoinHostPort("127.0.0.1", strconv.Itoa(base+9)))
		if err != nil {
			continue
		}
		if free(base, 9) {
			t.Cleanup(func() { mark.Close() })
			return base
		}
		mark.Close()
	}
	t.Fatal("no nine free ports in a row")
	return 0
}

// freeAddress returns an address on which a listener may be started more than once: see
// freePortBase.
func freeAddress(t testing.TB) string {
	t.Helper()
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(freePortBase(t)))
}

func free(base, n int) bool {
	for port := base; port < base+n; port++ {
		ln, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			return false
		}
		ln.Close()
	}
	return true
}

// newClient returns a Kafka client that fails the test when it dials anything but loopback: an
// advertised name that leaked would be dialled.
func newClient(t *testing.T, bootstrap string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		if host, _, _ := net.SplitHostPort(address); net.ParseIP(host) == nil || !net.ParseIP(host).IsLoopback() {
			t.Errorf("the client dials %s", address)
			return nil, fmt.Errorf("leaked address %s", address)
		}
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	c, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(bootstrap), kgo.Dialer(dial), kgo.MetadataMinAge(20 * time.Millisecond), kgo.FetchMaxWait(100 * time.Millisecond),
		kgo.RetryBackoffFn(func(int) time.Duration { return 20 * time.Millisecond })}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// produce writes n numbered records and waits for each.
func produce(t *testing.T, c *kgo.Client, topic string, n int) {
	t.Helper()
	produceFrom(t, c, topic, 0, n)
}

// produceFrom is produce with a first number.
func produceFrom(t *testing.T, c *kgo.Client, topic string, from, n int) {
	t.Helper()
	var rs []*kgo.Record
	for i := range n {
		rs = append(rs, &kgo.Record{Topic: topic, Value: []byte(strconv.Itoa(from + i))})
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

func serverTLS(t testing.TB) *tls.Config {
	t.Helper()
	cert, _ := certificate()
	return &tls.Config{Certificates: []tls.Certificate{cert}}
}

func clientTLS(t testing.TB) *tls.Config {
	t.Helper()
	_, pool := certificate()
	return &tls.Config{RootCAs: pool}
}
