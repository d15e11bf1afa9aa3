package doctor

import (
	"context"
	"crypto/tls"
	"net"
	"strings"
	"testing"

	"github.com/culvert-proxy/culvert/proxy"
	"github.com/culvert-proxy/culvert/proxy/clientconfig"
	"github.com/culvert-proxy/culvert/proxy/internal/testca"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

func brokerNames(t *testing.T) proxy.BrokerNames {
	t.Helper()
	n, err := proxy.ParseBrokerNames("b{id}.kafka.example.com")
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Where brokers have names, no port but that of the bootstrap address is examined. The certificate
// must be for the names, and they must resolve.
func TestNamesOfNodes(t *testing.T) {
	ca := testca.New(t, "ours")
	client := &clientconfig.Config{Protocol: "SSL", TLS: &tls.Config{RootCAs: poolOf(ca)}}
	for _, test := range []struct {
		what        string
		certificate []string
		missing     string // in DNS
		want        map[string]Finding
	}{
		{
			"all is well", []string{"kafka.example.com", "*.kafka.example.com"}, "",
			map[string]Finding{
				"node names": {Result: OK, Text: "clients find kafka.example.com at 192.0.2.1, b1.kafka.example.com at 192.0.2.1, b2.kafka"},
				"client tls": {Result: OK, Text: "trust each other as b1.kafka.example.com"},
			},
		},
		{
			"a certificate for one of two", []string{"kafka.example.com", "b1.kafka.example.com"}, "",
			map[string]Finding{"client tls": {Result: OK}, "certificate": {Result: Warn, Text: "not for b2.kafka.example.com: it is for kafka.example.com, b1", Remedy: "--listen-tls-cert-file"}},
		},
		{
			"no DNS record", []string{"kafka.example.com", "*.kafka.example.com"}, "b2.kafka.example.com",
			map[string]Finding{"node names": {Result: Warn, Text: "b2.kafka.example.com does not resolve here: lookup b2", Remedy: "a wildcard record"}},
		},
		{
			"no bootstrap name", []string{"*.kafka.example.com"}, "",
			map[string]Finding{"bootstrap": {Result: Fail, Text: "no name leads to the bootstrap brokers", Remedy: "--listen 0.0.0.0:9092=kafka.example.com"}},
		},
		{
			"a certificate for none", []string{"kafka.example.com"}, "",
			map[string]Finding{"client tls": {Result: Fail, Text: "does not trust the agent as b1.kafka.example.com", Remedy: "is that certificate for b1.kafka.example.com"}},
		},
	} {
		t.Run(test.what, func(t *testing.T) {
			a := &proxy.Agent{
				Listens: []proxy.Listen{{Bind: "127.0.0.1:0"}}, BrokerNames: brokerNames(t), ExpectNodes: []int32{1, 2, 1},
				ListenTLS: &tls.Config{Certificates: []tls.Certificate{ca.Server(t, test.certificate...)}},
				Upstream:  proxy.NewDirect(&proxy.Brokers{Bootstrap: []string{"kafka:9092"}}),
			}
			var warned []Finding
			_, by, _ := found(t, func(d *Doctor) {
				d.Agent, d.Client = a, client
				report := d.Report
				d.Report = func(f Finding) {
					if f.Hop == "node names" && f.Result == Warn {
						warned = append(warned, f)
					}
					report(f)
				}
				d.listens = func(network, address string) (net.Listener, error) {
					if address != "127.0.0.1:0" {
						t.Errorf("the doctor listens on %s", address)
					}
					return net.Listen(network, address)
				}
				d.lookup = func(_ context.Context, host string) ([]string, error) {
					if host == test.missing {
						return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
					}
					return []string{"192.0.2.1", "192.0.2.2"}, nil
				}
			}, func(d *Doctor) { d.Local(t.Context()) })
			for hop, want := range test.want {
				f := by[hop]
				if hop == "certificate" && len(warned) > 0 {
					f = warned[0]
				}
				if f.Result != want.Result || !strings.Contains(f.Text, want.Text) || !strings.Contains(f.Remedy, want.Remedy) {
					t.Errorf("%s: %+v, want %+v", hop, f, want)
				}
			}
		})
	}
}

// The agent that runs is asked under its bootstrap name: it refuses a client that asks for another.
func TestARunningAgentWithNames(t *testing.T) {
	c, ca := startCluster(t), testca.New(t, "ours")
	address, certificate := startGateway(t, c, c.Resolver())
	shows := &tls.Config{Certificates: []tls.Certificate{ca.Server(t, "kafka.example.com", "*.kafka.example.com")}}
	bootstrap := serveAgent(t, c, &proxy.Agent{Listens: []proxy.Listen{{Bind: "127.0.0.1:0"}}, BrokerNames: brokerNames(t), ListenTLS: shows})
	a := &proxy.Agent{
		Listens: []proxy.Listen{{Bind: bootstrap}}, BrokerNames: brokerNames(t), ListenTLS: shows, Upstream: proxy.NewDirect(&proxy.Brokers{Bootstrap: []string{"kafka:9092"}}),
	}
	_, by, failed := found(t, func(d *Doctor) {
		d.Agent, d.blind, d.Client = a, true, &clientconfig.Config{Protocol: "SSL", TLS: &tls.Config{RootCAs: poolOf(ca)}}
		d.lookup = func(context.Context, string) ([]string, error) { return []string{"127.0.0.1"}, nil }
	}, func(d *Doctor) {
		d.Local(t.Context())
		d.Gateway(t.Context(), dialTo(t, address, certificate, "right"), []string{tunnel.TransportWS})
	})
	if f := by["agent"]; failed != 0 || f.Result != OK || !strings.Contains(f.Text, "leads to the same cluster, brokers 0 at b0.kafka.example.com:") {
		t.Errorf("agent: %+v, %d failures", f, failed)
	}
	if f := by["node names"]; f.Result != OK || !strings.Contains(f.Text, "b2.kafka.example.com at 127.0.0.1") {
		t.Errorf("node names: %+v", f)
	}
}
