package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"go.uber.org/goleak"

	"github.com/culvert-proxy/culvert/proxy"
	"github.com/culvert-proxy/culvert/proxy/clientconfig"
	"github.com/culvert-proxy/culvert/proxy/fakekafka"
	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/metrics"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var all = []string{tunnel.TransportWS, tunnel.TransportH3, tunnel.TransportH2}

// flags names settings as the command line does.
func flags(s hints.Setting) string {
	return "--" + strings.ReplaceAll(strings.ToLower(string(s)), " ", "-")
}

// door is a TLS server that answers with h, whose certificate a gateway can use.
func door(t *testing.T, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// dialTo makes dialers to a URL.
func dialTo(t *testing.T, address string, believe *x509.Certificate, token string) func(string) *tunnel.Dialer {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(believe)
	return func(transport string) *tunnel.Dialer {
		return &tunnel.Dialer{
			URL: u, Transport: transport, TLS: &tls.Config{RootCAs: roots, ServerName: "example.com"},
			Token: func() (string, error) { return token, nil },
		}
	}
}

// listenBoth listens on one port of TCP and UDP. A port that is free for one may be taken for the
// other.
func listenBoth(t *testing.T) (net.Listener, net.PacketConn) {
	t.Helper()
	for range 20 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		udp, err := net.ListenPacket("udp", ln.Addr().String())
		if err == nil {
			return ln, udp
		}
		ln.Close()
	}
	t.Fatal("no port is free for TCP and UDP")
	return nil, nil
}

// startGateway starts a gateway that knows one token, in front of a cluster.
func startGateway(t *testing.T, c *fakekafka.Cluster, resolver proxy.Resolver, forwards ...proxy.Forward) (address string, certificate *x509.Certificate) {
	t.Helper()
	s := door(t, http.NotFoundHandler())
	ln, udp := listenBoth(t)
	m := metrics.New(prometheus.NewRegistry(), metrics.Gateway, "test")
	g := &proxy.Gateway{
		Version: "test", TLS: &tls.Config{Certificates: s.TLS.Certificates}, Metrics: m, Logger: slog.New(slog.DiscardHandler),
		Brokers: &proxy.Brokers{Bootstrap: c.Bootstrap(), Resolver: resolver, Metrics: m},
		Authenticate: func(r *http.Request) (string, error) {
			if r.Header.Get("Culvert-Authorization") != "Bearer right" {
				return "", errors.New("unknown token")
			}
			return "agent", nil
		},
		Names: flags, Forwards: forwards,
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx, ln, udp) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return "https://" + ln.Addr().String(), s.Certificate()
}

