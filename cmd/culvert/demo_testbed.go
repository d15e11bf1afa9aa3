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
	"slices"
	"strconv"
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
	"github.com/culvert-proxy/culvert/proxy/status"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// selfSigned makes a certificate for 127.0.0.1. It is in memory only: no file is left behind, and
// nothing trusts it later.
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
	// demoDrain is how long connections have to end at the end of the demo, when the only clients
	// are those of the user.
	demoDrain = 3 * time.Second
	// demoUser has demoRole, which may use the endpoint.
	demoUser, demoRole = "DEMO", "KAFKA_USER"
)

// testbed holds the parts that the demo shows. Each runs as it would in a process of its own, and
// they reach each other over loopback only.
type testbed struct {
	// set before use
	transport string
	listen    proxy.Listen
	log       *slog.Logger
	failed    context.CancelCauseFunc // called with the error of a part, which ends the demo

	parts          []*part // running, in the order in which they were started
	cluster        *fakekafka.Cluster
	endpoint       *url.URL               // what agents dial: the ingress or, for h3 and h2, the gateway
	roots          *x509.CertPool         // to trust for the endpoint's certificate
	token          string                 // that the gateway accepts
	pat            func() (string, error) // the credential for the ingress; nil: there is no ingress
	gateway        *proxy.Gateway
	agent          *proxy.Agent
	gatewayMetrics *prometheus.Registry
	agentMetrics   *prometheus.Registry
	bootstrap      string       // where clients reach the agent
	pages          [2]string    // the admin listeners of the agent and of the gateway
	overviews      [2]*overview // of the agent and of the gateway
	portsMoved     []string     // a sentence for each default port that was taken
}

// part is something that runs until it is stopped.
type part struct {
	stop context.CancelFunc
	done chan struct{} // closed when it has ended
}

// run starts a part, which stop ends. If it fails, so does the demo. A part outlives ctx, so that
// stop can end the parts in order.
func (b *testbed) run(ctx context.Context, serve func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	p := &part{cancel, make(chan struct{})}
	b.parts = append(b.parts, p)
	go b.serve(ctx, p, serve)
}

// serve is the goroutine of a part.
func (b *testbed) serve(ctx context.Context, p *part, serve func(context.Context) error) {
	defer close(p.done)
	if err := serve(ctx); err != nil {
		b.failed(err)
	}
}

// stop ends the parts, those nearest to the clients first. An error of theirs has been given to
// failed.
func (b *testbed) stop() {
	for _, p := range slices.Backward(b.parts) {
		p.stop()
		<-p.done
	}
}

// startGatewayEnd starts the brokers, the gateway and the ingress, where there is one. It sets
// endpoint.
func (b *testbed) startGatewayEnd(ctx context.Context) (err error) {
	if b.cluster, err = fakekafka.Start(demoBrokers, kfake.MaxVersions(demoVersions())); err != nil {
		return err
	}
	b.run(ctx, func(ctx context.Context) error {
		<-ctx.Done()
		b.cluster.Close()
		return nil
	})
	certificate, err := selfSigned()
	if err != nil {
		return fmt.Errorf("make a certificate: %w", err)
	}
	b.roots = x509.NewCertPool()
	b.roots.AddCert(certificate.Leaf)
	if b.transport == tunnel.TransportH3 || b.transport == tunnel.TransportH2 {
		return b.startDirectGateway(ctx, certificate)
	}
	return b.startGatewayBehindIngress(ctx, certificate)
}

// demoVersions are the API versions of the brokers. They leave out DescribeTopicPartitions, which
// kfake answers in a way that kafka-topics.sh --describe cannot read; without it, that asks for
// Metadata.
func demoVersions() *kversion.Versions {
	v := kversion.Stable()
	v.SetMaxKeyVersion(int16(kmsg.DescribeTopicPartitions), -1)
	return v
}

