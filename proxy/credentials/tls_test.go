package credentials

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/culvert-proxy/culvert/proxy/internal/testca"
)

// handshake lets two configs meet and returns what each end says of it.
func handshake(t *testing.T, client, server *tls.Config) (clientErr, serverErr error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	served := make(chan error, 1)
	go func() { served <- accept(ln, server) }()
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := tls.Client(conn, client)
	clientErr = c.Handshake()
	if clientErr == nil { // in TLS 1.3 the server's verdict comes after that
		_, clientErr = c.Read(make([]byte, 1))
	}
	conn.Close()
	return clientErr, <-served
}

func accept(ln net.Listener, config *tls.Config) error {
	conn, err := ln.Accept()
	if err != nil {
		return err
	}
	defer conn.Close()
	s := tls.Server(conn, config)
	if err := s.Handshake(); err != nil {
		return err
	}
	_, err = s.Write([]byte{1})
	return err
}

type tlsFixture struct {
	ca                        *testca.CA
	caFile, certFile, keyFile File
}

func newTLSFixture(t *testing.T, flag string) tlsFixture {
	t.Helper()
	f := tlsFixture{ca: testca.New(t, flag)}
	cert, key := f.ca.Pair(t, "culvert.example")
	f.caFile = testFile(t, "--"+flag+"-ca-file", f.ca.PEM())
	f.certFile, f.keyFile = testFile(t, "--"+flag+"-cert-file", cert), testFile(t, "--"+flag+"-key-file", key)
	return f
}

func mustConfig(t *testing.T, config *tls.Config, err error) *tls.Config {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return config
}

func TestBothEndsProveWhoTheyAre(t *testing.T) {
	server, agent, other := newTLSFixture(t, "tls"), newTLSFixture(t, "gateway"), newTLSFixture(t, "other")
	config, err := ServerTLS{CertFile: server.certFile, KeyFile: server.keyFile, ClientCAFile: agent.caFile}.Config()
	serverConfig := mustConfig(t, config, err)
	for _, test := range []struct {
		what  string
		files ClientTLS
		name  string
		want  string
	}{
		{"good", ClientTLS{CAFile: server.caFile, CertFile: agent.certFile, KeyFile: agent.keyFile}, "culvert.example", ""},
		{"good by address", ClientTLS{CAFile: server.caFile, CertFile: agent.certFile, KeyFile: agent.keyFile}, "127.0.0.1", ""},
		{"wrong name", ClientTLS{CAFile: server.caFile, CertFile: agent.certFile, KeyFile: agent.keyFile}, "other.example", "not other.example"},
		{"wrong address", ClientTLS{CAFile: server.caFile, CertFile: agent.certFile, KeyFile: agent.keyFile}, "127.0.0.2", "not 127.0.0.2"},
		{"unknown server", ClientTLS{CAFile: other.caFile, CertFile: agent.certFile, KeyFile: agent.keyFile}, "culvert.example", "unknown authority"},
		{"not of the system's", ClientTLS{CertFile: agent.certFile, KeyFile: agent.keyFile}, "culvert.example", "unknown authority"},
		{"unknown client", ClientTLS{CAFile: server.caFile, CertFile: other.certFile, KeyFile: other.keyFile}, "culvert.example", "bad certificate"},
		{"no certificate", ClientTLS{CAFile: server.caFile}, "culvert.example", "certificate required"},
	} {
		config, err := test.files.Config(test.name)
		clientErr, _ := handshake(t, mustConfig(t, config, err), serverConfig)
		switch {
		case test.want == "" && clientErr != nil:
			t.Errorf("%s: %v", test.what, clientErr)
		case test.want != "" && (clientErr == nil || !strings.Contains(clientErr.Error(), test.want)):
			t.Errorf("%s: %v, want %q", test.what, clientErr, test.want)
		}
	}
}

