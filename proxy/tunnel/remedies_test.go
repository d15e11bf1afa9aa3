package tunnel

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-proxy/culvert/proxy/internal/memnet"
)

// dialFails returns a DialContext that fails with err at once.
func dialFails(err error) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: err}
	}
}

// dialHangs is a DialContext to an address that answers nothing, as behind a firewall.
func dialHangs(ctx context.Context, _, _ string) (net.Conn, error) {
	<-ctx.Done()
	return nil, &net.OpError{Op: "dial", Net: "tcp", Err: os.ErrDeadlineExceeded}
}

func TestEachFailureToReachTheGatewayHasItsOwnHint(t *testing.T) {
	for _, tt := range []struct {
		name       string
		dial       func(context.Context, string, string) (net.Conn, error)
		text, hint string
	}{
		{"refused", dialFails(os.NewSyscallError("connect", syscall.ECONNREFUSED)), "connection refused",
			"nothing listens there: is the gateway or its ingress running, and is the port in --gateway-url right?"},
		{"no name", dialFails(&net.DNSError{Err: "no such host", Name: "gateway.example", IsNotFound: true}), "lookup gateway.example: no such host",
			"is the host in --gateway-url right, and can this machine resolve it? If only a proxy can, set HTTPS_PROXY"},
		{"no DNS", dialFails(&net.DNSError{Err: "server misbehaving", Name: "gateway.example", IsTemporary: true}), "server misbehaving",
			"does DNS work on this machine? If this network has a proxy, set HTTPS_PROXY: the proxy then resolves names"},
		{"no route", dialFails(os.NewSyscallError("connect", syscall.ENETUNREACH)), "network is unreachable",
			"this machine has no route to that address: is its network up, and its VPN if it needs one?"},
		{"no descriptors", dialFails(os.NewSyscallError("socket", syscall.EMFILE)), "too many open files",
			"every connection needs a file descriptor or two: raise the limit with ulimit -n or, in a systemd unit, with LimitNOFILE="},
		{"silence", dialHangs, "not connected within 50ms", "does a firewall block that port? If this network has a proxy, set HTTPS_PROXY"},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) {
			d := &Dialer{URL: &url.URL{Scheme: "https", Host: "gateway.example"}, Transport: TransportWS, DialContext: tt.dial, timing: defaultTiming}
			d.timing.handshake = 50 * time.Millisecond
			defer d.Close()
			_, diagnosed := d.DialTCP(t.Context())
			_, dialled := d.Dial(t.Context(), Open{}, nil)
			_, greeted := d.Hello(t.Context())
			for what, err := range map[string]error{"DialTCP": diagnosed, "Dial": dialled, "Hello": greeted} {
				if err == nil || !strings.Contains(err.Error(), tt.text) || hintsOf(err) != tt.hint {
					t.Errorf("%s = %v, hint %q; want %s, hint %q", what, err, hintsOf(err), tt.text, tt.hint)
				}
			}
		})
	}
}

func TestANameThatDoesNotExistHasAHintOverUDPToo(t *testing.T) {
	d := &Dialer{URL: &url.URL{Scheme: "https", Host: "a..b"}, Transport: TransportH3} // not a name, so nobody is asked
	defer d.Close()
	_, looked := d.Lookup(t.Context())
	_, dialled := d.Dial(t.Context(), Open{}, nil)
	for what, err := range map[string]error{"Lookup": looked, "Dial": dialled} {
		if err == nil || !strings.HasPrefix(hintsOf(err), "is the host in --gateway-url right") {
			t.Errorf("%s = %v, hint %q", what, err, hintsOf(err))
		}
	}
}

func TestUDPThatIsRefusedLeadsToWS(t *testing.T) {
	r := newRig(t, "noudp", func(r *rig) { r.dialer.Transport = TransportH3 })
	_, err := r.dialer.Dial(t.Context(), Open{}, nil)
	if err == nil || hintsOf(err) != "nothing answers over UDP; --transport ws needs only TCP" {
		t.Errorf("Dial = %v, hint %q", err, hintsOf(err))
	}
}

// signed returns a server's TLS with a certificate, and a client's that trusts it. Only change says
// what is wrong with it.
func signed(t *testing.T, change func(*x509.Certificate)) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "gateway.example"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"gateway.example"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	change(c)
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(c)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, &tls.Config{RootCAs: roots}
}

// badCertificates are certificates that are refused whoever signed them.
var badCertificates = []struct {
	name       string
	change     func(*x509.Certificate)
	text, hint string
}{
	{"expired", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }, "has expired or is not yet valid",
		"if this machine's clock is right, ask whoever runs the %s to renew it"},
	{"not valid yet", func(c *x509.Certificate) { c.NotBefore = time.Now().Add(30 * time.Minute) }, "has expired or is not yet valid", "the certificate is valid only from "},
	{"without names", func(c *x509.Certificate) { c.DNSNames, c.IPAddresses = nil, nil }, "127.0.0.1",
		`the certificate has no subjectAltName, and the common name ("gateway.example") is ignored: ask whoever runs the %s to issue it again with 127.0.0.1 as subjectAltName`},
}

