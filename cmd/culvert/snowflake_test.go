package main

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvert-proxy/culvert/proxy/snowflake"
	"github.com/culvert-proxy/culvert/proxy/snowflake/standin"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

const (
	snowflakeEndpoint = "ab1cd-myorg-my-account.snowflakecomputing.app"
	snowflakeAccount  = "myorg-my-account.snowflakecomputing.com"
	snowflakeUser     = "KAFKA_USER"
)

// A snow is Snowflake as a corporate network sees it: everything leads through a proxy, which is
// the only one to know its names.
type snow struct {
	account *standin.Account
	key     *rsa.PrivateKey
	keyFile string // encrypted
	ca      string // path of the trusted CAs
	proxy   string

	mu        sync.Mutex
	connected []string // by the proxy
	posted    []string // to /oauth/token: the bodies
}

func newSnow(t *testing.T, gateway string) *snow {
	s := &snow{account: &standin.Account{Host: snowflakeAccount, Names: []string{"MYORG-MY_ACCOUNT"}}}
	s.keyFile = "../../proxy/snowflake/testdata/aes256.p8"
	content, err := os.ReadFile(s.keyFile)
	if err != nil {
		t.Fatal(err)
	}
	if s.key, err = snowflake.ParsePrivateKey(content, []byte("what opens culverts")); err != nil {
		t.Fatal(err)
	}
	s.register(&s.key.PublicKey)
	door := &standin.Ingress{Account: s.account, Services: []*standin.Service{{
		Hosts: []string{snowflakeEndpoint}, Roles: []string{"Kafka"}, Instances: []standin.Instance{{Address: gateway}},
	}}}
	names := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/oauth/token" {
			body, _ := io.ReadAll(r.Body)
			s.mu.Lock()
			s.posted = append(s.posted, string(body))
			s.mu.Unlock()
			r.Body = io.NopCloser(bytes.NewReader(body))
		}
		door.ServeHTTP(w, r)
	}))
	cert, key := certificateFor(t, snowflakeEndpoint, snowflakeAccount)
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	names.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	names.StartTLS()
	t.Cleanup(names.Close)
	s.ca = cert
	s.proxy = s.startProxy(t, names.Listener.Addr().String())
	return s
}

// register has the account know a key of the user's, and no other.
func (s *snow) register(key *rsa.PublicKey) {
	u := standin.User{Name: snowflakeUser, Roles: []string{"Kafka"}}
	if key != nil {
		u.Keys = []*rsa.PublicKey{key}
	}
	s.account.SetUser(u)
}

// startProxy starts a proxy that connects everything to address.
func (s *snow) startProxy(t *testing.T, address string) string {
	var relays sync.WaitGroup
	ctx, stop := context.WithCancel(context.Background())
	p := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		relays.Add(1) // the server does not wait for who hijacks
		defer relays.Done()
		s.mu.Lock()
		s.connected = append(s.connected, r.Method+" "+r.Host)
		s.mu.Unlock()
		far, err := net.Dial("tcp", address)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		near, _, _ := http.NewResponseController(w).Hijack()
		io.WriteString(near, "HTTP/1.1 200 OK\r\n\r\n")
		context.AfterFunc(ctx, func() { near.Close(); far.Close() })
		for _, ends := range [][2]net.Conn{{near, far}, {far, near}} {
			relays.Go(func() {
				io.Copy(ends[0], ends[1])
				ends[0].Close()
			})
		}
	}))
	t.Cleanup(func() {
		stop()
		p.Close()
		relays.Wait()
	})
	return p.URL
}

func (s *snow) seen() (connected, posted []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.connected), slices.Clone(s.posted)
}

// certificateFor is certificate for some names.
func certificateFor(t *testing.T, names ...string) (certFile, keyFile string) {
	t.Helper()
	cert, key := certificate(t)
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	template := *pair.Leaf
	template.DNSNames = names
	der, err := x509.CreateCertificate(nil, &template, &template, pair.Leaf.PublicKey, pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return write(t, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))), key
}

