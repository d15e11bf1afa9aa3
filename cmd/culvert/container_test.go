package main

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-proxy/culvert/proxy/tunnel"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// records decodes the stderr of a process, every line of which must be a JSON record.
func records(t *testing.T, p *process) (all []map[string]any) {
	t.Helper()
	for line := range strings.Lines(p.text()) {
		var r map[string]any
		if err := json.Unmarshal([]byte(line), &r); err != nil || r["time"] == nil || r["level"] == nil || r["msg"] == nil {
			t.Errorf("no record: %v, %s", err, line)
		}
		all = append(all, r)
	}
	return all
}

// A collector that parses a container's stderr as JSON cannot parse a line of text among it.
func TestWithJSONEveryLineIsARecord(t *testing.T) {
	needSignals(t)
	tokens := write(t, "laptop=0123456789abcdef\n")
	cert, key := certificate(t)
	gateway := start(t, "gateway", "--bootstrap", cluster(t), "--token-file", tokens, "--listen", "127.0.0.1:0",
		"--tls-cert-file", cert, "--tls-key-file", key, "--admin-listen", "127.0.0.1:0", "--log-format", "json", "--log-level", "debug")
	line := gateway.listening()
	agent := start(t, "agent", "--gateway-url", "https://"+find(t, `listening on (127\.0\.0\.1:\d+)`, line), "--gateway-ca-file", cert, "--token-file", tokens,
		"--listen", "127.0.0.1:0", "--broker-port-base", freePort(t), "--admin-listen", "none", "--log-format", "json", "--log-level", "error")
	roundTrip(t, find(t, `bootstrap (127\.0\.0\.1:\d+)`, agent.listening()))
	agent.ready()
	gateway.ready()
	scanner, err := net.Dial("tcp", find(t, `listening on (127\.0\.0\.1:\d+)`, line))
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(scanner, "GET / HTTP/1.1\r\n\r\n") // for the library that serves HTTP to have something to say
	io.ReadAll(scanner)
	scanner.Close()
	for name, p := range map[string]*process{"agent": agent, "gateway": gateway} {
		if code := p.stop(); code != 0 {
			t.Errorf("%s ended with %d", name, code)
		}
		listening, ready := 0, 0
		for _, r := range records(t, p) {
			if msg := r["msg"].(string); listeningLine.MatchString(msg) {
				listening++
			} else if strings.HasPrefix(msg, "culvert "+name+" ready: ") {
				ready++
			}
		}
		if listening != 1 || ready != 1 {
			t.Errorf("%s said listening in %d records and ready in %d, want one of each:\n%s", name, listening, ready, p.text())
		}
	}
	failed := start(t, "gateway", "--bootstrap", "127.0.0.1:1", "--token-file", tokens, "--listen", "127.0.0.1:0",
		"--admin-listen", listenOn(t, "127.0.0.1:0"), "--log-format", "json")
	if code := failed.ended(); code != 1 {
		t.Errorf("ended with %d, want 1", code)
	}
	all := records(t, failed)
	last := all[len(all)-1]
	if last["level"] != "ERROR" || !strings.Contains(last["err"].(string), "listen on ") || !strings.Contains(last["hint"].(string), "--admin-listen") {
		t.Errorf("the last record is %v, want why it ended and a hint", last)
	}
}

// Beyond loopback, where a platform's probes and scrapers connect, the admin listener serves three
// pages and their index.
func TestBeyondLoopbackTheAdminListenerHasThreePages(t *testing.T) {
	broker := cluster(t)
	gateway := start(t, "gateway", "--bootstrap", broker, "--insecure-no-auth", "--listen", "127.0.0.1:0", "--admin-listen", ":0").listening()
	agent := start(t, "agent", "--gateway-url", "tcp://"+broker, "--listen", "127.0.0.1:0", "--broker-port-base", freePort(t), "--admin-listen", "0.0.0.0:0").listening()
	for name, line := range map[string]string{"gateway": gateway, "agent": agent} {
		admin := "http://127.0.0.1:" + find(t, `admin http://\S+:(\d+)`, line)
		await(t, name+" to be ready", func() bool {
			code, _ := get(t, admin+"/readyz")
			return code == http.StatusOK
		})
		for path, want := range map[string]int{"/": 200, "/healthz": 200, "/readyz": 200, "/metrics": 200,
			"/status": 404, "/culvert": 404, "/debug/pprof/": 404, "/debug/vars": 404, "/metrics/": 404, "//metrics": 404} {
			if code, body := get(t, admin+path); code != want {
				t.Errorf("%s of the %s: %d %s, want %d", path, name, code, body, want)
			} else if strings.Contains(body, " summary\n") {
				t.Errorf("%s of the %s has a summary, which the platform's scraper does not know:\n%s", path, name, body)
			}
		}
	}
}