func TestABadCertificateIsNoWrongURL(t *testing.T) {
	for _, tt := range badCertificates {
		for _, kind := range []string{"ws", "h2", "h3"} {
			r := newRig(t, kind, func(r *rig) { r.server.TLS, r.dialer.TLS = signed(t, tt.change) })
			_, err := r.dialer.Dial(t.Context(), Open{}, nil)
			want := strings.ReplaceAll(tt.hint, "%s", "gateway or its ingress")
			if hint := hintsOf(err); err == nil || !strings.Contains(err.Error(), tt.text) || !strings.Contains(hint, want) || strings.Contains(hint, "--gateway-") {
				t.Errorf("%s over %s: Dial = %v, hint %q; want %q", tt.name, kind, err, hint, want)
			}
		}
	}
}

// --gateway-ca-file is not for the proxy's certificate.
func TestTheCertificateOfAProxyHasARemedyThatWorks(t *testing.T) {
	unknown := badCertificates[0]
	unknown.name, unknown.change, unknown.text = "unknown authority", func(*x509.Certificate) {}, "unknown authority"
	unknown.hint = "add the certificate of CN=gateway.example to those that this system trusts; except on Windows and macOS, SSL_CERT_FILE=FILE does that for one process"
	for _, tt := range append(badCertificates, unknown) {
		server, client := signed(t, tt.change)
		if tt.name == unknown.name {
			client = nil
		}
		p := newTestProxy(t, server, connect)
		d := &Dialer{URL: &url.URL{Scheme: "https", Host: "gateway.example"}, Transport: TransportWS, Proxy: p.url("https"), proxyTLS: client}
		_, err := d.Dial(t.Context(), Open{}, nil)
		want := strings.ReplaceAll(tt.hint, "%s", "proxy")
		if hint := hintsOf(err); err == nil || !strings.Contains(err.Error(), "TLS handshake with the proxy: ") || !strings.Contains(err.Error(), tt.text) ||
			!strings.Contains(hint, want) || strings.Contains(hint, "--gateway-") {
			t.Errorf("%s: Dial = %v, hint %q; want %q", tt.name, err, hint, want)
		}
		d.Close()
	}
}

func TestAProxyWithoutTLSIsNotAGatewayWithoutTLS(t *testing.T) {
	p := newTestProxy(t, nil, answering("HTTP/1.1 400 Bad Request\r\n\r\n"))
	d := &Dialer{URL: &url.URL{Scheme: "https", Host: "gateway.example"}, Transport: TransportWS, Proxy: p.url("https")}
	defer d.Close()
	_, err := d.Dial(t.Context(), Open{}, nil)
	if want := "the proxy does not speak TLS on that port: does its URL begin with http:// and not with https://?"; err == nil || hintsOf(err) != want {
		t.Errorf("Dial = %v, hint %q; want %q", err, hintsOf(err), want)
	}
}

// A character that ends the password of a URL too early would make another host of the rest.
func TestAPasswordThatIsNotEncodedIsNoProxy(t *testing.T) {
	for _, value := range []string{
		`http://user:se\cret@proxy.example:3128`, "http://user:se#cret@proxy.example:3128", "http://user:123#45@proxy.example:3128",
		"http://user:123/45@proxy.example:3128", "http://user:123?45@proxy.example:3128", `user:se\cret@proxy.example:3128`, "user:se#cret@proxy.example:3128",
		"http://user:12 3@proxy.example:3128", "ftp://user:123#45@proxy.example",
	} {
		t.Setenv("HTTPS_PROXY", value)
		through, err := ProxyFromEnvironment(&url.URL{Scheme: "https", Host: "gateway.example"})
		if err == nil || err.Error() != "HTTPS_PROXY is not a proxy URL" {
			t.Errorf("HTTPS_PROXY=%s: %v, %v", value, through, err)
		}
		hint := hintsOf(err)
		if want := `HTTPS_PROXY=http://USER:PASSWORD@host:port, with special characters in the password percent-encoded: %40 for @, %23 for #, %5C for \, %2F for /, %3F for ?, %25 for %`; !strings.Contains(hint, want) {
			t.Errorf("hint %q, want %q", hint, want)
		}
		if text := err.Error() + hint; strings.Contains(text, "cret") || strings.Contains(text, "123") || strings.Contains(text, "45") {
			t.Errorf("the password is in %q", text)
		}
	}
	for _, value := range []string{"http://user:se%5Ccr%23et@proxy.example:3128", "proxy.example:3128", "http://proxy.example:3128/"} {
		t.Setenv("HTTPS_PROXY", value)
		through, err := ProxyFromEnvironment(&url.URL{Scheme: "https", Host: "gateway.example"})
		if err != nil || through.Host != "proxy.example:3128" {
			t.Errorf("HTTPS_PROXY=%s: %v, %v", value, through, err)
		}
	}
}

// answers403 answers every WebSocket as Envoy does where upgrades are off.
func answers403(server, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Server", server)
		w.WriteHeader(http.StatusForbidden)
		io.WriteString(w, body)
	}
}