// The whole way as a user has it: a key with a passphrase, Snowflake's own names, a proxy, and a CA
// of the company's. Then the key is taken away, and given back.
func TestAKeyLeadsThroughSnowflakesIngress(t *testing.T) {
	tokens := write(t, "laptop=0123456789abcdef\n")
	gateway := start(t, "gateway", "--bootstrap", cluster(t), "--token-file", tokens, "--listen", "127.0.0.1:0", "--admin-listen", "none",
		"--allow-user", snowflakeUser)
	s := newSnow(t, find(t, `listening on (127\.0\.0\.1:\d+)`, gateway.listening()))
	t.Setenv("HTTPS_PROXY", s.proxy)
	t.Setenv("NO_PROXY", "")
	s.register(nil)
	const passphrase = "what opens culverts"
	flags := []string{
		"agent", "--gateway-url", "https://" + snowflakeEndpoint, "--gateway-ca-file", s.ca, "--token-file", tokens,
		"--snowflake-private-key-file", s.keyFile, "--snowflake-private-key-passphrase-file", write(t, passphrase+"\n"),
		"--snowflake-account", "MYORG.MY_ACCOUNT", "--snowflake-user", "kafka_user", "--snowflake-role", "Kafka",
		"--listen", "127.0.0.1:0", "--broker-port-base", freePort(t), "--admin-listen", "127.0.0.1:0", "--log-level", "debug", "--log-format", "text",
	}
	agent := start(t, flags...)
	line := agent.listening()
	bootstrap, admin := find(t, `bootstrap (127\.0\.0\.1:\d+)`, line), find(t, `admin (http://\S+)$`, line)

	// The key is not registered yet: said with its fingerprint, and waited for.
	agent.says(`level=WARN .*SHOW USER KEY PAIRS FOR USER kafka_user; must list the fingerprint ` + regexp.QuoteMeta(snowflake.Fingerprint(s.key)) + ` as ACTIVE.*the key is not accepted `)
	if c, err := net.DialTimeout("tcp", bootstrap, readyTimeout); err != nil {
		t.Errorf("the agent does not listen any more: %v", err)
	} else {
		c.Close()
	}
	s.register(&s.key.PublicKey)
	await(t, "the key to be tried again", func() bool { code, _ := get(t, admin+"/readyz"); return code == http.StatusOK })
	roundTrip(t, bootstrap)

	_, shown := get(t, admin+"/metrics")
	for _, want := range []string{
		`culvert_snowflake_logins_total{gateway="` + snowflakeEndpoint + `",result="ok"} 1`,
		`culvert_snowflake_token_expiry_timestamp_seconds{gateway="` + snowflakeEndpoint + `"} `,
	} {
		if !strings.Contains(shown, want) {
			t.Errorf("/metrics has no %s", want)
		}
	}
	connected, posted := s.seen()
	for _, want := range []string{"CONNECT " + snowflakeAccount + ":443", "CONNECT " + snowflakeEndpoint + ":443"} {
		if !slices.Contains(connected, want) {
			t.Errorf("the proxy saw %q, and no %s", connected, want)
		}
	}
	if len(posted) < 2 || len(posted) > 5 {
		t.Errorf("%d logins", len(posted))
	}
	for _, path := range []string{"/status", "/readyz"} {
		_, body := get(t, admin+path)
		shown += body
	}
	config, err := exec.Command("culvert", append([]string{"config"}, flags...)...).CombinedOutput()
	if err != nil {
		t.Errorf("culvert config: %v: %s", err, config)
	}
	shown += string(config) + agent.text() + gateway.text()
	secrets := []string{passphrase, "-----BEGIN", "0123456789abcdef", "eyJ", "assertion", "Token="}
	for _, secret := range secrets {
		if strings.Contains(shown, secret) {
			t.Errorf("%s is in a log, the metrics or the configuration", secret)
		}
	}
	if !strings.Contains(agent.text(), "level=DEBUG") {
		t.Error("the log is not as chatty as it can be")
	}
}

// The doctor says what to look at when Snowflake does not accept a key, as after it has expired.
func TestTheDoctorNamesAUsersKeys(t *testing.T) {
	s := newSnow(t, "127.0.0.1:1") // no request gets that far
	t.Setenv("HTTPS_PROXY", s.proxy)
	t.Setenv("NO_PROXY", "")
	s.register(nil)
	out, err := exec.Command("culvert", "doctor", "--gateway-url", "https://"+snowflakeEndpoint, "--gateway-ca-file", s.ca,
		"--token-file", write(t, "laptop=0123456789abcdef\n"),
		"--snowflake-private-key-file", s.keyFile, "--snowflake-private-key-passphrase-file", write(t, "what opens culverts\n"),
		"--snowflake-account", "MYORG.MY_ACCOUNT", "--snowflake-user", "kafka_user", "--listen", "127.0.0.1:"+freePort(t)).CombinedOutput()
	if err == nil {
		t.Error("the doctor found no fault")
	}
	shown := strings.Join(strings.Fields(string(out)), " ") // it wraps lines
	for _, want := range []string{
		"SHOW USER KEY PAIRS FOR USER kafka_user; must list the fingerprint " + snowflake.Fingerprint(s.key) + " as ACTIVE",
		"if the key is not there, or EXPIRED, ALTER USER kafka_user ADD KEY PAIR <name> PUBLIC_KEY = '…';",
	} {
		if !strings.Contains(shown, want) {
			t.Errorf("the doctor does not say %q:\n%s", want, out)
		}
	}
}

