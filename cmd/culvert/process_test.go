package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/culvert-proxy/culvert/proxy/status/document"
)

const (
	readyTimeout = 20 * time.Second // of a process on a busy machine
	stopTimeout  = 30 * time.Second // longer than the default of --drain-timeout
)

// The lines that an end prints when its sockets are open, and when a broker has answered it.
var (
	listeningLine = regexp.MustCompile(`culvert \w+ listening\b`)
	readyLine     = regexp.MustCompile(`culvert \w+ ready: `)
)

// process is a culvert that a test has started.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	open chan string // the line with listening, then closed with stderr
	said chan string // the line with ready, then closed with stderr
	done chan struct{}

	mu     sync.Mutex
	stderr strings.Builder
}

// start starts culvert with its own home directory. It is killed when the test ends.
func start(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command("culvert", args...), open: make(chan string, 1), said: make(chan string, 1), done: make(chan struct{})}
	home := t.TempDir()
	p.cmd.Env = append(os.Environ(), "HOME="+home, "XDG_CACHE_HOME="+home, "LocalAppData="+home)
	pipe, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go p.listen(pipe)
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-p.done
		if t.Failed() {
			t.Logf("culvert %s said:\n%s", args[0], p.text())
		}
	})
	return p
}

// listen collects stderr until the process has ended.
func (p *process) listen(pipe io.Reader) {
	defer close(p.done)
	for lines := bufio.NewScanner(pipe); lines.Scan(); {
		p.mu.Lock()
		p.stderr.WriteString(lines.Text() + "\n")
		p.mu.Unlock()
		for line, seen := range map[*regexp.Regexp]chan string{listeningLine: p.open, readyLine: p.said} {
			if !line.MatchString(lines.Text()) {
				continue
			}
			select {
			case seen <- lines.Text():
			default: // a second one: the test counts them
			}
		}
	}
	close(p.open)
	close(p.said)
	p.cmd.Wait()
}

func (p *process) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stderr.String()
}

// says waits for a line that matches pattern.
func (p *process) says(pattern string) {
	p.t.Helper()
	line := regexp.MustCompile(pattern)
	for deadline := time.After(readyTimeout); !line.MatchString(p.text()); {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-deadline:
			p.t.Fatalf("culvert did not say %q: %s", pattern, p.text())
		}
	}
}

// listening waits for the line with "listening".
func (p *process) listening() string {
	p.t.Helper()
	return p.await("listening", p.open)
}

// ready waits for the line with "ready".
func (p *process) ready() string {
	p.t.Helper()
	return p.await("ready", p.said)
}

func (p *process) await(what string, line <-chan string) string {
	p.t.Helper()
	select {
	case line, ok := <-line:
		if ok {
			return line
		}
		p.t.Fatalf("culvert ended before it was %s: %s", what, p.text())
	case <-time.After(readyTimeout):
		p.t.Fatalf("culvert is not %s after %v: %s", what, readyTimeout, p.text())
	}
	return ""
}

// ended waits until the process has ended, and returns its exit code.
func (p *process) ended() int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(stopTimeout):
		p.t.Fatalf("culvert has not ended after %v: %s", stopTimeout, p.text())
	}
	return p.cmd.ProcessState.ExitCode()
}

// stop sends SIGTERM and returns the exit code.
func (p *process) stop() int {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	return p.ended()
}

func needSignals(t *testing.T) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("a process cannot be sent signals here")
	}
}

// find returns the first group of pattern in line.
func find(t *testing.T, pattern, line string) string {
	t.Helper()
	m := regexp.MustCompile(pattern).FindStringSubmatch(line)
	if m == nil {
		t.Fatalf("%q does not match %q", line, pattern)
	}
	return m[1]
}

// freePort returns a port for the first broker of an agent. It and the eight ports after it are
// free on loopback, and no other test takes them until this one ends: port+9 over UDP marks them as
// taken, as in the tests of package proxy. The ports are below the range from which systems choose
// ports of outgoing connections.
func freePort(t *testing.T) string {
	t.Helper()
	for range 100 {
		base := 11000 + 10*mathrand.IntN(2000)
		mark, err := net.ListenPacket("udp", net.JoinHostPort("127.0.0.1", strconv.Itoa(base+9)))
		if err != nil {
			continue
		}
		if got, err := freeRange("127.0.0.1", base, 9, noPort); err == nil && got == base {
			t.Cleanup(func() { mark.Close() })
			return strconv.Itoa(base)
		}
		mark.Close()
	}
	t.Fatal("no nine free ports in a row")
	return ""
}

