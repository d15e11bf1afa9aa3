package ingress

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"

	"github.com/culvert-proxy/culvert/test/kafka"
)

// TestIngressesPassOnRequests is the control of the tests through culvert: a failure here is not
// culvert's fault.
func TestIngressesPassOnRequests(t *testing.T) {
	kafka.Need(t)
	Need(t)
	config := newConfig(t)
	for name, c := range map[string]struct {
		program Program
		fronts  string
		back    string
	}{
		"nginx":          {Nginx{}, "h1 h2", "HTTP/1.1"},
		"nginx streams":  {Nginx{Streams: true, BodyLimit: "0", IdleCut: time.Second, ReloadCut: time.Second}, "h1 h2", "HTTP/1.1"},
		"HAProxy":        {HAProxy{}, "h1 h2", "HTTP/1.1"},
		"HAProxy to h2c": {HAProxy{H2C: true}, "h1 h2", "HTTP/2.0"},
		"Apache":         {Apache{}, "h1 h2", "HTTP/1.1"},
		"nghttpx":        {Nghttpx{}, "h1 h2", "HTTP/1.1"},
		"nghttpx to h2c": {Nghttpx{H2C: true}, "h1 h2", "HTTP/2.0"},
		"h2o":            {H2O{}, "h1 h2", "HTTP/1.1"},
		"lighttpd":       {Lighttpd{Streams: true}, "h1 h2", "HTTP/1.1"},
		"Caddy":          {Caddy{}, "h1 h2 h3", "HTTP/1.1"},
		"Caddy to h2c":   {Caddy{H2C: true}, "h1 h2 h3", "HTTP/2.0"},
		"Envoy":          {Envoy{IdleCut: time.Second, Lifetime: time.Minute}, "h1 h2 h3", "HTTP/1.1"},
		"Envoy on TCP":   {Envoy{NoUDP: true}, "h1 h2", "HTTP/1.1"},
		"Envoy to h2c":   {Envoy{Back: H2C}, "h1 h2 h3", "HTTP/2.0"},
		"Envoy to h3":    {Envoy{Back: H3}, "h1 h2 h3", "HTTP/3.0"},
	} {
		t.Run(name, func(t *testing.T) {
			i := Start(t, c.program, config)
			for front := range strings.FieldsSeq(c.fronts) {
				if got := get(t, i.URL, clients(t)[front]); got != c.back {
					t.Errorf("over %s the gateway got %s, want %s", front, got, c.back)
				}
			}
		})
	}
}

func TestSquidAsksForCredentials(t *testing.T) {
	kafka.Need(t)
	Need(t)
	config := newConfig(t)
	outside := Start(t, Caddy{}, config)
	open, closed := Start(t, Squid{}, Config{}), Start(t, Squid{User: "alice", Password: "alice-secret"}, Config{})
	for _, c := range []struct{ proxy, want string }{
		{open.URL, "HTTP/1.1"},
		{strings.Replace(closed.URL, "//", "//alice:alice-secret@", 1), "HTTP/1.1"},
		{strings.Replace(closed.URL, "//", "//alice:wrong@", 1), "Proxy Authentication Required"},
		{closed.URL, "Proxy Authentication Required"},
	} {
		proxy, err := url.Parse(c.proxy)
		if err != nil {
			t.Fatal(err)
		}
		client := clients(t)["h1"]
		client.Transport.(*http.Transport).Proxy = http.ProxyURL(proxy)
		if got := get(t, outside.URL, client); !strings.Contains(got, c.want) {
			t.Errorf("through %s: %s, want %s", c.proxy, got, c.want)
		}
	}
}

func TestStartErrorHasTheOutput(t *testing.T) {
	kafka.Need(t)
	Need(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err := start(ctx, Nginx{BodyLimit: "nonsense"}, newConfig(t))
	if err == nil || !strings.Contains(err.Error(), "client_max_body_size") {
		t.Errorf("start = %v, want nginx's own message", err)
	}
}

// get returns the protocol of the request as the gateway saw it, or the error.
func get(t *testing.T, url string, client *http.Client) string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := client.Do(request)
	if err != nil {
		return err.Error()
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// clients are one for each protocol.
func clients(t *testing.T) map[string]*http.Client {
	trusting := &tls.Config{InsecureSkipVerify: true}
	h1, h2, h3 := new(http.Protocols), new(http.Protocols), &http3.Transport{TLSClientConfig: trusting}
	h1.SetHTTP1(true)
	h2.SetHTTP2(true)
	t.Cleanup(func() { h3.Close() })
	client := func(rt http.RoundTripper) *http.Client { return &http.Client{Transport: rt, Timeout: patience} }
	return map[string]*http.Client{
		"h1": client(&http.Transport{TLSClientConfig: trusting, Protocols: h1}),
		"h2": client(&http.Transport{TLSClientConfig: trusting.Clone(), Protocols: h2}),
		"h3": client(h3),
	}
}

// newConfig starts a server that answers with the protocol of the request, in plain HTTP on TCP and
// HTTP/3 on UDP.
func newConfig(t *testing.T) Config {
	t.Helper()
	config := Config{Cert: filepath.Join(t.TempDir(), "cert.pem"), Key: filepath.Join(t.TempDir(), "key.pem")}
	config.CA = config.Cert
	writeCertificate(t, config)
	answer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Proto) })
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
	if err != nil {
		t.Fatal(err)
	}
	plain := httptest.NewUnstartedServer(answer)
	plain.Listener.Close()
	plain.Listener = tcp
	plain.Config.Protocols = new(http.Protocols)
	plain.Config.Protocols.SetHTTP1(true)
	plain.Config.Protocols.SetUnencryptedHTTP2(true)
	plain.Start()
	t.Cleanup(plain.Close)
	config.Backend = tcp.Addr().String()

	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(config.Cert, config.Key)
	if err != nil {
		t.Fatal(err)
	}
	h3 := &http3.Server{Handler: answer, TLSConfig: http3.ConfigureTLSConfig(&tls.Config{Certificates: []tls.Certificate{pair}})}
	served := make(chan error, 1)
	go func() { served <- h3.Serve(udp) }()
	t.Cleanup(func() {
		h3.Close()
		<-served
		udp.Close()
	})
	return config
}

func writeCertificate(t *testing.T, config Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{
		config.Cert: {Type: "CERTIFICATE", Bytes: der},
		config.Key:  {Type: "PRIVATE KEY", Bytes: secret},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
