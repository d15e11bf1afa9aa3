package dialer_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/goleak"

	"github.com/culvert-proxy/culvert/proxy"
	"github.com/culvert-proxy/culvert/proxy/dialer"
	"github.com/culvert-proxy/culvert/proxy/fakekafka"
	"github.com/culvert-proxy/culvert/proxy/internal/testlog"
	"github.com/culvert-proxy/culvert/proxy/metrics"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// transports are all that a dialer can use.
var transports = []string{"ws", "h3", "h2"}

const token = "secret"

// gateway is a gateway in this process, and the certificate to trust for it.
type gateway struct {
	url  string
	cert *x509.Certificate
	tls  *tls.Config
	stop func() // and wait
}

// config is what a dialer needs to use it.
func (g gateway) config(transport string) dialer.Config {
	roots := x509.NewCertPool()
	roots.AddCert(g.cert)
	return dialer.Config{
		GatewayURLs: []string{g.url}, Transport: transport, TLS: &tls.Config{RootCAs: roots},
		Token: func() (string, error) { return token, nil },
	}
}

// startGateway starts a gateway on an address of loopback. change may alter it before it runs.
func startGateway(address string, bootstrap []string, log *slog.Logger, change func(*proxy.Gateway)) (gateway, error) {
	cert, err := selfSigned()
	if err != nil {
		return gateway{}, err
	}
	tcp, err := net.Listen("tcp", address)
	if err != nil {
		return gateway{}, err
	}
	udp, err := net.ListenPacket("udp", tcp.Addr().String())
	if err != nil {
		tcp.Close()
		return gateway{}, err
	}
	g := &proxy.Gateway{
		Version: "test", TLS: &tls.Config{Certificates: []tls.Certificate{cert}}, DrainTimeout: 500 * time.Millisecond,
		Brokers:      &proxy.Brokers{Bootstrap: bootstrap, Resolver: fakekafka.Resolver{}},
		Authenticate: authenticate,
		Metrics:      metrics.New(prometheus.NewRegistry(), metrics.Gateway, "test"), Logger: log,
	}
	if change != nil {
		change(g)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx, tcp, udp) }()
	stop := sync.OnceFunc(func() { cancel(); <-done })
	return gateway{"https://" + tcp.Addr().String(), cert.Leaf, g.TLS, stop}, nil
}

func authenticate(r *http.Request) (string, error) {
	if r.Header.Get("Culvert-Authorization") != "Bearer "+token {
		return "", errors.New("unknown token")
	}
	return "app", nil
}

// selfSigned makes a certificate for 127.0.0.1.
func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf, err := x509.ParseCertificate(der)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, err
}

// startCluster starts three brokers, which advertise names that resolve only for the gateway.
func startCluster(t *testing.T, opts ...kfake.Opt) *fakekafka.Cluster {
	t.Helper()
	c, err := fakekafka.Start(3, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// gatewayTo starts a gateway in front of a cluster, until the test ends.
func gatewayTo(t *testing.T, c *fakekafka.Cluster, change func(*proxy.Gateway)) gateway {
	t.Helper()
	return gatewayAt(t, "127.0.0.1:0", c, change)
}

func gatewayAt(t *testing.T, address string, c *fakekafka.Cluster, change func(*proxy.Gateway)) gateway {
	t.Helper()
	g, err := startGateway(address, c.Bootstrap(), testlog.New(t, "gateway"), change)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.stop)
	return g
}

// open makes a dialer that is closed when the test ends.
func open(t *testing.T, c dialer.Config) *dialer.Dialer {
	t.Helper()
	if c.Logger == nil {
		c.Logger = testlog.New(t, "dialer")
	}
	d, err := dialer.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// cutter stands between a dialer and a gateway, until it cuts everything.
type cutter struct {
	ln    net.Listener
	conns chan net.Conn
}

// cuttable returns the gateway as it is reached through a cutter.
func cuttable(t *testing.T, g gateway) (gateway, *cutter) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{ln, make(chan net.Conn, 64)}
	var relays sync.WaitGroup
	behind := strings.TrimPrefix(g.url, "https://")
	relays.Go(func() { c.serve(&relays, behind) })
	t.Cleanup(func() { c.cut(); relays.Wait() })
	g.url = "https://" + ln.Addr().String()
	return g, c
}

func (c *cutter) serve(relays *sync.WaitGroup, to string) {
	for {
		near, err := c.ln.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", to)
		if err != nil {
			near.Close()
			continue
		}
		c.conns <- near
		c.conns <- far
		relays.Go(func() { io.Copy(near, far) })
		relays.Go(func() { io.Copy(far, near) })
	}
}

func (c *cutter) cut() {
	c.ln.Close()
	for {
		select {
		case conn := <-c.conns:
			conn.Close()
		default:
			return
		}
	}
}

// topic has a cluster start with a topic of three partitions.
func topic(name string) kfake.Opt { return kfake.SeedTopics(3, name) }