func startCluster(t *testing.T, opts ...kfake.Opt) *fakekafka.Cluster {
	t.Helper()
	c, err := fakekafka.Start(3, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// examine returns what a doctor finds, by hop.
func examine(t *testing.T, change func(*Doctor), dial func(string) *tunnel.Dialer) (order []string, by map[string]Finding, failed int) {
	t.Helper()
	return found(t, change, func(d *Doctor) { d.Gateway(t.Context(), dial, all) })
}

// found returns what a doctor finds, by hop, with the verdict. Whoever waits for a finding must have
// been told for which.
func found(t *testing.T, change func(*Doctor), examine func(*Doctor)) (order []string, by map[string]Finding, failed int) {
	t.Helper()
	by = map[string]Finding{}
	announced := map[string]bool{}
	d := &Doctor{Names: flags, Examining: func(hop string) { announced[hop] = true }, Report: func(f Finding) {
		if f.Took > 0 && !announced[f.Hop] {
			t.Errorf("%s was examined unannounced", f.Hop)
		}
		t.Logf("%-4s %-11s %s [%s]", f.Result, f.Hop, f.Text, f.Remedy)
		order = append(order, f.Hop)
		by[f.Hop] = f
	}}
	if change != nil {
		change(d)
	}
	examine(d)
	n := len(order)
	through := d.Verdict(t.Context())
	if order = order[:n]; through != (by["verdict"].Result == OK) {
		t.Errorf("through: %v, verdict %+v", through, by["verdict"])
	}
	return order, by, len(d.tally.failed)
}

// The end of a hop's time is said once.
func TestWhyAHopFailed(t *testing.T) {
	late := errors.New("no answer within 15s")
	ctx, cancel := context.WithCancelCause(t.Context())
	for err, want := range map[error]string{late: "no answer within 15s", errors.New("i/o timeout"): "i/o timeout"} {
		if got := (&Doctor{}).failure(ctx, err).Text; got != want {
			t.Errorf("failed(%v) = %q, want %q", err, got, want)
		}
	}
	cancel(late)
	for err, want := range map[error]string{
		late: "no answer within 15s", fmt.Errorf("log in: %w", late): "log in: no answer within 15s",
		errors.New("i/o timeout"): "i/o timeout: no answer within 15s",
	} {
		if got := (&Doctor{}).failure(ctx, err).Text; got != want {
			t.Errorf("failed(%v) = %q, want %q", err, got, want)
		}
	}
}

func TestAHealthyWay(t *testing.T) {
	c := startCluster(t)
	address, certificate := startGateway(t, c, c.Resolver())
	order, by, failed := examine(t, func(d *Doctor) { d.Idle = 10 * time.Millisecond }, dialTo(t, address, certificate, "right"))
	want := []string{"name", "tcp", "tls", "credentials", "ws", "h3", "h2", "gateway", "ws pace", "h3 pace", "h2 pace", "bootstrap", "login", "metadata", "broker 0", "broker 1", "broker 2", "idle"}
	if !slices.Equal(order, want) {
		t.Errorf("hops = %q, want %q", order, want)
	}
	for hop, f := range by {
		if f.Result != OK || f.Text == "" {
			t.Errorf("%s: %s %q", hop, f.Result, f.Text)
		}
	}
	if failed != 0 {
		t.Errorf("%d failures", failed)
	}
	if f := by["metadata"]; !strings.Contains(f.Text, "2 at broker-2."+fakekafka.Domain) {
		t.Errorf("metadata: %q", f.Text)
	}
}

// wantStop examines a way that ends at a hop, with a text and a remedy.
func wantStop(t *testing.T, dial func(string) *tunnel.Dialer, hop, text, remedy string) {
	t.Helper()
	order, by, failed := examine(t, nil, dial)
	f := by[hop]
	if f.Result != Fail || !strings.Contains(f.Text, text) || !strings.Contains(f.Remedy, remedy) {
		t.Errorf("%s: %s %q, remedy %q; want %q and %q", hop, f.Result, f.Text, f.Remedy, text, remedy)
	}
	if failed == 0 || slices.Contains(order, "bootstrap") {
		t.Errorf("hops = %q, %d failures", order, failed)
	}
}

func TestWaysThatEnd(t *testing.T) {
	c := startCluster(t)
	address, certificate := startGateway(t, c, c.Resolver())
	login := door(t, http.RedirectHandler("https://login.example.com/", http.StatusFound))
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()

	wantStop(t, dialTo(t, "https://no-such-host.invalid", certificate, "right"), "name", "no-such-host.invalid", "--gateway-url")
	wantStop(t, dialTo(t, "https://"+closed.Addr().String(), certificate, "right"), "tcp", "refused", "nothing listens there: is the gateway or its ingress running, and is the port in --gateway-url right?")
	wantStop(t, dialTo(t, address, certificate, "wrong"), "ws", "unknown token", "--token-file")
	wantStop(t, dialTo(t, login.URL, login.Certificate(), "right"), "ws", "login.example.com", "credentials")
	withoutToken := dialTo(t, address, certificate, "right")
	wantStop(t, func(transport string) *tunnel.Dialer {
		d := withoutToken(transport)
		d.TLS = nil
		return d
	}, "tls", "unknown authority", "--gateway-ca-file")
	wantStop(t, func(transport string) *tunnel.Dialer {
		d := withoutToken(transport)
		d.Token = func() (string, error) { return "", errors.New("tokens.txt: no token in it") }
		return d
	}, "credentials", "no token in it", "")
}

// wise is an ingress that knows of one hop.
type wise struct{ hop string }

func (wise) Authorize(context.Context, http.Header) error          { return nil }
func (wise) Refused(http.Header, *tunnel.AnswerError) (again bool) { return false }

func (w wise) Remedy(hop string) string {
	if hop == w.hop {
		return "ask the ingress's provider"
	}
	return ""
}

// The ingress's own remedy stands in place of the general one, at the hop that it is for.
func TestTheIngressIsAskedForARemedy(t *testing.T) {
	c := startCluster(t)
	address, certificate := startGateway(t, c, c.Resolver())
	behind := func(w wise, address string) func(string) *tunnel.Dialer {
		dial := dialTo(t, address, certificate, "right")
		return func(transport string) *tunnel.Dialer {
			d := dial(transport)
			d.Ingress = w
			return d
		}
	}
	wantStop(t, behind(wise{"name"}, "https://no-such-host.invalid"), "name", "no-such-host.invalid", "ask the ingress's provider")
	wantStop(t, behind(wise{"tcp"}, "https://no-such-host.invalid"), "name", "no-such-host.invalid", "--gateway-url")
	if _, by, failed := examine(t, nil, behind(wise{"tcp"}, address)); failed > 0 || by["tcp"].Remedy != "" {
		t.Errorf("%d failures, remedy %q of a hop that has not failed", failed, by["tcp"].Remedy)
	}
}

// lost is a resolver that does not know one broker.
type lost struct {
	proxy.Resolver
	host string
}

func (l lost) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	if host == l.host {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return l.Resolver.LookupNetIP(ctx, network, host)
}

func TestABrokerThatTheGatewayCannotReach(t *testing.T) {
	c := startCluster(t)
	address, certificate := startGateway(t, c, lost{c.Resolver(), fakekafka.Host(2)})
	_, by, failed := examine(t, nil, dialTo(t, address, certificate, "right"))
	if f := by["broker 2"]; f.Result != Fail || !strings.Contains(f.Text, fakekafka.Host(2)) || !strings.Contains(f.Text, "no such host") {
		t.Errorf("broker 2: %+v", f)
	}
	if by["broker 0"].Result != OK || by["broker 1"].Result != OK || failed != 1 {
		t.Errorf("broker 0: %+v, broker 1: %+v, %d failures", by["broker 0"], by["broker 1"], failed)
	}
}

// Brokers that want a login are known once a client has been there. Without a client's settings it
// is not known whether clients get through, and that is not ok.
func TestBrokersThatWantALogin(t *testing.T) {
	c := startCluster(t, kfake.EnableSASL(), kfake.Superuser("PLAIN", "alice", "alice"))
	address, certificate := startGateway(t, c, c.Resolver())
	dial := dialTo(t, address, certificate, "right")
	order, by, failed := examine(t, nil, dial)
	if f := by["login"]; f.Result != Skip || !strings.Contains(f.Remedy, "--client-config") || slices.Contains(order, "broker 0") || failed != 0 {
		t.Errorf("login: %+v, hops %q", f, order)
	}
	if f := by["verdict"]; f.Result != Skip || !strings.Contains(f.Text, "not examined: the login, because there is no --client-config") {
		t.Errorf("verdict %+v", f)
	}

	with := func(user, password string) func(*Doctor) {
		return func(d *Doctor) { d.Client = loginBy(plain.Auth{User: user, Pass: password}.AsMechanism()) }
	}
	_, by, failed = examine(t, with("alice", "alice"), dial)
	if f := by["broker 2"]; f.Result != OK || !strings.Contains(f.Text, "accepts the login") || failed != 0 || by["verdict"].Result != OK {
		t.Errorf("broker 2: %+v, verdict %+v", f, by["verdict"])
	}
	_, by, _ = examine(t, with("alice", "wr0ng"), dial)
	if f := by["login"]; f.Result != Fail || !strings.Contains(f.Remedy, "--client-config") || strings.Contains(f.Text, "wr0ng") {
		t.Errorf("login: %+v", f)
	}
	if f := by["verdict"]; f.Result != Fail || !strings.Contains(f.Text, "the login is refused") {
		t.Errorf("verdict %+v", f)
	}
	if f := by["broker 2"]; f.Result != OK || !strings.Contains(f.Text, "answers") { // the gateway knows it from the client before
		t.Errorf("broker 2: %+v", f)
	}
}

func loginBy(m sasl.Mechanism) *clientconfig.Config {
	return &clientconfig.Config{Protocol: "SASL_PLAINTEXT", Mechanism: m.Name(), SASL: m}
}

// A login on one side only is a failure.
func TestLoginsThatDoNotFit(t *testing.T) {
	open, closed := startCluster(t), startCluster(t, kfake.EnableSASL(), kfake.Superuser("PLAIN", "alice", "alice"))
	for _, test := range []struct {
		cluster *fakekafka.Cluster
		client  *clientconfig.Config
		result  Result
		text    string
	}{
		{open, &clientconfig.Config{Protocol: "PLAINTEXT"}, OK, "require no login"},
		{open, loginBy(plain.Auth{}.AsMechanism()), Fail, "does not use SASL"},
		{closed, &clientconfig.Config{Protocol: "PLAINTEXT"}, Fail, "the client does not log in"},
		{closed, &clientconfig.Config{Protocol: "SASL_PLAINTEXT", Mechanism: "GSSAPI", Unsupported: []string{"no GSSAPI here"}}, Skip, "no GSSAPI here"},
		{closed, loginBy(oauth.Auth{Token: "x"}.AsMechanism()), Fail, "sasl.mechanism=OAUTHBEARER"},
	} {
		_, by, _ := found(t, func(d *Doctor) { d.Client = test.client }, func(d *Doctor) { d.Plain(t.Context(), test.cluster.Bootstrap()) })
		if f := by["login"]; f.Result != test.result || !strings.Contains(f.Text, test.text) {
			t.Errorf("login: %+v, want %s, %q", f, test.result, test.text)
		}
		if by["verdict"].Result == OK {
			t.Errorf("verdict %+v, and no broker can be reached", by["verdict"])
		}
	}
}

// What is no broker is called so, whatever it says.
func TestWhatIsNoBroker(t *testing.T) {
	for _, says := range []string{"HTTP/1.1 400 Bad Request\r\n\r\n", "\x00\x00\x00\x03", "\xff\xff\xff\xff\x00\x00\x00\x01", "\x00\x00\x00\x08\x00\x00\x00\x02zzzz", ""} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				c.Read(make([]byte, 100))
				c.Write([]byte(says))
				c.Close()
			}
		}()
		var found []Finding
		d := &Doctor{Names: flags, Report: func(f Finding) { found = append(found, f) }}
		d.Brokers(t.Context(), proxy.NewDirect(&proxy.Brokers{Bootstrap: []string{ln.Addr().String()}, Metrics: metrics.New(prometheus.NewRegistry(), metrics.Agent, "test")}), nil)
		ln.Close()
		if len(found) != 1 || found[0].Result != Fail || found[0].Remedy == "" {
			t.Errorf("%q: %+v", says, found)
		}
	}
}