func write(t *testing.T, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// certificate makes a self-signed certificate for 127.0.0.1, and returns the names of its files.
func certificate(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "gateway"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return write(t, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}))),
		write(t, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
}

// cluster starts one broker and returns its address.
func cluster(t *testing.T, opts ...kfake.Opt) string {
	t.Helper()
	c, err := kfake.NewCluster(append(opts, kfake.NumBrokers(1), kfake.SeedTopics(1, "records"))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c.ListenAddrs()[0]
}

// roundTrip produces a record through bootstrap and consumes it again.
func roundTrip(t *testing.T, bootstrap string, opts ...kgo.Opt) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), readyTimeout)
	defer cancel()
	client, err := kgo.NewClient(append(opts, kgo.SeedBrokers(bootstrap), kgo.ConsumeTopics("records"), kgo.DefaultProduceTopic("records"))...)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.ProduceSync(ctx, kgo.StringRecord("hello")).FirstErr(); err != nil {
		t.Fatal(err)
	}
	fetches := client.PollFetches(ctx)
	if err := fetches.Err(); err != nil {
		t.Fatal(err)
	}
	if got := string(fetches.Records()[0].Value); got != "hello" {
		t.Errorf("consumed %q, want hello", got)
	}
}

// get sends a GET request to the admin listener.
func get(t *testing.T, url string) (code int, body string) {
	t.Helper()
	response, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	b, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(b)
}

const agentLine = `^culvert agent listening: bootstrap (127\.0\.0\.1:\d+), brokers from port \d+, .+, admin http://127\.0\.0\.1:\d+$`

func TestRecordsPassBothEndsAndSIGTERMEndsThemCleanly(t *testing.T) {
	needSignals(t)
	broker := cluster(t)
	cert, key := certificate(t)
	for _, transport := range []string{"ws", "h3", "h2", "auto"} {
		t.Run(transport, func(t *testing.T) {
			tokens := write(t, "laptop=0123456789abcdef\n")
			gateway := start(t, "gateway", "--bootstrap", broker, "--token-file", tokens, "--listen", "127.0.0.1:0",
				"--tls-cert-file", cert, "--tls-key-file", key, "--admin-listen", "127.0.0.1:0")
			line := gateway.listening()
			address := find(t, `^culvert gateway listening on (127\.0\.0\.1:\d+) \(h3, ws, h2\), bootstrap 127\.0\.0\.1:\d+, admin http://`, line)
			gatewayAdmin := find(t, `admin (http://\S+)$`, line)
			find(t, `^(culvert gateway ready: the broker at `+regexp.QuoteMeta(broker)+` answered in \S+s)$`, gateway.ready())

			base := freePort(t)
			agent := start(t, "agent", "--gateway-url", "https://"+address, "--gateway-ca-file", cert, "--token-file", tokens,
				"--transport", transport, "--listen", "127.0.0.1:0", "--broker-port-base", base, "--admin-listen", "127.0.0.1:0")
			line = agent.listening()
			uses := transport
			if transport == "auto" {
				uses = "h3"
			}
			find(t, `^culvert agent ready: (cluster \S+, broker 0 at 127\.0\.0\.1:`+base+`, over `+uses+`, round trip \S+s)$`, agent.ready())
			roundTrip(t, find(t, agentLine, line))

			agentAdmin := find(t, `admin (http://\S+)$`, line)
			for _, admin := range []string{agentAdmin, gatewayAdmin} {
				if code, body := get(t, admin+"/readyz"); code != http.StatusOK {
					t.Errorf("%s/readyz: %d %s", admin, code, body)
				}
				if _, body := get(t, admin+"/metrics"); !strings.Contains(body, `culvert_requests_total{api_key="Produce"} `) {
					t.Errorf("%s/metrics counts no Produce", admin)
				}
			}
			if _, body := get(t, agentAdmin+"/metrics"); !regexp.MustCompile(`culvert_tunnel_dials_total{result="ok",transport="\w+"} [1-9]`).MatchString(body) {
				t.Error("the agent counts no dial of the gateway")
			}
			if d := statusOf(t, agentAdmin); len(d.Tunnels) != 1 || d.Tunnels[0].Gateway != "https://"+address || d.Tunnels[0].Transport != uses {
				t.Errorf("tunnels %+v, want one to https://%s over %s", d.Tunnels, address, uses)
			}
			checkStatus(t, agentAdmin, document.Agent, "--gateway-url certificate", "--token-file token", "--gateway-ca-file ca")
			checkStatus(t, gatewayAdmin, document.Gateway, "--token-file token", "--tls-cert-file certificate")
			for name, p := range map[string]*process{"agent": agent, "gateway": gateway} {
				if code := p.stop(); code != 0 {
					t.Errorf("%s ended with %d after SIGTERM, want 0", name, code)
				}
				for _, line := range []*regexp.Regexp{listeningLine, readyLine} {
					if n := len(line.FindAllString(p.text(), -1)); n != 1 {
						t.Errorf("%s said %q %d times, want once:\n%s", name, line, n, p.text())
					}
				}
				if strings.Contains(p.text(), "0123456789abcdef") {
					t.Errorf("%s showed the token:\n%s", name, p.text())
				}
			}
		})
	}
}

