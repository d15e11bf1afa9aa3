package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/culvert-proxy/culvert/proxy"
	"github.com/culvert-proxy/culvert/proxy/fakekafka"
	"github.com/culvert-proxy/culvert/proxy/metrics"
	"github.com/culvert-proxy/culvert/proxy/snowflake"
	"github.com/culvert-proxy/culvert/proxy/snowflake/standin"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// selfSigned makes a certificate for this machine, in memory, which whoever is
// to believe it must be given.
func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "culvert demo"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(0, 1, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf, err := x509.ParseCertificate(der)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, err
}

const (
	// demoDrain is how long connections have to end at the end of the demo.
	demoDrain = 3 * time.Second
	// demoUser comes in with demoRole, which the ingress lets in.
	demoUser, demoRole = "DEMO", "KAFKA_USER"
)

// stage holds the parts that the story is about, each as it would run in a
// process of its own.
type stage struct {
	transport string
	listen    proxy.Listen
	log       *slog.Logger
	failed    context.CancelCauseFunc // ends the story
	parts     []*part

	cluster        *fakekafka.Cluster
	door           *url.URL       // what agents dial: the ingress or, for h3, the gateway
	roots          *x509.CertPool // who has signed the door's certificate
	token          string
	pat            func() (string, error) // what the ingress wants; nil: there is none
	gatewayMetrics *prometheus.Registry
	agentMetrics   *prometheus.Registry
	bootstrap      string
	moved          []string // sentences about ports that are not where they should be
}

// part runs until it is stopped.
type part struct {
	stop context.CancelFunc
	done chan error
}

// run starts a part, which stop ends. If it fails, so does the story.
func (s *stage) run(ctx context.Context, serve func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	p := &part{cancel, make(chan error, 1)}
	s.parts = append(s.parts, p)
	go s.serve(ctx, p, serve)
}

func (s *stage) serve(ctx context.Context, p *part, serve func(context.Context) error) {
	err := serve(ctx)
	if err != nil {
		s.failed(err)
	}
	p.done <- err
}

// stop ends the parts, those nearest to the clients first. What they failed
// with has ended the story already.
func (s *stage) stop() {
	for i := len(s.parts) - 1; i >= 0; i-- {
		s.parts[i].stop()
		<-s.parts[i].done
	}
}

// startInside starts what stands behind the door, and the door.
func (s *stage) startInside(ctx context.Context) (err error) {
	if s.cluster, err = fakekafka.Start(demoBrokers, kfake.MaxVersions(demoVersions())); err != nil {
		return err
	}
	s.run(ctx, func(ctx context.Context) error {
		<-ctx.Done()
		s.cluster.Close()
		return nil
	})
	certificate, err := selfSigned()
	if err != nil {
		return fmt.Errorf("make a certificate: %w", err)
	}
	s.roots = x509.NewCertPool()
	s.roots.AddCert(certificate.Leaf)
	if s.transport == tunnel.TransportH3 || s.transport == tunnel.TransportH2 {
		return s.startOpenGateway(ctx, certificate)
	}
	return s.startGatewayBehindIngress(ctx, certificate)
}

// demoVersions leave out DescribeTopicPartitions, which kfake answers in a way
// that kafka-topics.sh --describe cannot read. It then asks for Metadata.
func demoVersions() *kversion.Versions {
	v := kversion.Stable()
	v.SetMaxKeyVersion(int16(kmsg.DescribeTopicPartitions), -1)
	return v
}

// startGatewayBehindIngress has the ingress end TLS, as platforms do.
func (s *stage) startGatewayBehindIngress(ctx context.Context, certificate tls.Certificate) error {
	inner, err := listenLoopback(ctx)
	if err != nil {
		return err
	}
	gateway := s.gateway(nil)
	s.run(ctx, func(ctx context.Context) error { return gateway.Run(ctx, inner, nil) })

	outer, err := listenLoopback(ctx)
	if err != nil {
		return err
	}
	s.door = &url.URL{Scheme: "https", Host: outer.Addr().String()}
	in := s.ingress(inner.Addr().String(), certificate)
	s.run(ctx, func(ctx context.Context) error { return in.Serve(ctx, outer) })
	return nil
}

