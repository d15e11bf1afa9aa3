package test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"github.com/culvert-proxy/culvert/proxy/snowflake/standin"
	"github.com/culvert-proxy/culvert/test/hostsfile"
)

// The names of a Snowflake account and of a service's endpoint, which only the agents resolve, and
// the users and roles.
const (
	accountHost  = "myorg-myaccount.snowflakecomputing.com"
	endpointHost = "abc123-myorg-myaccount.snowflakecomputing.app"
	kafkaUser    = "KAFKA_APP"
	kafkaRole    = "KAFKA_USER"
	otherRole    = "ANALYST" // has no grant on the endpoint
)

// snowflake is not a transport either. The agent logs in with a key pair and passes the platform's
// ingress with tokens that last for seconds.
const snowflake = "snowflake"

// tokenLife is the lifetime of such a token.
const tokenLife = 20 * time.Second

// standIn stands in for Snowflake: an account, an ingress, and a service with gateways in plain
// HTTP behind it.
type standIn struct {
	*testbed
	account  *standin.Account
	ingress  *standin.Ingress
	gateways []*gateway
	listen   string // of the ingress; for the account too
	stop     context.CancelFunc
	ended    chan error
}

// newStandIn starts the ingress in, whose fields may be set, and count gateways.
func (b *testbed) newStandIn(ctx context.Context, in *standin.Ingress, count int) (_ *standIn, err error) {
	ln, err := net.Listen("tcp", address(clientHost, 0))
	if err != nil {
		return nil, err
	}
	p := &standIn{testbed: b, ingress: in, account: &standin.Account{Host: accountHost, TokenLife: tokenLife}, listen: ln.Addr().String()}
	defer func() {
		if err != nil {
			ln.Close()
			p.close()
		}
	}()
	if err := p.writeFiles(); err != nil {
		return nil, err
	}
	if in.Certificate, err = tls.LoadX509KeyPair(b.file("gateway.pem"), b.file("gateway-key.pem")); err != nil {
		return nil, err
	}
	service := &standin.Service{Hosts: []string{endpointHost, clientHost}, Roles: []string{kafkaRole}}
	for range count {
		g, err := b.newPlainGateway(ctx, "--ticket-key-file", p.ownFile("ticket-key"), "--allow-user", kafkaUser, "--drain-timeout", "25s")
		if err != nil {
			return nil, err
		}
		p.gateways = append(p.gateways, g)
		service.Instances = append(service.Instances, standin.Instance{Address: g.listen, Ready: "http://" + g.admin + "/readyz"})
	}
	in.Account, in.Services, in.ProbeEvery = p.account, []*standin.Service{service}, 200*time.Millisecond
	ctx, p.stop = context.WithCancel(context.WithoutCancel(ctx))
	p.ended = make(chan error, 1)
	go func() { p.ended <- in.Serve(ctx, ln) }()
	return p, nil
}

// ownFile returns the path of a file that only this stand-in uses.
func (p *standIn) ownFile(name string) string {
	_, port, _ := net.SplitHostPort(p.listen)
	return p.file(name + "-" + port)
}

// writeFiles writes the files of gateways and agents, and registers the user's key.
func (p *standIn) writeFiles() error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	p.account.SetUser(standin.User{Name: kafkaUser, Roles: []string{kafkaRole, otherRole}, Keys: []*rsa.PublicKey{&key.PublicKey}})
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	names := map[string]string{accountHost: clientHost, endpointHost: clientHost}
	return errors.Join(
		os.WriteFile(p.ownFile("ticket-key"), []byte(rand.Text()+rand.Text()+"\n"), 0o600),
		os.WriteFile(p.ownFile("rsa-key"), pemBlock("PRIVATE KEY", secret), 0o600),
		hostsfile.Write(p.ownFile("hosts"), names),
	)
}