// startGatewayBehindIngress starts a gateway without TLS, and the ingress that terminates TLS for
// it, as platforms do.
func (b *testbed) startGatewayBehindIngress(ctx context.Context, certificate tls.Certificate) error {
	inner, err := listenLoopback(ctx)
	if err != nil {
		return err
	}
	b.newGateway(nil)
	b.run(ctx, func(ctx context.Context) error { return b.gateway.Run(ctx, inner, nil) })

	outer, err := listenLoopback(ctx)
	if err != nil {
		return err
	}
	b.endpoint = &url.URL{Scheme: "https", Host: outer.Addr().String()}
	in := b.ingress(inner.Addr().String(), certificate)
	b.run(ctx, func(ctx context.Context) error { return in.Serve(ctx, outer) })
	return nil
}

// ingress is a stand-in for Snowflake's, with an account that has one user. It sets pat.
func (b *testbed) ingress(gateway string, certificate tls.Certificate) *standin.Ingress {
	log := b.log.With("end", "ingress")
	account := &standin.Account{Host: "account.invalid", Logger: log}
	account.SetUser(standin.User{Name: demoUser, Roles: []string{demoRole}})
	pat := account.NewPAT(demoUser, demoRole, 365*24*time.Hour)
	b.pat = func() (string, error) { return pat, nil }
	service := &standin.Service{
		Hosts: []string{b.endpoint.Hostname()}, Roles: []string{demoRole},
		Instances: []standin.Instance{{Address: gateway}},
	}
	return &standin.Ingress{Account: account, Services: []*standin.Service{service}, Certificate: certificate, Logger: log}
}

// startDirectGateway starts a gateway that agents dial without an ingress, over TCP and UDP.
func (b *testbed) startDirectGateway(ctx context.Context, certificate tls.Certificate) error {
	tcp, err := listenLoopback(ctx)
	if err != nil {
		return err
	}
	// h3 is found on the UDP port of the same number.
	udp, err := new(net.ListenConfig).ListenPacket(ctx, "udp", tcp.Addr().String())
	if err != nil {
		tcp.Close()
		return err
	}
	b.endpoint = &url.URL{Scheme: "https", Host: tcp.Addr().String()}
	b.newGateway(&tls.Config{Certificates: []tls.Certificate{certificate}})
	b.run(ctx, func(ctx context.Context) error { return b.gateway.Run(ctx, tcp, udp) })
	return nil
}

// newGateway makes the gateway; a nil config means plain HTTP. It sets gateway and token.
func (b *testbed) newGateway(config *tls.Config) {
	b.token = rand.Text()
	b.gatewayMetrics = prometheus.NewRegistry()
	m := metrics.New(b.gatewayMetrics, metrics.Gateway, version())
	overview, log := newOverview(b.log.With("end", "gateway"))
	b.overviews[1] = overview
	b.gateway = &proxy.Gateway{
		Names:   flagOf,
		Version: version(), TLS: config, Authenticate: b.authenticate, DrainTimeout: demoDrain, Metrics: m,
		Brokers: &proxy.Brokers{Names: flagOf, Bootstrap: b.cluster.Bootstrap(), Resolver: b.cluster.Resolver(), Metrics: m},
		Logger:  log,
	}
	overview.of = b.gateway.Status
}

// authenticate does what --token-file does, with a token that is valid as long as the demo runs.
func (b *testbed) authenticate(r *http.Request) (identity string, err error) {
	if subtle.ConstantTimeCompare([]byte(r.Header.Get("Culvert-Authorization")), []byte("Bearer "+b.token)) == 0 {
		return "", errors.New("this gateway accepts only the demo's own agent")
	}
	return "demo", nil
}