func TestEnvoyWithoutUpgradesIsRecognized(t *testing.T) {
	const upgrades = "Envoy answers so where WebSocket upgrades are off: set upgrade_configs with upgrade_type: websocket or, in Contour, enableWebsockets: true for the route"
	for _, tt := range []struct {
		name, server, body string
		hint               string
	}{
		{"Envoy", "envoy", "", upgrades},
		{"Istio", "istio-envoy", "", upgrades},
		{"Envoy's access rules", "envoy", "RBAC: access denied", "the ingress in front of the gateway requires credentials of its own: are they set, and still valid?"},
		{"another ingress", "nginx", "", "the ingress in front of the gateway requires credentials of its own: are they set, and still valid?"},
	} {
		s := httptest.NewServer(answers403(tt.server, tt.body))
		u, _ := url.Parse(s.URL)
		d := &Dialer{URL: u, Transport: TransportWS}
		_, err := d.Dial(t.Context(), Open{}, nil)
		if err == nil || hintsOf(err) != tt.hint {
			t.Errorf("%s: Dial = %v, hint %q; want %q", tt.name, err, hintsOf(err), tt.hint)
		}
		d.Close()
		s.Close()
	}
}

func TestAServerOfHTTP10IsNamed(t *testing.T) {
	server, client := testTLS()
	p := newTestProxy(t, server, answering("HTTP/1.0 404 File not found\r\nServer: SimpleHTTP/0.6 Python/3.11\r\n\r\n"))
	d := &Dialer{URL: &url.URL{Scheme: "https", Host: p.ln.Addr().String()}, TLS: client, Transport: TransportWS}
	defer d.Close()
	_, err := d.Dial(t.Context(), Open{}, nil)
	if err == nil || !strings.Contains(err.Error(), "the server answers in HTTP/1.0, which has no WebSockets") ||
		hintsOf(err) != "is it the gateway or its ingress? Another web server may be using the port in --gateway-url. If it is an ingress, set it to HTTP/1.1" {
		t.Errorf("Dial = %v, hint %q", err, hintsOf(err))
	}
}

// A gateway with a certificate answers a request without TLS in HTTP/1.0.
func TestAGatewayWithTLSIsNotReachedWithout(t *testing.T) {
	r := newRig(t, TransportWS, func(r *rig) { r.dialer.URL.Scheme = "http" })
	_, err := r.dialer.Dial(t.Context(), Open{Target: TargetBootstrap}, nil)
	if want := "does the gateway have a certificate? Then begin --gateway-url with https://. If not, another web server may be using the port"; err == nil || hintsOf(err) != want {
		t.Errorf("Dial = %v, hint %q, want %q", err, hintsOf(err), want)
	}
}

// A starved listener has no descriptor for most connections: every second accept fails.
type starved struct {
	net.Listener
	failed atomic.Int64
	enough chan struct{} // closed when descriptors are free again
}

func (s *starved) Accept() (net.Conn, error) {
	select {
	case <-s.enough:
		c, err := s.Listener.Accept()
		return c, err
	default:
	}
	if s.failed.Add(1)%2 == 0 {
		c, _ := net.Pipe()
		return c, nil
	}
	return nil, &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
}

func TestAListenerWithoutDescriptorsSaysSoOnceAndNeverSpins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		ln := memnet.Listen("gateway:443")
		s := &starved{Listener: ln, enough: make(chan struct{})}
		shared := newSharedListener(s, slog.New(slog.NewTextHandler(&log, nil)))
		var wg sync.WaitGroup
		wg.Go(func() { shared.run(t.Context()) })
		wg.Go(func() {
			for c := range shared.conns {
				c.Close()
			}
		})
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := strings.Count(log.String(), "accept failed"); n != 1 || !strings.Contains(log.String(), "too many open files") {
			t.Errorf("within a minute it said %d times that accept failed, want once:\n%s", n, &log)
		}
		if n := s.failed.Load(); n > 2*60*1000/4 {
			t.Errorf("%d accepts within a minute: it spins", n)
		}
		close(s.enough)
		time.Sleep(2 * acceptQuiet)
		for range 2 {
			c, err := ln.DialContext(t.Context(), "tcp", "gateway:443")
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
		}
		synctest.Wait()
		if n := strings.Count(log.String(), "connections are accepted again"); n != 1 {
			t.Errorf("it said %d times that it was over, want once:\n%s", n, &log)
		}
		shared.close()
		close(shared.conns)
		wg.Wait()
	})
}

func TestAnIngressThatSpeaksHTTP10ToTheGatewayIsTold(t *testing.T) {
	r := newRig(t, "plain")
	for _, header := range []string{"", "Upgrade: websocket\r\nConnection: Upgrade\r\n"} {
		c, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, "GET /culvert HTTP/1.0\r\nHost: gateway\r\n"+header+"\r\n")
		answer, _ := io.ReadAll(c)
		c.Close()
		if !strings.HasPrefix(string(answer), "HTTP/1.0 426 ") || !strings.Contains(string(answer), "it speaks HTTP/1.0 to the gateway: in nginx, set proxy_http_version 1.1") {
			t.Errorf("the gateway answers a request in HTTP/1.0 with %q", answer)
		}
	}
}