// close stops the gateways gracefully, and the ingress.
func (p *standIn) close() error {
	var all []error
	for _, g := range p.gateways {
		all = append(all, g.close())
	}
	if p.stop != nil {
		p.stop()
		all = append(all, <-p.ended)
	}
	return errors.Join(all...)
}

// url returns the URL of the endpoint.
func (p *standIn) url(host string) string {
	_, port, _ := net.SplitHostPort(p.listen)
	return "https://" + net.JoinHostPort(host, port)
}

// keyFlags returns an agent's flags for the key pair.
func (p *standIn) keyFlags() []string {
	return []string{
		"--snowflake-private-key-file", p.ownFile("rsa-key"), "--snowflake-account", "myorg-myaccount",
		"--snowflake-user", kafkaUser, "--snowflake-role", kafkaRole, "--snowflake-token-url", p.url(accountHost) + "/oauth/token",
	}
}

// patFlags writes a programmatic access token to a file and returns an agent's flags for it.
func (p *standIn) patFlags(pat string) ([]string, error) {
	return []string{"--snowflake-pat-file", p.ownFile("pat")}, os.WriteFile(p.ownFile("pat"), []byte(pat+"\n"), 0o600)
}

// open starts an agent that reaches the endpoint by host.
func (p *standIn) open(ctx context.Context, host, transport string, credentials []string) (*path, error) {
	way := path{standIn: p, url: p.url(host), transport: transport, credentials: credentials}
	return p.openPath(ctx, way)
}

// newSnowflakePath starts a stand-in and an agent.
func (b *testbed) newSnowflakePath(ctx context.Context) (*path, error) {
	edge, err := b.newStandIn(ctx, &standin.Ingress{}, 2)
	if err != nil {
		return nil, err
	}
	p, err := edge.open(ctx, endpointHost, snowflake, edge.keyFlags())
	if err != nil {
		return nil, errors.Join(err, edge.close())
	}
	p.ends = edge.close
	return p, nil
}

// newStandInFor starts a stand-in that ends with the test.
func newStandInFor(t *testing.T, bed *testbed, in *standin.Ingress, count int) *standIn {
	t.Helper()
	p, err := bed.newStandIn(t.Context(), in, count)
	try(t, err)
	closeWith(t, p)
	t.Cleanup(func() {
		if t.Failed() {
			p.report(t)
		}
	})
	return p
}

// report logs the output of all processes.
func (p *standIn) report(t *testing.T) {
	for _, g := range p.gateways {
		t.Logf("log of a gateway behind the ingress:\n%s", g.process.Output())
	}
	t.Logf("ingress: %+v, account: %+v", p.ingress.Stats(), p.account.Logins())
}

// path starts an agent that ends with the test.
func (p *standIn) path(t *testing.T, host, transport string, credentials []string) *path {
	t.Helper()
	way, err := p.open(t.Context(), host, transport, credentials)
	try(t, err)
	closeWith(t, way)
	t.Cleanup(func() {
		way.relay.Check(t)
		if t.Failed() {
			t.Logf("agent log:\n%s", way.agent.Output())
		}
	})
	return way
}

// newPAT writes a new token to the file of patFlags.
func (p *standIn) newPAT(t *testing.T, role string) (pat string, flags []string) {
	t.Helper()
	pat = p.account.NewPAT(kafkaUser, role, time.Hour)
	flags, err := p.patFlags(pat)
	try(t, err)
	return pat, flags
}

// sumOverGateways sums up samples of all gateways of a path.
func (p *path) sumOverGateways(t *testing.T, texts ...string) (sum float64) {
	t.Helper()
	gateways := []*gateway{p.gateway}
	if p.standIn != nil {
		gateways = p.standIn.gateways
	}
	for _, g := range gateways {
		sum += scrape(t, g.admin).sum(texts...)
	}
	return sum
}

// over returns the transport that a path uses.
func (p *path) over() string {
	if p.transport == snowflake {
		return "ws"
	}
	return p.transport
}
