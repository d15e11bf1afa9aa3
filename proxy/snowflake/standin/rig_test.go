package standin

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
)

const (
	endpoint = "abc-myorg-myaccount.snowflakecomputing.app"
	role     = "KAFKA_USER"
)

// rig is an ingress, and a client that reaches it by whatever name.
type rig struct {
	*Ingress
	address string
	client  *http.Client
	pat     string
}

// newAccount has a user ALICE with two roles, the first of which the endpoint is granted to.
func newAccount() *Account {
	a := &Account{Host: "myorg-myaccount.snowflakecomputing.com"}
	a.SetUser(User{Name: "ALICE", Roles: []string{role, "PUBLIC"}})
	return a
}

// start starts an ingress before instances, which ends with the test.
func start(t *testing.T, in *Ingress, instances ...Instance) *rig {
	t.Helper()
	if in.Account == nil {
		in.Account = newAccount()
	}
	if in.Services == nil {
		in.Services = []*Service{{Hosts: []string{endpoint}, Roles: []string{role}, Instances: instances}}
	}
	in.Certificate = certificate(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := in.Serve(ctx, ln); err != nil {
			t.Error(err)
		}
	})
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, ln.Addr().String())
	}
	transport := &http.Transport{DialContext: dial, TLSClientConfig: trusting(in), ForceAttemptHTTP2: true}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		cancel()
		running.Wait()
	})
	noRedirect := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &rig{in, ln.Addr().String(), &http.Client{Transport: transport, CheckRedirect: noRedirect}, in.Account.NewPAT("ALICE", role, time.Hour)}
}

func trusting(in *Ingress) *tls.Config {
	roots := x509.NewCertPool()
	roots.AddCert(in.Certificate.Leaf)
	return &tls.Config{RootCAs: roots, ServerName: endpoint}
}

func certificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		DNSNames: []string{endpoint, "*.snowflakecomputing.com", "*.snowflakecomputing.app"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// instance starts a process of a service.
func instance(t *testing.T, handle http.HandlerFunc) Instance {
	t.Helper()
	server := httptest.NewServer(handle)
	t.Cleanup(server.Close)
	return Instance{Address: server.Listener.Addr().String()}
}

// mirror answers with the header that it was sent.
func mirror(w http.ResponseWriter, r *http.Request) { r.Header.Write(w) }

func quoted(token string) string { return `Snowflake Token="` + token + `"` }

// do makes a request, and returns the response and its body.
func (r *rig) do(t *testing.T, method, url string, header http.Header, body io.Reader) (*http.Response, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	request.Header = header.Clone()
	if host := header.Get("Host"); host != "" {
		request.Host = host
	}
	response, err := r.client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(text)
}

// get asks the endpoint, with a token that it takes.
func (r *rig) get(t *testing.T) (*http.Response, string) {
	t.Helper()
	return r.do(t, "GET", "https://"+endpoint+"/culvert", http.Header{"Authorization": {quoted(r.pat)}}, nil)
}

// echo answers WebSocket messages with what is in them.
func echo(w http.ResponseWriter, r *http.Request) {
	c, _, _, err := ws.UpgradeHTTP(r, w)
	if err != nil {
		return
	}
	defer c.Close()
	for {
		message, op, err := wsutil.ReadClientData(c)
		if err != nil || wsutil.WriteServerMessage(c, op, message) != nil {
			return
		}
	}
}

// webSocket opens one over a connection to an ingress.
func (r *rig) webSocket(t *testing.T, raw net.Conn) net.Conn {
	t.Helper()
	return r.webSocketAt(t, raw, "/culvert")
}

func (r *rig) webSocketAt(t *testing.T, raw net.Conn, path string) net.Conn {
	t.Helper()
	c := tls.Client(raw, trusting(r.Ingress))
	t.Cleanup(func() { c.Close() })
	request := "GET " + path + " HTTP/1.1\r\nHost: " + endpoint + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: " + quoted(r.pat) + "\r\n\r\n"
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReaderSize(oneByte{c}, 16), nil)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != http.StatusSwitchingProtocols || response.Header.Get("Server") != "_" {
		t.Fatalf("answered %s with %v", response.Status, response.Header)
	}
	return c
}

// oneByte keeps a buffer from reading beyond what is asked.
type oneByte struct{ io.Reader }

func (r oneByte) Read(p []byte) (int, error) { return r.Reader.Read(p[:1]) }

// say sends a message and waits for its echo.
func say(c net.Conn, message string) error {
	if err := wsutil.WriteClientText(c, []byte(message)); err != nil {
		return err
	}
	got, err := wsutil.ReadServerText(c)
	if err == nil && string(got) != message {
		return io.ErrUnexpectedEOF
	}
	return err
}

func dialRig(t *testing.T, r *rig) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", r.address)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func wantIn(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("no %q in %q", part, text)
		}
	}
}