// Brokers are dialled under many names with one configuration.
func TestACloneChecksTheNameItIsGiven(t *testing.T) {
	server := newTLSFixture(t, "tls")
	config, err := ServerTLS{CertFile: server.certFile, KeyFile: server.keyFile}.Config()
	serverConfig := mustConfig(t, config, err)
	ca, err := ReadCA(server.caFile, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, good := range map[string]bool{"culvert.example": true, "127.0.0.1": true, "other.example": false, "": false} {
		clone := new(tls.Config).Clone()
		ca.VerifyServer(clone, name)
		clientErr, _ := handshake(t, clone, serverConfig)
		if (clientErr == nil) != good {
			t.Errorf("%s: %v, want success %v", name, clientErr, good)
		}
	}
}

func TestAFailedCheckCanBeAskedFor(t *testing.T) {
	server, other := newTLSFixture(t, "tls"), newTLSFixture(t, "other")
	config, err := ServerTLS{CertFile: server.certFile, KeyFile: server.keyFile}.Config()
	serverConfig := mustConfig(t, config, err)
	config, err = ClientTLS{CAFile: other.caFile}.Config("culvert.example")
	clientErr, _ := handshake(t, mustConfig(t, config, err), serverConfig)
	if _, ok := errors.AsType[x509.UnknownAuthorityError](clientErr); !ok {
		t.Errorf("%v is no UnknownAuthorityError", clientErr)
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](clientErr); !ok {
		t.Errorf("%v is no CertificateVerificationError", clientErr)
	}
}

func TestNewHandshakesUseNewFiles(t *testing.T) {
	server, next := newTLSFixture(t, "tls"), newTLSFixture(t, "next")
	config, err := ServerTLS{CertFile: server.certFile, KeyFile: server.keyFile}.Config()
	serverConfig := mustConfig(t, config, err)
	config, err = ClientTLS{CAFile: server.caFile}.Config("culvert.example")
	clientConfig := mustConfig(t, config, err)

	cert, key := next.ca.Pair(t, "culvert.example")
	writeFile(t, server.certFile, cert) // the key is not there yet: the old pair serves
	if err, _ := handshake(t, clientConfig, serverConfig); err != nil {
		t.Errorf("half replaced: %v", err)
	}
	writeFile(t, server.keyFile, key)
	if err, _ := handshake(t, clientConfig, serverConfig); err == nil {
		t.Error("the old certificate still serves")
	}
	writeFile(t, server.caFile, next.ca.PEM())
	if err, _ := handshake(t, clientConfig, serverConfig); err != nil {
		t.Errorf("replaced at both ends: %v", err)
	}
}

// A session that is resumed shows the certificate of its first handshake, which is verified again.
func TestAResumedSessionIsVerifiedWithNewFiles(t *testing.T) {
	server, other := newTLSFixture(t, "tls"), newTLSFixture(t, "other")
	config, err := ServerTLS{CertFile: server.certFile, KeyFile: server.keyFile}.Config()
	serverConfig := mustConfig(t, config, err)
	config, err = ClientTLS{CAFile: server.caFile}.Config("culvert.example")
	client := mustConfig(t, config, err)
	client.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	resumed, verify := false, client.VerifyConnection
	client.VerifyConnection = func(s tls.ConnectionState) error {
		resumed = s.DidResume
		return verify(s)
	}
	for _, want := range []bool{false, true} {
		if err, _ := handshake(t, client, serverConfig); err != nil || resumed != want {
			t.Fatalf("resumed %t, %v; want %t", resumed, err, want)
		}
	}
	writeFile(t, server.caFile, other.ca.PEM())
	if err, _ := handshake(t, client, serverConfig); err == nil || !resumed || !strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("with another CA: resumed %t, %v", resumed, err)
	}
}

func TestBadTLSFilesAreNamedWithTheirFlags(t *testing.T) {
	f := newTLSFixture(t, "tls")
	other := newTLSFixture(t, "other")
	empty := testFile(t, "--client-ca-file", "nothing")
	missing := File{Path: "/nowhere/key.pem", Name: "--tls-key-file"}
	for what, s := range map[string]ServerTLS{
		"load --tls-cert-file":                   {CertFile: f.certFile, KeyFile: other.keyFile},
		"with --other-key-file":                  {CertFile: f.certFile, KeyFile: other.keyFile},
		"read --tls-key-file /nowhere/key.pem: ": {CertFile: f.certFile, KeyFile: missing},
		"load --client-ca-file":                  {CertFile: f.certFile, KeyFile: f.keyFile, ClientCAFile: empty},
	} {
		_, err := s.Config()
		if err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%v, want %q", err, what)
		}
	}
}

func TestRootsAreTheSystemsAndThoseInAFile(t *testing.T) {
	system, err := x509.SystemCertPool()
	if err != nil {
		t.Fatal(err)
	}
	first, second := testca.New(t, "first"), testca.New(t, "second")
	f := testFile(t, "--gateway-ca-file", first.PEM())
	roots, err := Roots(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := func(a *testca.CA) {
		t.Helper()
		both := system.Clone()
		both.AppendCertsFromPEM([]byte(a.PEM()))
		if got, err := roots(); err != nil || !got.Equal(both) {
			t.Errorf("roots: %v, want the system's and one more", err)
		}
	}
	want(first)
	writeFile(t, f, second.PEM())
	want(second)
	if _, err := Roots(testFile(t, "--gateway-ca-file", "no PEM"), nil); err == nil {
		t.Error("a file without certificates is believed")
	}
	if roots, err = Roots(File{}, nil); err != nil {
		t.Fatal(err)
	}
	if got, err := roots(); got != nil || err != nil { // as package tls takes the system's
		t.Errorf("without a file: %v, %v", got, err)
	}
}
