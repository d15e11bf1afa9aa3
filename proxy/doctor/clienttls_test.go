package doctor

import (
	"crypto/tls"
	"crypto/x509"
	"strings"
	"testing"

	"github.com/culvert-proxy/culvert/proxy"
	"github.com/culvert-proxy/culvert/proxy/clientconfig"
	"github.com/culvert-proxy/culvert/proxy/internal/testca"
)

func pair(t *testing.T, ca *testca.CA, name string) tls.Certificate {
	t.Helper()
	cert, key := ca.Pair(t, name)
	p, err := tls.X509KeyPair([]byte(cert), []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func poolOf(ca *testca.CA) *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.Cert)
	return pool
}

// Client and agent must both speak TLS, and trust each other, for each host that clients are told.
func TestTLSBetweenClientAndAgent(t *testing.T) {
	ca, other := testca.New(t, "ours"), testca.New(t, "another")
	agent := &tls.Config{Certificates: []tls.Certificate{pair(t, ca, "localhost")}}
	strict := agent.Clone()
	strict.ClientAuth, strict.ClientCAs = tls.RequireAndVerifyClientCert, poolOf(ca)
	client := func(trusted, own *testca.CA) *clientconfig.Config {
		config := &tls.Config{RootCAs: poolOf(trusted)}
		if own != nil {
			mine := pair(t, own, "client")
			config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &mine, nil }
		}
		return &clientconfig.Config{Protocol: "SSL", TLS: config}
	}
	for _, test := range []struct {
		what   string
		client *clientconfig.Config
		agent  *tls.Config
		host   string
		result Result
		text   string
	}{
		{"both", client(ca, nil), agent, "localhost", OK, "TLS 1.3"},
		{"both, with certificates", client(ca, ca), strict, "localhost", OK, "trust each other as localhost"},
		{"neither", &clientconfig.Config{Protocol: "PLAINTEXT"}, nil, "localhost", "", ""},
		{"nothing is known of the client", nil, nil, "localhost", "", ""},
		{"nothing is known, and TLS", nil, agent, "localhost", Skip, "not known"},
		{"only the agent", &clientconfig.Config{Protocol: "PLAINTEXT"}, agent, "localhost", Fail, "the client speaks plaintext"},
		{"only the client", client(ca, nil), nil, "localhost", Fail, "the agent does not"},
		{"another CA", client(other, nil), agent, "localhost", Fail, "does not trust the agent as localhost"},
		{"another host", client(ca, nil), agent, "kafka.example.com", Fail, "kafka.example.com"},
		{"no certificate", client(ca, nil), strict, "localhost", Fail, "does not accept the client"},
		{"a certificate of another CA", client(ca, other), strict, "localhost", Fail, "does not accept the client"},
		{"not supported", &clientconfig.Config{Protocol: "SSL", Unsupported: []string{"no JKS here"}}, agent, "localhost", Skip, "no JKS here"},
	} {
		_, by, _ := found(t, func(d *Doctor) {
			d.Client = test.client
			d.Agent = &proxy.Agent{Listens: []proxy.Listen{{Bind: "127.0.0.1:0", Host: test.host}}, ListenTLS: test.agent}
		}, func(d *Doctor) { d.clientTLS(t.Context()) })
		f := by["client tls"]
		if f.Result != test.result || !strings.Contains(f.Text, test.text) || f.Result == Fail && f.Remedy == "" {
			t.Errorf("%s: %+v, want %s, %q", test.what, f, test.result, test.text)
		}
	}
}