// startAgent starts the agent, and returns when clients can use it. It sets agent and bootstrap.
func (b *testbed) startAgent(ctx context.Context) error {
	listen, portBase, moved, err := choosePorts(b.listen)
	if err != nil {
		return err
	}
	b.portsMoved = moved
	b.agentMetrics = prometheus.NewRegistry()
	m := metrics.New(b.agentMetrics, metrics.Agent, version())
	overview, log := newOverview(b.log.With("end", "agent"))
	b.overviews[0] = overview
	dialer := &tunnel.Dialer{
		URL: b.endpoint, Transport: b.transport, TLS: &tls.Config{RootCAs: b.roots}, Logger: log,
		Token: func() (string, error) { return b.token, nil },
	}
	measure(dialer, m)
	if b.pat != nil {
		in := &snowflake.Ingress{Host: b.endpoint.Hostname(), PAT: b.pat, Logger: log}
		dialer.Ingress = in
		b.run(ctx, func(ctx context.Context) error {
			<-ctx.Done()
			return in.Close()
		})
	}
	if b.transport == tunnel.TransportAuto && !log.Enabled(ctx, slog.LevelDebug) {
		// It would warn that h3 fails, which the walkthrough says.
		dialer.Logger = slog.New(overview.events.Handler(slog.DiscardHandler))
	}
	listening := make(chan []string, 1)
	b.agent = &proxy.Agent{
		Names:   flagOf,
		Version: version(), Listens: []proxy.Listen{listen}, BrokerPortBase: portBase, ExpectNodes: []int32{0, 1, 2},
		Upstream: proxy.NewTunnel(dialer), DrainTimeout: demoDrain, Metrics: m, Logger: log,
		Listening: func(bootstrap []string) { listening <- bootstrap },
	}
	overview.of = b.agent.Status
	b.run(ctx, b.agent.Run)
	select {
	case addresses := <-listening:
		b.bootstrap = clientAddress(addresses[0], listen.Host)
		return untilReady(ctx, b.agent)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// startAdmin opens the admin listeners of both ends. It sets pages.
func (b *testbed) startAdmin(ctx context.Context) error {
	port, err := freeRange(demoAdminHost, demoAdminPort, len(b.pages), noPort)
	if err != nil {
		return err
	}
	b.pages[0], err = b.serveAdmin(ctx, port, b.overviews[0], status.Server{Gatherer: b.agentMetrics, Ready: b.agent.Ready})
	if err != nil {
		return err
	}
	b.pages[1], err = b.serveAdmin(ctx, port+1, b.overviews[1],
		status.Server{Gatherer: b.gatewayMetrics, Ready: b.gateway.Ready, Missing: b.gateway.Missing})
	return err
}

// top is the command that watches the agent in a terminal.
func (b *testbed) top() string {
	admin := b.overviews[0].admin.ln.Addr().String()
	if admin == net.JoinHostPort(demoAdminHost, strconv.Itoa(demoAdminPort)) {
		return "culvert top"
	}
	return "culvert top --admin " + admin
}

// serveAdmin opens the admin listener of one end, and returns its URL.
func (b *testbed) serveAdmin(ctx context.Context, port int, o *overview, server status.Server) (page string, err error) {
	server.Names, server.Logger, server.Status = flagOf, b.log, o.document
	admin, err := listenAdmin(net.JoinHostPort(demoAdminHost, strconv.Itoa(port)), false, server)
	if err != nil {
		return "", err
	}
	o.admin = admin
	b.run(ctx, func(ctx context.Context) error { return admin.server.Serve(ctx, admin.ln) })
	return "http://" + admin.ln.Addr().String() + "/", nil
}

// startTraffic starts a client that makes a little traffic.
func (b *testbed) startTraffic(ctx context.Context) error {
	t, err := newTraffic(kafkaClient{bootstrap: b.bootstrap}, b.log.With("end", "client"))
	if err == nil {
		b.run(ctx, t.run)
	}
	return err
}

// untilReady waits until a broker has answered the agent; the error says why not.
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

// clientAddress is where clients reach a listener that was bound to bound; host replaces its host
// unless empty.
func clientAddress(bound, host string) string {
	if host == "" {
		return bound
	}
	_, port, _ := net.SplitHostPort(bound)
	return net.JoinHostPort(host, port)
}

// listenLoopback listens on a port that is free, and that nobody outside this machine can reach.
func listenLoopback(ctx context.Context) (net.Listener, error) {
	return new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
}
