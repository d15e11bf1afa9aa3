package inprocess_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log"
	"net"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/goleak"

	"github.com/culvert-proxy/culvert/proxy"
	"github.com/culvert-proxy/culvert/proxy/dialer"
	"github.com/culvert-proxy/culvert/proxy/fakekafka"
	"github.com/culvert-proxy/culvert/proxy/metrics"
)

// Neither client leaves a connection open at the end, nor does the dialer a goroutine.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreTopFunction("github.com/rcrowley/go-metrics.(*meterArbiter).tick")) // sarama's, for good
}

// exampleGateway starts three brokers in memory and a gateway in front of them. It returns how to
// reach the gateway.
func exampleGateway() (config dialer.Config, stop func()) {
	g := startCluster()
	g.start()
	return g.config(), func() { g.stop(); g.cluster.Close() }
}

// gateway is a gateway in this process, with brokers in memory behind it.
type gateway struct {
	cluster *fakekafka.Cluster
	tls     *tls.Config
	roots   *x509.CertPool
	address string // "127.0.0.1:0" before the first start
	stop    func() // and wait
}

// startCluster starts the brokers.
func startCluster() *gateway {
	cluster, err := fakekafka.Start(3, kfake.SeedTopics(3, "orders"))
	if err != nil {
		log.Fatal(err)
	}
	certified := httptest.NewTLSServer(nil) // for its certificate
	defer certified.Close()
	g := &gateway{cluster: cluster, tls: &tls.Config{Certificates: certified.TLS.Certificates}, roots: x509.NewCertPool(), address: "127.0.0.1:0"}
	g.roots.AddCert(certified.Certificate())
	return g
}

// start starts the gateway, or another one in its place. Each has a key of its own for tickets.
func (g *gateway) start() {
	listener, err := net.Listen("tcp", g.address)
	if err != nil {
		log.Fatal(err)
	}
	g.address = listener.Addr().String()
	p := &proxy.Gateway{
		Version: "example", TLS: g.tls, DrainTimeout: time.Second,
		Brokers: &proxy.Brokers{Bootstrap: g.cluster.Bootstrap(), Resolver: g.cluster.Resolver()},
		Metrics: metrics.New(prometheus.NewRegistry(), metrics.Gateway, "example"),
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx, listener, nil) }()
	g.stop = func() {
		cancel()
		if err := <-done; err != nil {
			log.Print(err)
		}
	}
}

func (g *gateway) config() dialer.Config {
	return dialer.Config{GatewayURLs: []string{"https://" + g.address}, Transport: "ws", TLS: &tls.Config{RootCAs: g.roots}}
}
