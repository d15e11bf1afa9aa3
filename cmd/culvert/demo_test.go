package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"github.com/culvert-proxy/culvert/proxy"
	"github.com/culvert-proxy/culvert/proxy/fakekafka"
)

func TestDemoShowsBothProblemsAndSolvesThem(t *testing.T) {
	ways := map[string]string{
		"ws":   `agent == WebSocket over TLS ==> ingress -- gateway`,
		"h3":   `agent == HTTP/3 ==> gateway`,
		"h2":   `agent == HTTP/2 ==> gateway`,
		"auto": `(?s)agent == WebSocket over TLS ==> ingress -- gateway.*tried HTTP/3\nfirst`,
	}
	for transport, way := range ways {
		t.Run(transport, func(t *testing.T) {
			running := goleak.IgnoreCurrent()
			var stdout, stderr strings.Builder
			code := run([]string{"demo", "--once", "--transport", transport, "--listen", "127.0.0.1:0"}, &stdout, &stderr)
			if code != 0 || stderr.Len() > 0 {
				t.Errorf("exit code %d, stderr %q", code, &stderr)
			}
			goleak.VerifyNone(t, running)

			without, with, _ := strings.Cut(stdout.String(), "2. WITH CULVERT")
			for _, want := range []string{
				`\Aculvert demo: `, `(?s)tries the door, https://127\.0\.0\.1:\d+.*\n  error: .*Problem one`,
				`(?s)\n  error: dial tcp.*\nProblem two`,
			} {
				wantMatch(t, want, without)
			}
			for _, want := range []string{
				way, `bootstrap address, 127\.0\.0\.1:\d+:`, `brokers at 127\.0\.0\.1:\d+, 127\.0\.0\.1:\d+, 127\.0\.0\.1:\d+\n`,
				`consumed  300 records in group demo-readers: none lost, none twice, in order\n +\((\d+ ){6}in partitions 0 to 5\)`,
				`Produce +300( +\d+\.\d\d){2}`, `Fetch +\d+( +\d+\.\d\d){2}`, `\nDone\.`,
			} {
				wantMatch(t, want, with)
			}
			if strings.Contains(with, fakekafka.Domain) {
				t.Error("an advertised name was seen through culvert")
			}
			wantReadable(t, stdout.String())
		})
	}
}

func wantMatch(t *testing.T, pattern, text string) {
	t.Helper()
	if !regexp.MustCompile(pattern).MatchString(text) {
		t.Errorf("no match for %q in\n%s", pattern, text)
	}
}

// wantReadable fails for a story that does not fit a terminal.
func wantReadable(t *testing.T, story string) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(story), "\n")
	if len(lines) > 40 {
		t.Errorf("%d lines, want 40 at most", len(lines))
	}
	for _, line := range lines {
		if len(line) > 100 {
			t.Errorf("line of %d columns: %s", len(line), line)
		}
	}
}

func TestDemoStaysUpForClientsUntilItIsToldToStop(t *testing.T) {
	needSignals(t)
	cmd := exec.Command("culvert", "demo", "--listen", "127.0.0.1:0", "--transport", "ws")
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	var said strings.Builder
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		fmt.Fprintln(&said, lines.Text())
		if strings.Contains(lines.Text(), "For your own cluster") {
			break // the last line
		}
	}
	produceOne(t, find(t, `kcat -b (\S+) -L`, said.String()))
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("ended with %v after SIGTERM", err)
	}
}

func produceOne(t *testing.T, bootstrap string) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(bootstrap), kgo.DefaultProduceTopic(demoTopic))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.ProduceSync(t.Context(), kgo.StringRecord("mine")).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

func TestDemoSaysThatItsListenIsTaken(t *testing.T) {
	taken := listenOn(t, "127.0.0.1:0")
	var stdout, stderr strings.Builder
	if code := run([]string{"demo", "--once", "--listen", taken}, &stdout, &stderr); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	wantMatch(t, `error: listen on `+taken+`: (?s:.*)hint: choose another address with --listen`, stderr.String())
}

func listenOn(t *testing.T, address string) string {
	t.Helper()
	ln, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln.Addr().String()
}

func TestDemoMovesToFreePorts(t *testing.T) {
	taken := listenOn(t, "127.0.0.1:0")
	_, port, _ := net.SplitHostPort(taken)
	first, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	base, err := freeRange("127.0.0.1", first-1, 3, noPort)
	if err != nil || base <= first {
		t.Errorf("free range at %d, %v, with port %d taken", base, err, first)
	}
	again, err := freeRange("127.0.0.1", base, 3, base+2)
	if err != nil || again <= base {
		t.Errorf("free range at %d, %v, with port %d reserved", again, err, base+2)
	}
}

func TestDemoLeavesAnotherListenWhereItIs(t *testing.T) {
	want := proxy.Listen{Bind: "127.0.0.1:0", Host: "kafka.local"}
	got, _, _, err := choosePorts(want)
	if err != nil || got != want {
		t.Errorf("choosePorts(%v) = %v, %v", want, got, err)
	}
}