// A new PAT is used as soon as it is in the file.
func TestANewPATIsUsedAtOnce(t *testing.T) {
	tokens := write(t, "laptop=0123456789abcdef\n")
	gateway := start(t, "gateway", "--bootstrap", cluster(t), "--token-file", tokens, "--listen", "127.0.0.1:0", "--admin-listen", "none")
	s := newSnow(t, find(t, `listening on (127\.0\.0\.1:\d+)`, gateway.listening()))
	t.Setenv("HTTPS_PROXY", s.proxy)
	t.Setenv("NO_PROXY", "")
	pat := write(t, "pat-that-has-been-revoked\n")
	agent := start(t, "agent", "--gateway-url", "https://"+snowflakeEndpoint, "--gateway-ca-file", s.ca, "--token-file", tokens,
		"--snowflake-pat-file", pat, "--listen", "127.0.0.1:0", "--broker-port-base", freePort(t), "--admin-listen", "127.0.0.1:0",
		"--log-level", "debug", "--log-format", "text")
	line := agent.listening()
	agent.says(`level=WARN .*SHOW USER PROGRAMMATIC ACCESS TOKENS.*the Snowflake ingress does not accept the programmatic access token \(401 Unauthorized, ERROR_INVALID_TOKEN, .*request id `)
	fresh := s.account.NewPAT(snowflakeUser, "Kafka", time.Hour)
	if err := os.WriteFile(pat, []byte(fresh), 0o600); err != nil {
		t.Fatal(err)
	}
	admin := find(t, `admin (http://\S+)$`, line)
	await(t, "the new token to be used", func() bool { code, _ := get(t, admin+"/readyz"); return code == http.StatusOK })
	roundTrip(t, find(t, `bootstrap (127\.0\.0\.1:\d+)`, line))
	if text := agent.text(); strings.Contains(text, fresh) || strings.Contains(text, "pat-that-has-been") {
		t.Errorf("the token is in the log:\n%s", text)
	}
	if _, posted := s.seen(); len(posted) > 0 {
		t.Errorf("%d logins", len(posted))
	}
}

// Who gives credentials for Snowflake's ingress to other hosts is told, at the start.
func TestTheAgentWarnsOfCredentialsForOtherHosts(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1") // no name is looked up
	t.Setenv("NO_PROXY", "")
	const warning = `level=WARN msg="credentials for a provider's ingress are sent to a host that is not known to be the provider's" provider=Snowflake host=`
	snowflakes := "https://" + snowflakeEndpoint
	for _, test := range []struct {
		gateways []string
		warned   []string
	}{
		{[]string{"https://kafka.example.com/prefix", "https://10.1.2.3:8443"}, []string{"kafka.example.com", "10.1.2.3"}},
		{[]string{"https://kafka.example.com", "https://127.0.0.1:8443", "https://localhost:8443"}, []string{"kafka.example.com"}},
		{[]string{snowflakes, "https://kafka.example.com"}, nil}, // who gets none
		{[]string{snowflakes}, nil},
		{[]string{"https://127.0.0.1:8443"}, nil},
	} {
		flags := []string{"agent", "--snowflake-pat-file", write(t, "a-token-for-the-ingress"), "--listen", "127.0.0.1:0", "--broker-port-base", freePort(t),
			"--admin-listen", "none", "--log-format", "text"}
		for _, gateway := range test.gateways {
			flags = append(flags, "--gateway-url", gateway)
		}
		agent := start(t, flags...)
		agent.listening()
		for _, host := range test.warned {
			agent.says(regexp.QuoteMeta(warning+host) + `(\s|$)`)
		}
		if n := strings.Count(agent.text(), warning); n != len(test.warned) {
			t.Errorf("to %s: warned of %d hosts, want %d", test.gateways, n, len(test.warned))
		}
	}
}

// With credentials or without, auto begins with WebSockets at Snowflake's hosts, and with h3
// elsewhere, as at a PrivateLink of any name.
func TestAutoBeginsWithWebSocketsAtSnowflakesHosts(t *testing.T) {
	for _, pat := range []string{"", write(t, "a-token-for-the-ingress")} {
		f := &agentFlags{
			GatewayURL: []string{"https://" + snowflakeEndpoint, "https://AB1CD.Snowflake.App.", "https://kafka.example.com"},
			Listen:     []string{"127.0.0.1:0"}, BrokerPortBase: 19092, Transport: tunnel.TransportAuto, Carriers: 1, AdminListen: "none",
			providerFlags: providerFlags{Snowflake: snowflakeFlags{SnowflakePATFile: pat}},
		}
		p, err := f.check()
		if err != nil {
			t.Fatal(err)
		}
		defer p.close()
		dialers, err := f.dialers(p, nil, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range [][]string{{"h3", "h2"}, {"h3", "h2"}, nil} {
			if got := dialers[i].Unlikely; !slices.Equal(got, want) {
				t.Errorf("PAT in %q: %s is not expected to work at %s, want %s", pat, got, dialers[i].URL, want)
			}
		}
	}
}
