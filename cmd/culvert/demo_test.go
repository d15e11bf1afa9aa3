package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"github.com/culvert-proxy/culvert/proxy"
	"github.com/culvert-proxy/culvert/proxy/fakekafka"
)

func TestDemoShowsBothProblemsAndSolvesThem(t *testing.T) {
	ways := map[string]string{
		"ws":   `(?s)agent == WebSocket over TLS ==> ingress -- gateway.*a token of the account`,
		"h3":   `agent == HTTP/3 ==> gateway`,
		"h2":   `agent == HTTP/2 ==> gateway`,
		"auto": `(?s)agent == WebSocket over TLS ==> ingress -- gateway.*a token of the account.*tried HTTP/3 first`,
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
				`\Aculvert demo: `, `(?s)connects to the endpoint, https://127\.0\.0\.1:\d+.*\n  error: .*Problem one`,
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
			wantReadable(t, 40, stdout.String())
		})
	}
}

func wantMatch(t *testing.T, pattern, text string) {
	t.Helper()
	if !regexp.MustCompile(pattern).MatchString(text) {
		t.Errorf("no match for %q in\n%s", pattern, text)
	}
}

// wantReadable fails for output of more lines than most, or that does not fit a terminal.
func wantReadable(t *testing.T, most int, output string) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(output), "\n")
	if len(lines) > most {
		t.Errorf("%d lines, want %d at most", len(lines), most)
	}
	for _, line := range lines {
		if len(line) > 100 {
			t.Errorf("line of %d columns: %s", len(line), line)
		}
	}
}

func TestDemoStaysUpForClientsUntilASignal(t *testing.T) {
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
	wantReadable(t, 50, said.String())
	wantAsInReadme(t, said.String())
	produceOne(t, find(t, `kcat -b (\S+) -L`, said.String()))
	for _, end := range []string{"agent", "gateway"} {
		awaitTraffic(t, find(t, `(http://127\.0\.0\.1:\d+/) +the `+end, said.String()), end)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("ended with %v after SIGTERM", err)
	}
}

// wantAsInReadme fails unless each line that README.md shows of the demo is printed, in that order.
// Numbers differ, and what a resolver says.
func wantAsInReadme(t *testing.T, output string) {
	t.Helper()
	output = regexp.MustCompile(` --admin \S+`).ReplaceAllString(output, "") // where the default is taken
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, shown, _ := strings.Cut(string(readme), "$ go run ./cmd/culvert demo\n")
	shown, _, _ = strings.Cut(shown, "```")
	numbers := regexp.MustCompile(`\d+`)
	rest := numbers.ReplaceAllString(output, "N")
	for line := range strings.Lines(numbers.ReplaceAllString(shown, "N")) {
		if strings.HasPrefix(line, "…") || strings.Contains(line, "error:") {
			continue
		}
		_, after, found := strings.Cut(rest, line)
		if !found {
			t.Errorf("README.md shows %q, and then the demo does not print it", line)
			continue
		}
		rest = after
	}
}

// awaitTraffic waits until the admin listener at url tells of requests that only the demo's own
// traffic makes.
func awaitTraffic(t *testing.T, url, end string) {
	t.Helper()
	if code, page := get(t, url+"status"); code != 200 || !strings.Contains(page, `"end": "`+end+`"`) {
		t.Errorf("/status of the %s: %d %s", end, code, page)
	}
	if code, page := get(t, url+"readyz"); code != 200 {
		t.Errorf("/readyz of the %s: %d %s", end, code, page)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		_, metrics := get(t, url+"metrics")
		if regexp.MustCompile(`culvert_requests_total\{api_key="Heartbeat"\} [1-9]`).MatchString(metrics) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("no traffic at the %s:\n%s", end, metrics)
		}
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

// listenOn listens until the test ends, accepts nothing, and returns the address.
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
	first, err := strconv.Atoi(freePort(t))
	if err != nil {
		t.Fatal(err)
	}
	first++ // so that the port before it is free
	listenOn(t, net.JoinHostPort("127.0.0.1", strconv.Itoa(first)))
	base, err := freeRange("127.0.0.1", first-1, 3, noPort)
	if err != nil || base <= first {
		t.Errorf("free range at %d, %v, with port %d taken", base, err, first)
	}
	again, err := freeRange("127.0.0.1", base, 3, base+2)
	if err != nil || again <= base {
		t.Errorf("free range at %d, %v, with port %d reserved", again, err, base+2)
	}
}

func TestDemoKeepsAListenThatIsNotTheDefault(t *testing.T) {
	want := proxy.Listen{Bind: "127.0.0.1:0", Host: "kafka.local"}
	got, _, _, err := choosePorts(want)
	if err != nil || got != want {
		t.Errorf("choosePorts(%v) = %v, %v", want, got, err)
	}
}

func TestTheTableOfLatencyAddsUp(t *testing.T) {
	agent, gateway := timing{300, 226 * time.Microsecond}, timing{300, 54 * time.Microsecond}
	for key, want := range map[string]string{
		"Produce": "Produce          300      0.23      0.05      0.18", "Fetch": "Fetch            300      0.23      0.05         -",
	} {
		if got := latencyRow(key, agent, gateway); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestRecordCheckFindsWhatIsWrong(t *testing.T) {
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
			c := newRecordCheck(2)
			for _, p := range test.came {
				c.add(p)
			}
			err := c.verify()
			if test.want == "" && err == nil {
				return
			}
			if err == nil || test.want == "" || !strings.Contains(err.Error(), test.want) {
				t.Errorf("verify: %v, want %q", err, test.want)
			}
		})
	}
}