func TestWithoutATunnelTheAgentDialsTheBrokers(t *testing.T) {
	agent := start(t, "agent", "--gateway-url", "tcp://"+cluster(t), "--listen", "127.0.0.1:0",
		"--broker-port-base", freePort(t), "--admin-listen", "127.0.0.1:0")
	roundTrip(t, find(t, agentLine, agent.listening()))
}

// One certificate, for 127.0.0.1, is presented and trusted on each hop, in both directions where a
// client certificate can be required.
func TestEachHopIsTLSWithItsOwnFiles(t *testing.T) {
	needSignals(t)
	cert, key := certificate(t)
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(pair.Leaf)
	broker := cluster(t, kfake.TLS(&tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: roots}))
	toBrokers := []string{"--broker-tls", "--broker-ca-file", cert, "--broker-cert-file", cert, "--broker-key-file", key}
	toClients := []string{
		"--listen", "127.0.0.1:0", "--broker-port-base", freePort(t), "--admin-listen", "none",
		"--listen-tls-cert-file", cert, "--listen-tls-key-file", key, "--listen-client-ca-file", cert,
	}
	client := kgo.DialTLSConfig(&tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots})

	direct := start(t, slices.Concat([]string{"agent", "--gateway-url", "tcp://" + broker}, toBrokers, toClients)...)
	roundTrip(t, find(t, `bootstrap (127\.0\.0\.1:\d+)`, direct.listening()), client)
	direct.stop()

	gateway := start(t, slices.Concat([]string{"gateway", "--bootstrap", broker, "--listen", "127.0.0.1:0", "--admin-listen", "none",
		"--tls-cert-file", cert, "--tls-key-file", key, "--client-ca-file", cert}, toBrokers)...)
	url := "https://" + find(t, `listening on (127\.0\.0\.1:\d+)`, gateway.listening())
	for _, transport := range []string{"ws", "h3", "h2"} {
		agent := start(t, slices.Concat([]string{"agent", "--gateway-url", url, "--transport", transport, "--gateway-ca-file", cert,
			"--gateway-cert-file", cert, "--gateway-key-file", key}, toClients)...)
		roundTrip(t, find(t, `bootstrap (127\.0\.0\.1:\d+)`, agent.listening()), client)
		agent.stop()
	}
	anonymous := start(t, slices.Concat([]string{"agent", "--gateway-url", url, "--gateway-ca-file", cert}, toClients)...)
	anonymous.says("no client certificate: give the agent --gateway-cert-file")
}

// On loopback, where kubectl port-forward listens, no TLS is needed. There is no h3 then, and no
// time is lost with it.
func TestOverLoopbackAGatewayWithoutTLSIsReached(t *testing.T) {
	tokens, token := write(t, "laptop=0123456789abcdef0123456789abcdef\n"), write(t, "0123456789abcdef0123456789abcdef")
	gateway := start(t, "gateway", "--bootstrap", cluster(t), "--listen", "127.0.0.1:0", "--admin-listen", "none", "--token-file", tokens)
	url := "http://" + find(t, `listening on (127\.0\.0\.1:\d+)`, gateway.listening())
	for transport, over := range map[string]string{"auto": "ws", "ws": "ws", "h2": "h2"} {
		agent := start(t, "agent", "--gateway-url", url, "--transport", transport, "--token-file", token,
			"--listen", "127.0.0.1:0", "--broker-port-base", freePort(t), "--admin-listen", "none", "--state-file", "none")
		roundTrip(t, find(t, `bootstrap (127\.0\.0\.1:\d+)`, agent.listening()))
		if got := find(t, `, over (\w+),`, agent.ready()); got != over {
			t.Errorf("--transport %s went over %s, want %s", transport, got, over)
		}
		if strings.Contains(agent.text(), "h3") {
			t.Errorf("--transport %s tried h3:\n%s", transport, agent.text())
		}
		agent.stop()
	}
}