// Who stops waiting for an idle connection has not seen it cut.
func TestAnIdleConnectionIsNotWaitedFor(t *testing.T) {
	c := startCluster(t)
	address, certificate := startGateway(t, c, c.Resolver())
	ctx, cancel := context.WithCancel(t.Context())
	var last atomic.Bool // as below
	c.ControlKey(int16(kmsg.ApiVersions), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if last.Load() {
			time.AfterFunc(500*time.Millisecond, cancel)
		}
		return nil, nil, false
	})
	var found Finding
	d := &Doctor{Idle: time.Minute, Report: func(f Finding) {
		found = f
		last.Store(f.Hop == "broker 2")
	}}
	d.Gateway(ctx, dialTo(t, address, certificate, "right"), []string{tunnel.TransportWS})
	if found.Hop != "idle" || found.Result != Info || !strings.Contains(found.Text, "interrupted") {
		t.Errorf("found %+v", found)
	}
}

// An idle connection that something cuts.
func TestAnIdleConnectionIsCut(t *testing.T) {
	c := startCluster(t)
	address, certificate := startGateway(t, c, c.Resolver())
	var last atomic.Bool // what is asked now is asked of the idle connection
	c.ControlKey(int16(kmsg.ApiVersions), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if last.Load() {
			time.AfterFunc(500*time.Millisecond, c.Close) // behind the answer
		}
		return nil, nil, false
	})
	var found Finding
	d := &Doctor{Idle: time.Minute, Report: func(f Finding) {
		found = f
		last.Store(f.Hop == "broker 2")
	}}
	d.Gateway(t.Context(), dialTo(t, address, certificate, "right"), []string{tunnel.TransportWS})
	if found.Hop != "idle" || found.Result != Warn || !strings.Contains(found.Text, "cut") {
		t.Errorf("found %+v", found)
	}
}