// ingress stands in for Snowflake's, with an account that has one user.
func (s *stage) ingress(gateway string, certificate tls.Certificate) *standin.Ingress {
	log := s.log.With("end", "ingress")
	account := &standin.Account{Host: "account.invalid", Logger: log}
	account.SetUser(standin.User{Name: demoUser, Roles: []string{demoRole}})
	pat := account.NewPAT(demoUser, demoRole, 365*24*time.Hour)
	s.pat = func() (string, error) { return pat, nil }
	service := &standin.Service{
		Hosts: []string{s.door.Hostname()}, Roles: []string{demoRole},
		Instances: []standin.Instance{{Address: gateway}},
	}
	return &standin.Ingress{Account: account, Services: []*standin.Service{service}, Certificate: certificate, Logger: log}
}

// startOpenGateway has agents reach the gateway itself, over UDP too.
func (s *stage) startOpenGateway(ctx context.Context, certificate tls.Certificate) error {
	tcp, err := listenLoopback(ctx)
	if err != nil {
		return err
	}
	udp, err := new(net.ListenConfig).ListenPacket(ctx, "udp", tcp.Addr().String())
	if err != nil {
		tcp.Close()
		return err
	}
	s.door = &url.URL{Scheme: "https", Host: tcp.Addr().String()}
	gateway := s.gateway(&tls.Config{Certificates: []tls.Certificate{certificate}})
	s.run(ctx, func(ctx context.Context) error { return gateway.Run(ctx, tcp, udp) })
	return nil
}

func (s *stage) gateway(config *tls.Config) *proxy.Gateway {
	s.token = rand.Text()
	s.gatewayMetrics = prometheus.NewRegistry()
	m := metrics.New(s.gatewayMetrics, metrics.Gateway, version())
	return &proxy.Gateway{
		Version: version(), TLS: config, Authenticate: s.authenticate, DrainTimeout: demoDrain, Metrics: m,
		Brokers: &proxy.Brokers{Bootstrap: s.cluster.Bootstrap(), Resolver: s.cluster.Resolver(), Metrics: m},
		Logger:  s.log.With("end", "gateway"),
	}
}

// authenticate is what --token-file does, with a token that lives as long as
// the demo.
func (s *stage) authenticate(r *http.Request) (identity string, err error) {
	if subtle.ConstantTimeCompare([]byte(r.Header.Get("Culvert-Authorization")), []byte("Bearer "+s.token)) == 0 {
		return "", errors.New("this gateway lets in the demo's own agent alone")
	}
	return "demo", nil
}

// startAgent starts the agent, and returns when clients may come.
func (s *stage) startAgent(ctx context.Context) error {
	listen, portBase, moved, err := choosePorts(s.listen)
	if err != nil {
		return err
	}
	s.moved = moved
	s.agentMetrics = prometheus.NewRegistry()
	m := metrics.New(s.agentMetrics, metrics.Agent, version())
	log := s.log.With("end", "agent")
	dialer := &tunnel.Dialer{
		URL: s.door, Transport: s.transport, TLS: &tls.Config{RootCAs: s.roots}, Logger: log,
		Token: func() (string, error) { return s.token, nil },
	}
	measure(dialer, m)
	if s.pat != nil {
		in := &snowflake.Ingress{Host: s.door.Hostname(), PAT: s.pat, Logger: log}
		dialer.Ingress = in
		s.run(ctx, func(ctx context.Context) error {
			<-ctx.Done()
			return in.Close()
		})
	}
	if s.transport == tunnel.TransportAuto && !log.Enabled(ctx, slog.LevelDebug) {
		dialer.Logger = nil // it warns that it leaves h3, which is part of the story
	}
	listening := make(chan []string, 1)
	agent := &proxy.Agent{
		Version: version(), Listens: []proxy.Listen{listen}, BrokerPortBase: portBase, ExpectNodes: []int32{0, 1, 2},
		Upstream: proxy.NewTunnel(dialer), DrainTimeout: demoDrain, Metrics: m, Logger: log,
		Listening: func(bootstrap []string) { listening <- bootstrap },
	}
	s.run(ctx, agent.Run)
	select {
	case addresses := <-listening:
		s.bootstrap = reachable(addresses[0], listen.Host)
		return untilReady(ctx, agent)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// untilReady waits until a gateway has answered the agent.
func untilReady(ctx context.Context, agent *proxy.Agent) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := agent.Ready()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}

// reachable is where clients find a listener that was bound to bound.
func reachable(bound, host string) string {
	if host == "" {
		return bound
	}
	_, port, _ := net.SplitHostPort(bound)
	return net.JoinHostPort(host, port)
}

func listenLoopback(ctx context.Context) (net.Listener, error) {
	return new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
}