// The certificates of these tests end within the hour.
func TestCertificatesThatEndAreSaidAtTheStart(t *testing.T) {
	cert, key := certificate(t)
	for end, args := range map[string][]string{
		"gateway": {"--bootstrap", "127.0.0.1:1", "--insecure-no-auth", "--listen", "127.0.0.1:0", "--tls-cert-file", cert, "--tls-key-file", key},
		"agent": {"--gateway-url", "https://127.0.0.1:1", "--listen", "127.0.0.1:0", "--broker-port-base", freePort(t),
			"--gateway-cert-file", cert, "--gateway-key-file", key, "--listen-tls-cert-file", cert, "--listen-tls-key-file", key},
	} {
		p := start(t, append(append([]string{end}, args...), "--admin-listen", "none", "--log-format", "text")...)
		p.listening()
		for _, flag := range []string{"--tls-cert-file", "--gateway-cert-file", "--listen-tls-cert-file"} {
			said := regexp.MustCompile(`level=WARN msg="certificate expires within a week" hint="put a new certificate .*" err="` + flag + ` `).MatchString(p.text())
			if want := slices.Contains(args, flag); said != want {
				t.Errorf("the %s says that the certificate of %s ends: %v, want %v:\n%s", end, flag, said, want, p.text())
			}
		}
	}
}

func TestATakenPortGetsAHintThatFindsItsProcess(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	taken := ln.Addr().String()
	_, port, _ := net.SplitHostPort(taken)
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	// The taken port is below those of the brokers, among which it would be refused for another
	// reason.
	agent := []string{"agent", "--gateway-url", "https://127.0.0.1:1", "--broker-port-base", strconv.Itoa(n + 1)}
	gateway := []string{"gateway", "--bootstrap", "127.0.0.1:1", "--insecure-no-auth"}
	for _, test := range []struct {
		args []string
		flag string
	}{
		{append(agent, "--listen", taken, "--admin-listen", "none"), "--listen"},
		{append(agent, "--listen", "127.0.0.1:0", "--admin-listen", taken), "--admin-listen"},
		{append(gateway, "--listen", taken, "--admin-listen", "none"), "--listen"},
		{append(gateway, "--listen", "127.0.0.1:0", "--admin-listen", taken), "--admin-listen"},
	} {
		p := start(t, test.args...)
		if code := p.ended(); code != 1 {
			t.Errorf("%q ended with %d, want 1", test.args, code)
		}
		for _, want := range []string{
			fmt.Sprintf("culvert: error: listen on %s: %v\n", taken, syscall.EADDRINUSE),
			fmt.Sprintf("culvert: hint: choose another address with %s, or find out what uses the port: %s\n", test.flag, showListeners(taken)),
		} {
			if !strings.Contains(p.text(), want) {
				t.Errorf("%q on port %s said\n%swant %q", test.args, port, p.text(), want)
			}
		}
	}
}

// A log record has a hint, as errors of the command line have.
func TestAnAnswerThatIsNotAGatewaysIsLoggedWithAHint(t *testing.T) {
	page := httptest.NewTLSServer(http.NotFoundHandler())
	defer page.Close()
	ca := write(t, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: page.Certificate().Raw})))
	for what, args := range map[string][]string{
		"self-signed": {"--transport", "ws"},
		"no gateway":  {"--transport", "ws", "--gateway-ca-file", ca},
	} {
		t.Run(what, func(t *testing.T) {
			agent := start(t, append([]string{"agent", "--gateway-url", page.URL, "--listen", "127.0.0.1:0",
				"--broker-port-base", freePort(t), "--admin-listen", "127.0.0.1:0", "--log-format", "text"}, args...)...)
			line := agent.listening()
			agent.says(`level=WARN .* hint=".+" err=".+"`)
			if code, body := get(t, find(t, `admin (http://\S+)$`, line)+"/readyz"); code != http.StatusServiceUnavailable {
				t.Errorf("/readyz: %d %s", code, body)
			}
		})
	}
}