func TestLedgerFindsWhatIsWrong(t *testing.T) {
	record := func(partition int32, value string) kgo.FetchTopicPartition {
		r := &kgo.Record{Partition: partition, Value: []byte(value)}
		return kgo.FetchTopicPartition{FetchPartition: kgo.FetchPartition{Partition: partition, HighWatermark: 1, Records: []*kgo.Record{r}}}
	}
	tests := map[string]struct {
		came []kgo.FetchTopicPartition
		want string // "" for nothing
	}{
		"all":                    {came: []kgo.FetchTopicPartition{record(0, "0"), record(1, "1")}},
		"twice in one partition": {[]kgo.FetchTopicPartition{record(0, "0"), record(0, "0")}, "record 0 came 2 times"},
		"twice in two":           {[]kgo.FetchTopicPartition{record(0, "1"), record(1, "1")}, "record 0 came 0 times"},
		"out of order":           {[]kgo.FetchTopicPartition{record(0, "1"), record(0, "0")}, "partition 0, offset 0: record 0 after record 1"},
		"foreign":                {[]kgo.FetchTopicPartition{record(0, "0"), record(1, "2")}, `"2" was never produced`},
		"more in the log":        {[]kgo.FetchTopicPartition{record(0, "0"), record(1, "1"), {FetchPartition: kgo.FetchPartition{Partition: 2, HighWatermark: 1}}}, "the brokers hold 3 records"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			l := newLedger(2)
			for _, p := range test.came {
				l.note(p)
			}
			err := l.check()
			if test.want == "" && err == nil {
				return
			}
			if err == nil || test.want == "" || !strings.Contains(err.Error(), test.want) {
				t.Errorf("check: %v, want %q", err, test.want)
			}
		})
	}
}

// ingressBefore starts the stand-in in front of a backend that answers with the
// header it was sent.
func ingressBefore(t *testing.T) (address string, client *http.Client) {
	t.Helper()
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { r.Header.Write(w) }))
	t.Cleanup(backend.Close)
	certificate, err := selfSigned()
	if err != nil {
		t.Fatal(err)
	}
	ln, err := listenLoopback(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s := &stage{failed: func(err error) { t.Error(err) }}
	t.Cleanup(s.stop)
	in := newIngress(backend.Listener.Addr().String(), slog.New(slog.DiscardHandler))
	s.run(func(ctx context.Context) error { return in.serve(ctx, ln, certificate) })

	roots := x509.NewCertPool()
	roots.AddCert(certificate.Leaf)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return ln.Addr().String(), &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func TestIngressBehavesAsSnowflakesWhereItMatters(t *testing.T) {
	address, client := ingressBefore(t)
	const token = `Snowflake Token="secret"`
	tests := []struct {
		method string
		header http.Header
		code   int
		passed string // pattern in the header that the backend got
		hidden string // not in it
	}{
		{method: "GET", code: http.StatusFound},
		{method: "GET", header: http.Header{"Authorization": {"Bearer secret"}}, code: http.StatusFound},
		{method: "TRACE", header: http.Header{"Authorization": {token}}, code: http.StatusMethodNotAllowed},
		{"GET", http.Header{"Authorization": {token}}, http.StatusOK, `Sf-Context-Current-User: DEMO`, "secret"},
		{"GET", http.Header{"X-SF-SPCS-Authorization": {token}, "Authorization": {"Bearer ours"}}, http.StatusOK, `Authorization: Bearer ours`, "secret"},
		{"GET", http.Header{"Culvert-Authorization": {"Bearer ours"}, "Sf-Context-Current-User": {"ROOT"}}, http.StatusOK, `Culvert-Authorization: Bearer ours`, "ROOT"},
	}
	for _, test := range tests {
		request, err := http.NewRequestWithContext(t.Context(), test.method, "https://"+address+"/culvert", nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header = test.header
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if response.StatusCode != test.code || response.ProtoMajor != 1 {
			t.Errorf("%s with %v: %s over %s, want %d", test.method, test.header, response.Status, response.Proto, test.code)
		}
		wantMatch(t, test.passed, string(body))
		if test.hidden != "" && strings.Contains(string(body), test.hidden) {
			t.Errorf("the backend got %q:\n%s", test.hidden, body)
		}
	}
}

func TestIngressRefusesAtOnceWhatIsNotHTTP(t *testing.T) {
	address, client := ingressBefore(t)
	conn, err := tls.Dial("tcp", address, client.Transport.(*http.Transport).TLSClientConfig)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte{0, 0, 0, 26, 0, 18, 0, 4}); err != nil { // a Kafka client's ApiVersions
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Fatal(err)
	}
	wantMatch(t, `\AHTTP/1\.1 400 `, string(answer))
}