// Whoever wants the live page beyond loopback says so.
func TestThePageIsServedBeyondLoopbackIfAskedFor(t *testing.T) {
	broker := cluster(t)
	gateway := start(t, "gateway", "--bootstrap", broker, "--insecure-no-auth", "--listen", "127.0.0.1:0", "--admin-listen", ":0", "--admin-page").listening()
	agent := start(t, "agent", "--gateway-url", "tcp://"+broker, "--listen", "127.0.0.1:0", "--broker-port-base", freePort(t), "--admin-listen", "0.0.0.0:0", "--admin-page").listening()
	for name, line := range map[string]string{"gateway": gateway, "agent": agent} {
		admin := "http://127.0.0.1:" + find(t, `admin http://\S+:(\d+)`, line)
		for path, want := range map[string]string{"/status": `"end": "` + name + `"`, "/page/page.js": "follow", "/": "\n/status/stream"} {
			if code, body := get(t, admin+path); code != http.StatusOK || !strings.Contains(body, want) {
				t.Errorf("%s of the %s: %d %.200s, want %s", path, name, code, body, want)
			}
		}
	}
}

func TestProfilesAreThereOnLoopbackIfAskedFor(t *testing.T) {
	broker := cluster(t)
	gateway := start(t, "gateway", "--bootstrap", broker, "--insecure-no-auth", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--admin-pprof").listening()
	agent := start(t, "agent", "--gateway-url", "tcp://"+broker, "--listen", "127.0.0.1:0", "--broker-port-base", freePort(t), "--admin-listen", "localhost:0",
		"--config", write(t, "admin-pprof: true")).listening()
	for end, line := range map[string]string{"gateway": gateway, "agent": agent} {
		admin := find(t, `admin (http://\S+:\d+)`, line)
		if code, body := get(t, admin+"/debug/pprof/goroutine?debug=2"); code != http.StatusOK || !strings.Contains(body, "main.main()") {
			t.Errorf("goroutines of the %s: %d %.200q", end, code, body)
		}
	}
}

// A web page could have its own host name resolve to the listener: DNS rebinding.
func TestTheAdminListenerAnswersToNamesThatItWasGiven(t *testing.T) {
	broker := cluster(t)
	gateway := start(t, "gateway", "--bootstrap", broker, "--insecure-no-auth", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0",
		"--admin-host", "gw-1.example", "--admin-host", "gw.example").listening()
	agent := start(t, "agent", "--gateway-url", "tcp://"+broker, "--listen", "127.0.0.1:0", "--broker-port-base", freePort(t), "--admin-listen", "127.0.0.1:0",
		"--config", write(t, "admin-host: [gw-1.example, gw.example]")).listening()
	for end, line := range map[string]string{"gateway": gateway, "agent": agent} {
		admin := find(t, `admin (http://\S+:\d+)`, line)
		for host, want := range map[string]int{"localhost": 200, "127.0.0.1:1": 200, "gw-1.example": 200, "gw.example:9464": 200, "evil.example": 403} {
			request, err := http.NewRequest("GET", admin+"/metrics", nil)
			if err != nil {
				t.Fatal(err)
			}
			request.Host = host
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			response.Body.Close()
			if response.StatusCode != want {
				t.Errorf("%s asked as %s: %s, want %d", end, host, response.Status, want)
			}
		}
	}
}

// With --revoke-streams, a client's connection ends when the token of its stream is removed.
func TestRevokeStreamsEndsWhatATokenOpened(t *testing.T) {
	certFile, keyFile := certificate(t)
	tokens := write(t, "agent=one\nother=two\n")
	gateway := start(t, "gateway", "--bootstrap", cluster(t), "--listen", "127.0.0.1:0", "--admin-listen", "none",
		"--tls-cert-file", certFile, "--tls-key-file", keyFile, "--token-file", tokens, "--revoke-streams")
	agent := start(t, "agent", "--gateway-url", "https://"+find(t, `listening on (\S+:\d+)`, gateway.listening()), "--gateway-ca-file", certFile,
		"--token-file", write(t, "one"), "--listen", "127.0.0.1:0", "--broker-port-base", freePort(t), "--admin-listen", "none", "--transport", "ws")
	c, err := net.Dial("tcp", find(t, `bootstrap (\S+:\d+)`, agent.listening()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(readyTimeout))
	c.Write(kmsg.NewRequestFormatter().AppendRequest(nil, kmsg.NewPtrApiVersionsRequest(), 1))
	if _, err := nextFrame(c); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(tokens, []byte("other=two\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the client reads %d, %v, want its end", n, err)
	}
	gateway.says("ending streams: their credentials are no longer accepted.*agent")
}

// await waits until done, and fails the test after readyTimeout.
func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.After(readyTimeout); !done(); {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-deadline:
			t.Fatalf("waited %v for %s", readyTimeout, what)
		}
	}
}