func TestBeyondLoopbackTheAgentWarnsThatAllUseItsCredentials(t *testing.T) {
	agent := start(t, "agent", "--gateway-url", "https://127.0.0.1:1", "--listen", "0.0.0.0:0=kafka.local",
		"--broker-port-base", freePort(t), "--admin-listen", "none")
	agent.says(`"level":"WARN".*uses this agent's credentials`)
}

func TestTheSecondSignalDoesNotWaitForClients(t *testing.T) {
	needSignals(t)
	agent := start(t, "agent", "--gateway-url", "tcp://"+cluster(t), "--listen", "127.0.0.1:0",
		"--broker-port-base", freePort(t), "--admin-listen", "127.0.0.1:0")
	line := agent.listening()
	admin := find(t, `admin (http://\S+)$`, line)
	client, err := kgo.NewClient(kgo.SeedBrokers(find(t, agentLine, line)), kgo.ConsumeTopics("records"),
		kgo.FetchMaxWait(stopTimeout), kgo.FetchMinBytes(1<<20))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for fetching := false; !fetching; {
		_, body := get(t, admin+"/metrics")
		fetching = strings.Contains(body, `culvert_requests_total{api_key="Fetch"} 1`)
	}
	for _, s := range []os.Signal{syscall.SIGTERM, os.Interrupt} {
		select {
		case <-agent.done:
			t.Fatal("the agent did not wait for a request in flight")
		case <-time.After(signalEcho + 100*time.Millisecond):
		}
		if err := agent.cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
	}
	start := time.Now()
	if code := agent.ended(); code != 1 || time.Since(start) > stopTimeout/2 {
		t.Errorf("ended with %d after %v, want 1 at once", code, time.Since(start))
	}
}

func TestAnEchoedSignalIsNotASecondOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		signals, done := make(chan os.Signal), make(chan struct{})
		var acts []string
		go func() {
			defer close(done)
			awaitSignals(signals, nil, func(cause error) { acts = append(acts, cause.Error()) }, func() { acts = append(acts, "exit") })
		}()
		signals <- syscall.SIGTERM
		time.Sleep(signalEcho - 1)
		signals <- syscall.SIGTERM
		time.Sleep(2 * time.Nanosecond)
		signals <- os.Interrupt
		<-done
		if got := strings.Join(acts, ", "); got != "stopped by a signal, exit" {
			t.Errorf("a signal, its echo and another one did %q", got)
		}
	})
}

func TestAwaitSignalsReturnsWhenDone(t *testing.T) {
	done := make(chan struct{})
	close(done)
	awaitSignals(nil, done, nil, nil)
}

// checkStatus checks what only the command adds to a document: the build, the admin listener, the
// credentials with their kinds, and the end of each certificate. No secret is in it.
func checkStatus(t *testing.T, admin, end string, credentials ...string) {
	t.Helper()
	d := statusOf(t, admin)
	if d.End != end || d.Version != document.Version || d.State.Name != document.Ready || d.Build.Version == "" || d.Uptime <= 0 || d.Started.IsZero() {
		t.Errorf("%s: %+v %+v, up for %v s", d.End, d.State, d.Build, d.Uptime)
	}
	if last := d.Listeners[len(d.Listeners)-1]; last.Name != "admin" || "http://"+last.Address != admin {
		t.Errorf("%s: listeners %+v, want %s among them", d.End, d.Listeners, admin)
	}
	var shown []string
	for _, c := range d.Credentials {
		shown = append(shown, c.Setting+" "+c.Kind)
		if (c.Loaded.IsZero() || c.Age <= 0) != (c.Setting == "--gateway-url") || c.Error != "" || (c.Kind == "certificate") != (c.Left > 0) {
			t.Errorf("%s: %+v", d.End, c)
		}
	}
	if !slices.Equal(shown, credentials) {
		t.Errorf("%s: credentials %q, want %q", d.End, shown, credentials)
	}
	if _, body := get(t, admin+"/status"); strings.Contains(body, "0123456789abcdef") {
		t.Errorf("%s shows the token", d.End)
	}
}

// statusOf returns the status document of a process.
func statusOf(t *testing.T, admin string) (d document.Document) {
	t.Helper()
	code, body := get(t, admin+"/status")
	if err := json.Unmarshal([]byte(body), &d); code != http.StatusOK || err != nil {
		t.Fatalf("/status: %d %v %s", code, err, body)
	}
	return d
}
