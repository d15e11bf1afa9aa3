package test

import (
	"testing"

	"github.com/culvert-proxy/culvert/test/clients"
	"github.com/culvert-proxy/culvert/test/kafka"
)

// newTLSWorld starts a broker that speaks TLS, asks culvert for a certificate and
// clients for a password, and agents that do the first two with clients.
func newTLSWorld(t *testing.T, ways ...string) *world {
	t.Helper()
	w := &world{dir: t.TempDir()}
	if err := writeKafkaTLS(w.dir); err != nil {
		t.Fatal(err)
	}
	w.toBrokers = []string{"--broker-tls", "--broker-ca-file", w.file("brokers-ca.pem"),
		"--broker-cert-file", w.file("to-brokers.pem"), "--broker-key-file", w.file("to-brokers-key.pem")}
	w.toClients = []string{"--listen-tls-cert-file", w.file("agent.pem"), "--listen-tls-key-file", w.file("agent-key.pem"),
		"--listen-client-ca-file", w.file("clients-ca.pem")}
	cfg := kafka.Config{IDs: []int32{0}, SASL: true, KeyStore: w.file("broker-both.pem"), TrustStore: w.file("brokers-ca.pem")}
	if err := w.start(t.Context(), cfg, (*kafka.Cluster).SASL, ways...); err != nil {
		t.Fatal(err)
	}
	closeWith(t, w)
	return w
}

func (w *world) clientFiles() clients.TLS {
	return clients.TLS{CA: w.file("clients-ca.pem"), Cert: w.file("client.pem"), Key: w.file("client-key.pem"), CertAndKey: w.file("client-both.pem")}
}

// TestClientsThatLogInOverTLS has the Java client and librdkafka log in by each
// mechanism, and one client as before Kafka 1.0, with TLS and certificates on
// both of Kafka's hops.
func TestClientsThatLogInOverTLS(t *testing.T) {
	needReal(t)
	var all []clients.Client
	for _, mechanism := range clients.Mechanisms {
		all = append(all, clients.TLS{}.LogIn(mechanism)...)
	}
	installClients(t, append(all, clients.TLS{}.LogInV0()))
	w := newTLSWorld(t, "ws", direct)
	files := w.clientFiles()
	w.each(t, []string{"ws", direct}, func(t *testing.T, p *path) {
		for _, mechanism := range clients.Mechanisms {
			t.Run(mechanism, func(t *testing.T) { p.roundtrips(t, files.LogIn(mechanism)) })
		}
		p.roundtrips(t, []clients.Client{files.LogInV0()})
	})
}