// stuckGateway starts a gateway, has clients and brokers do whatever could keep it from ending, and
// sends it SIGTERM.
func stuckGateway(t *testing.T, args ...string) (gateway *process, admin string) {
	t.Helper()
	needSignals(t)
	tokens := write(t, "laptop=0123456789abcdef\n")
	gateway = start(t, append([]string{"gateway", "--bootstrap", flood(t), "--token-file", tokens, "--listen", "127.0.0.1:0",
		"--admin-listen", "127.0.0.1:0"}, args...)...)
	line := gateway.listening()
	address, admin := find(t, `listening on (127\.0\.0\.1:\d+)`, line), find(t, `admin (http://\S+)`, line)
	await(t, "the gateway to be ready", func() bool {
		code, _ := get(t, admin+"/readyz")
		return code == http.StatusOK
	})
	for _, transport := range []string{tunnel.TransportWS, tunnel.TransportH2} {
		d := &tunnel.Dialer{URL: &url.URL{Scheme: "http", Host: address}, Transport: transport, Token: func() (string, error) { return "0123456789abcdef", nil }}
		t.Cleanup(func() { d.Close() })
		c, err := d.Dial(t.Context(), tunnel.Open{Target: tunnel.TargetBootstrap}, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if _, err := io.ReadFull(c, make([]byte, 1<<20)); err != nil { // and not a byte more
			t.Fatal(err)
		}
		go io.Copy(c, zeros{}) // which the broker does not read
	}
	for _, begun := range []string{"", "GET /culv", "POST /culvert HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", http2Preface} {
		for _, to := range []string{address, strings.TrimPrefix(admin, "http://")} {
			c, err := net.Dial("tcp", to)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			io.WriteString(c, begun)
		}
	}
	if err := gateway.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	return gateway, admin
}

const http2Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// A platform kills a process 30 s after SIGTERM. Whatever its peers do, a gateway ends before that.
func TestStuckPeersDoNotKeepAGateway(t *testing.T) {
	gateway, _ := stuckGateway(t, "--drain-timeout", "1s")
	if code := gateway.ended(); code != 0 {
		t.Errorf("ended with %d, want 0", code)
	}
	if !strings.Contains(gateway.text(), "streams did not end in time and were cut") {
		t.Errorf("no stream was stuck:\n%s", gateway.text())
	}
}

// From SIGTERM on, the platform must route no more agents to this gateway.
func TestReadinessEndsWithSIGTERM(t *testing.T) {
	_, admin := stuckGateway(t)
	await(t, "readiness to end", func() bool {
		code, _ := get(t, admin+"/readyz")
		return code == http.StatusServiceUnavailable
	})
	if code, body := get(t, admin+"/healthz"); code != http.StatusOK {
		t.Errorf("/healthz: %d %s", code, body)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// flood is a broker that answers the first request, then sends without end and never reads.
func flood(t *testing.T) string {
	t.Helper()
	return acceptEach(t, func(c net.Conn) {
		go func() {
			defer c.Close()
			io.WriteString(c, "\x00\x00\x00\x06\x00\x00\x00\x00\x00\x00") // to a request 0
			io.Copy(c, zeros{})
		}()
	})
}
