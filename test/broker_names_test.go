package test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/culvert-proxy/culvert/test/clients"
	"github.com/culvert-proxy/culvert/test/hostsfile"
	"github.com/culvert-proxy/culvert/test/kafka"
)

// The names of brokers for clients of a namedPath, and the name that they are configured with. No
// certificate but a wildcard is for the brokers' names.
const (
	namesOfBrokers = "broker-{id}.names.example.com"
	nameToBegin    = "names.example.com"
)

// namedPath is an agent that clients reach on one port only, by name and with a certificate.
type namedPath struct {
	*path
	files clients.TLS
	names string // a hosts file that resolves the names, as a load balancer's DNS records do
}

// newNamedPath starts an agent before the shared brokers. flags follow its own.
func newNamedPath(t *testing.T, flags ...string) *namedPath {
	t.Helper()
	bed := *sharedTestbed(t)
	files := bed
	files.dir = t.TempDir()
	ca, err := newAuthority("names-ca")
	if err != nil {
		t.Fatal(err)
	}
	write := map[string][]byte{"ca.pem": ca.pem()}
	for name, names := range map[string][]string{"agent": {nameToBegin, "*." + nameToBegin}, "client": {"client"}} {
		cert, key, err := ca.issue(name, time.Now().Add(time.Hour), names...)
		if err != nil {
			t.Fatal(err)
		}
		write[name+".pem"], write[name+"-key.pem"], write[name+"-both.pem"] = cert, key, append(slices.Clone(key), cert...)
	}
	if err := writeFiles(files.dir, write); err != nil {
		t.Fatal(err)
	}
	resolved := map[string]string{nameToBegin: clientHost}
	for _, id := range append(bed.cluster.IDs(), 99) { // which the cluster does not have
		resolved[strings.ReplaceAll(namesOfBrokers, "{id}", strconv.Itoa(int(id)))] = clientHost
	}
	p := &namedPath{
		path:  &path{testbed: &bed, gateway: bed.gateway, url: "https://" + bed.gateway.listen, transport: "ws"},
		names: files.file("hosts"),
		files: clients.TLS{CA: files.file("ca.pem"), Cert: files.file("client.pem"), Key: files.file("client-key.pem"), CertAndKey: files.file("client-both.pem")},
	}
	ports, err := kafka.FreePorts(2)
	if err != nil {
		t.Fatal(err)
	}
	if err := hostsfile.Write(p.names, resolved); err != nil {
		t.Fatal(err)
	}
	p.port, p.bootstrap, p.admin = ports[0], net.JoinHostPort(nameToBegin, strconv.Itoa(ports[0])), address(clientHost, ports[1])
	p.agent, err = startCulvert(t.Context(), p.command("agent", append([]string{
		"--listen", address(clientHost, p.port), "--broker-names", namesOfBrokers, "--admin-listen", p.admin, "--state-file", "none", "--drain-timeout", "2s",
		"--listen-tls-cert-file", files.file("agent.pem"), "--listen-tls-key-file", files.file("agent-key.pem"), "--listen-client-ca-file", p.files.CA,
	}, flags...)...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stopCulvert(p.agent); err != nil {
			t.Error(err)
		}
	})
	return p
}

// dial connects as a client that has resolved a name, verifies the agent's certificate for it and
// shows its own.
func (p *namedPath) dial(ctx context.Context, network, to string) (net.Conn, error) {
	name, port, err := net.SplitHostPort(to)
	if err != nil {
		return nil, err
	}
	trusted := x509.NewCertPool()
	pem, err := os.ReadFile(p.files.CA)
	if err != nil {
		return nil, err
	}
	trusted.AppendCertsFromPEM(pem)
	own, err := tls.LoadX509KeyPair(p.files.Cert, p.files.Key)
	if err != nil {
		return nil, err
	}
	d := tls.Dialer{Config: &tls.Config{RootCAs: trusted, ServerName: name, Certificates: []tls.Certificate{own}}}
	return d.DialContext(ctx, network, net.JoinHostPort(clientHost, port))
}

// TestClientsReachAllBrokersOnOnePort has clients of four kinds reach three brokers on one port, by
// names that one wildcard certificate is for. Each shows a certificate of its own.
func TestClientsReachAllBrokersOnOnePort(t *testing.T) {
	needReal(t)
	installClients(t, clients.TLS{}.WithoutLogin())
	p := newNamedPath(t)
	for _, client := range p.files.WithoutLogin() {
		client.Hosts = p.names
		t.Run(client.Name, func(t *testing.T) {
			topic := p.cluster.Topic(t, "names-"+strings.ReplaceAll(client.Name, " ", "-"))
			if _, err := client.Run(t.Context(), p.bootstrap, topic, topic, 300); err != nil {
				t.Errorf("%v\n%s", err, p.agent.Output())
			}
		})
	}
	t.Run("franz-go", func(t *testing.T) {
		client := p.franz(t, kgo.Dialer(p.dial))
		topic := p.cluster.Topic(t, "names-franz")
		produce(t, client, numbered(topic, 300))
		all, err := kadm.NewClient(client).DescribeAllLogDirs(t.Context(), kadm.TopicsSet{topic: {0: {}, 1: {}, 2: {}}})
		if err != nil || len(all) != len(p.cluster.IDs()) {
			t.Fatalf("%d brokers answered, want all, %v", len(all), err)
		}
		for id, dirs := range all {
			for dir := range dirs {
				if !strings.HasSuffix(dir, fmt.Sprintf("node-%d", id)) {
					t.Errorf("the name of node %d led to the broker with %s", id, dir)
				}
			}
		}
	})
	if n := scrape(t, p.admin).sum("culvert_refused_total"); n > 0 {
		t.Errorf("the agent refused %v times\n%s", n, p.agent.Output())
	}
	t.Run("a broker that does not exist", p.refusesJava)
}

// refusesJava has the Java client begin with the name of a broker that the cluster does not have. It
// gives up at once and says why, as the agent does.
func (p *namedPath) refusesJava(t *testing.T) {
	java := p.files.WithoutLogin()[1]
	java.Hosts = p.names
	gone := strings.ReplaceAll(namesOfBrokers, "{id}", "99")
	out, err := java.Run(t.Context(), net.JoinHostPort(gone, strconv.Itoa(p.port)), "nothing", "nothing", 1)
	if err == nil {
		t.Error("the client succeeded")
	}
	wantIn(t, out+fmt.Sprint(err), "unrecognized_name")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	line, err := p.agent.Output().WaitLine(ctx, "client's TLS handshake refused")
	if err != nil {
		t.Fatal(err)
	}
	wantIn(t, line, gone, "the cluster has no broker 99")
}
