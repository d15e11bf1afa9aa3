package test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/culvert-proxy/culvert/test/clients"
	"github.com/culvert-proxy/culvert/test/kafka"
	"github.com/culvert-proxy/culvert/test/proc"
)

// newTLSTestbed starts brokers and agents with TLS. Brokers require a certificate from culvert and
// a password from clients; agents require a certificate from clients.
func newTLSTestbed(t *testing.T, ways ...string) *testbed {
	t.Helper()
	bed := &testbed{dir: t.TempDir()}
	if err := writeKafkaTLS(bed.dir); err != nil {
		t.Fatal(err)
	}
	bed.toBrokers = []string{"--broker-tls", "--broker-ca-file", bed.file("brokers-ca.pem"),
		"--broker-cert-file", bed.file("to-brokers.pem"), "--broker-key-file", bed.file("to-brokers-key.pem")}
	bed.toClients = []string{"--listen-tls-cert-file", bed.file("agent.pem"), "--listen-tls-key-file", bed.file("agent-key.pem"),
		"--listen-client-ca-file", bed.file("clients-ca.pem")}
	cfg := kafka.Config{IDs: []int32{0}, SASL: true, KeyStore: bed.file("broker-both.pem"), TrustStore: bed.file("brokers-ca.pem")}
	if err := bed.start(t.Context(), cfg, (*kafka.Cluster).SASL, ways...); err != nil {
		t.Fatal(err)
	}
	closeWith(t, bed)
	return bed
}

func (b *testbed) clientFiles() clients.TLS {
	return clients.TLS{CA: b.file("clients-ca.pem"), Cert: b.file("client.pem"), Key: b.file("client-key.pem"), CertAndKey: b.file("client-both.pem")}
}

// TestClientsThatLogInOverTLS has the Java client and librdkafka log in by each mechanism, and one
// client as before Kafka 1.0. Both Kafka connections, from client to agent and from gateway to
// broker, use TLS with certificates on both sides.
func TestClientsThatLogInOverTLS(t *testing.T) {
	needReal(t)
	var all []clients.Client
	for _, mechanism := range clients.Mechanisms {
		all = append(all, clients.TLS{}.LogIn(mechanism)...)
	}
	installClients(t, append(all, clients.TLS{}.LogInV0()))
	bed := newTLSTestbed(t, "ws", direct)
	files := bed.clientFiles()
	t.Run("clients", func(t *testing.T) {
		bed.each(t, []string{"ws", direct}, func(t *testing.T, p *path) {
			for _, mechanism := range clients.Mechanisms {
				t.Run(mechanism, func(t *testing.T) { p.roundtrips(t, files.LogIn(mechanism)) })
			}
			p.roundtrips(t, []clients.Client{files.LogInV0()})
		})
	})
	t.Run("refused", bed.brokersRefuse)
}

// brokersRefuse starts agent and gateway with credentials that brokers refuse. The log must say
// why, and a client's connection must end soon.
func (b *testbed) brokersRefuse(t *testing.T) {
	ours := []string{"--broker-tls", "--broker-ca-file", b.file("brokers-ca.pem")}
	other := []string{"--broker-cert-file", b.file("other-client.pem"), "--broker-key-file", b.file("other-client-key.pem")}
	for _, test := range []struct {
		what, brokers string
		flags         []string
		says          string
	}{
		{"plaintext to TLS", b.cluster.SASL(), nil, "require TLS (--broker-tls)?"},
		{"TLS to plaintext", b.cluster.Bootstrap(), b.toBrokers, "does this broker listener speak TLS?"},
		{"no certificate", b.cluster.SASL(), ours, "does it require a client certificate"},
		{"a certificate of another CA", b.cluster.SASL(), append(ours, other...), "from a CA that it trusts?"},
		{"another CA", b.cluster.SASL(), []string{"--broker-tls", "--broker-ca-file", b.file("other-ca.pem")}, "in --broker-ca-file?"},
	} {
		t.Run(test.what, func(t *testing.T) {
			v := *b
			v.brokers, v.toBrokers, v.toClients = test.brokers, test.flags, nil
			g, err := v.newGateway(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			closeWith(t, g)
			p, err := v.newPath(t.Context(), g, "ws")
			if err != nil {
				t.Fatal(err)
			}
			closeWith(t, p)
			mustCloseUnanswered(t, p.bootstrap)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			for _, end := range []*proc.Process{p.agent, g.process} {
				if _, err := end.Output().WaitLine(ctx, test.says); err != nil {
					t.Errorf("%v\n%s", err, end.Output())
				}
			}
		})
	}
}

// mustCloseUnanswered sends a client's first request. It fails the test unless the connection ends
// without a response.
func mustCloseUnanswered(t *testing.T, address string) {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	request := kmsg.NewRequestFormatter().AppendRequest(nil, kmsg.NewPtrApiVersionsRequest(), 1)
	if _, err := c.Write(request); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); len(got) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the client read %q, %v, want an end", got, err)
	}
}
