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
	cluster, err := fakekafka.Start(3, kfake.SeedTopics(3, "orders"))
	if err != nil {
		log.Fatal(err)
	}
	certified := httptest.NewTLSServer(nil) // for its certificate
	defer certified.Close()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	gateway := &proxy.Gateway{
		Version: "example", DrainTimeout: time.Second,
		TLS:     &tls.Config{Certificates: certified.TLS.Certificates},
		Brokers: &proxy.Brokers{Bootstrap: cluster.Bootstrap(), Resolver: cluster.Resolver()},
		Metrics: metrics.New(prometheus.NewRegistry(), metrics.Gateway, "example"),
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- gateway.Run(ctx, listener, nil) }()

	roots := x509.NewCertPool()
	roots.AddCert(certified.Certificate())
	config = dialer.Config{
		GatewayURLs: []string{"https://" + listener.Addr().String()},
		Transport:   "ws",
		TLS:         &tls.Config{RootCAs: roots},
	}
	return config, func() {
		cancel()
		if err := <-done; err != nil {
			log.Print(err)
		}
		cluster.Close()
	}
}
