package status_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"github.com/culvert-proxy/culvert/protocol"
	"github.com/culvert-proxy/culvert/proxy/metrics"
	"github.com/culvert-proxy/culvert/proxy/status"
	"github.com/culvert-proxy/culvert/proxy/status/document"
)

// start serves s on loopback until the test ends, and returns its URL and a client of its own.
func start(t *testing.T, s *status.Server) (url string, client *http.Client) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, ln) }()
	transport := &http.Transport{}
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve = %v after its context was done, want nil", err)
		}
		transport.CloseIdleConnections()
	})
	return "http://" + ln.Addr().String(), &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func do(t *testing.T, client *http.Client, method, url string, header http.Header) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest(method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if header != nil {
		req.Header = header
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

func TestPages(t *testing.T) {
	url, client := start(t, &status.Server{})
	tests := []struct {
		method, path string
		code         int
		body         string // as a whole, or its beginning
	}{
		{"GET", "/healthz", 200, "ok\n"},
		{"HEAD", "/healthz", 200, ""},
		{"GET", "/readyz", 200, "ready\n"},
		{"GET", "/metrics", 200, ""},
		{"HEAD", "/metrics", 200, ""},
		{"GET", "/", 200, "culvert\n/metrics"},
		{"POST", "/healthz", 405, "only GET and HEAD\n"},
		{"DELETE", "/metrics", 405, "only GET and HEAD\n"},
		{"GET", "/metrics/", 404, "not found; see /\n"},
		{"GET", "//metrics", 404, "not found; see /\n"},
		{"GET", "/x/../metrics", 404, "not found; see /\n"},
		{"GET", "/debug/pprof/", 404, "not found; see /\n"},
		{"POST", "/elsewhere", 404, "not found; see /\n"},
	}
	for _, tt := range tests {
		resp, body := do(t, client, tt.method, url+tt.path, nil)
		if resp.StatusCode != tt.code || !strings.HasPrefix(body, tt.body) {
			t.Errorf("%s %s: %d %q, want %d %q", tt.method, tt.path, resp.StatusCode, body, tt.code, tt.body)
		}
		if tt.code == 405 && resp.Header.Get("Allow") != "GET, HEAD" {
			t.Errorf("%s %s: Allow: %q, want GET, HEAD", tt.method, tt.path, resp.Header.Get("Allow"))
		}
		if got := resp.Header.Get("Content-Type"); !strings.HasPrefix(got, "text/plain") {
			t.Errorf("%s %s: Content-Type: %q, want text/plain", tt.method, tt.path, got)
		}
	}
}

func TestIndexListsThePages(t *testing.T) {
	url, client := start(t, &status.Server{})
	_, body := do(t, client, "GET", url, nil)
	for _, path := range []string{"/metrics ", "/healthz ", "/readyz "} {
		if !strings.Contains(body, "\n"+path) {
			t.Errorf("index %q does not list %s", body, path)
		}
	}
}

func TestTheStatusIsShownWhereThereIsOne(t *testing.T) {
	url, client := start(t, &status.Server{})
	if resp, _ := do(t, client, "GET", url+"/status", nil); resp.StatusCode != 404 {
		t.Errorf("/status without a document: %d", resp.StatusCode)
	}
	url, client = start(t, &status.Server{Status: func() document.Document { return document.Document{Version: 1, End: "agent"} }})
	resp, body := do(t, client, "GET", url+"/status", nil)
	if want := "{\n  \"version\": 1,\n"; !strings.HasPrefix(body, want) || resp.Header.Get("Content-Type") != "application/json" {
		t.Errorf("/status: %q of type %s, want %q…", body, resp.Header.Get("Content-Type"), want)
	}
	if _, body := do(t, client, "GET", url, nil); !strings.Contains(body, "\n/status ") {
		t.Errorf("index %q does not list /status", body)
	}
}

// briefError has addresses in its text, and none in what it is for others.
type briefError struct{}

func (briefError) Error() string { return "no broker answers: dial 10.0.0.5:9092" }
func (briefError) Brief() string { return "no broker answers" }

func TestReadyzTellsOthersNoAddresses(t *testing.T) {
	for public, want := range map[bool]string{false: "wrapped: no broker answers: dial 10.0.0.5:9092\n", true: "no broker answers\n"} {
		url, client := start(t, &status.Server{Public: public, Ready: func() error { return fmt.Errorf("wrapped: %w", briefError{}) }})
		if resp, got := do(t, client, "GET", url+"/readyz", nil); resp.StatusCode != 503 || got != want {
			t.Errorf("public %v: readyz = %d %q, want %q", public, resp.StatusCode, got, want)
		}
	}
}

func TestReadyzSaysWhyNot(t *testing.T) {
	var reason atomic.Pointer[error]
	url, client := start(t, &status.Server{Ready: func() error {
		if err := reason.Load(); err != nil {
			return *err
		}
		return nil
	}})
	for _, want := range []string{"", "no gateway has answered yet", ""} {
		code, body := 200, "ready\n"
		reason.Store(nil)
		if want != "" {
			err := errors.New(want)
			reason.Store(&err)
			code, body = 503, want+"\n"
		}
		resp, got := do(t, client, "GET", url+"/readyz", nil)
		if resp.StatusCode != code || got != body {
			t.Errorf("readyz = %d %q, want %d %q", resp.StatusCode, got, code, body)
		}
	}
}

func TestMetricsInEveryFormat(t *testing.T) {
	reg := prometheus.NewRegistry()
	metrics.New(reg, metrics.Agent, "v1.2.3").API(protocol.Produce).Duration.Observe(0.02)
	url, client := start(t, &status.Server{Gatherer: reg})

	for _, accept := range []string{"text/plain;version=0.0.4", "application/openmetrics-text;version=1.0.0"} {
		resp, body := do(t, client, "GET", url+"/metrics", http.Header{"Accept": {accept}})
		if got := resp.Header.Get("Content-Type"); !strings.HasPrefix(got, strings.SplitN(accept, ";", 2)[0]) {
			t.Errorf("asked for %s, got %s", accept, got)
		}
		if !strings.Contains(body, `culvert_request_duration_seconds_bucket{api_key="Produce",le="0.025"} 1`) {
			t.Errorf("%s: no classic bucket of Produce in\n%s", accept, body)
		}
	}

	resp, body := do(t, client, "GET", url+"/metrics", http.Header{"Accept": {string(expfmt.NewFormat(expfmt.TypeProtoDelim))}})
	dec := expfmt.NewDecoder(strings.NewReader(body), expfmt.ResponseFormat(resp.Header))
	for {
		f := &dto.MetricFamily{}
		if err := dec.Decode(f); err != nil {
			t.Fatalf("look for the duration in protobuf: %v", err)
		}
		if f.GetName() == "culvert_request_duration_seconds" {
			if len(f.GetMetric()[0].GetHistogram().GetPositiveSpan()) == 0 {
				t.Error("no native buckets in protobuf")
			}
			return
		}
	}
}

func TestServeReturnsWhatEndedIt(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	err = (&status.Server{}).Serve(context.Background(), ln)
	if !errors.Is(err, net.ErrClosed) || !strings.Contains(err.Error(), ln.Addr().String()) {
		t.Errorf("Serve on a closed listener = %v, want net.ErrClosed with the address", err)
	}
}

func TestSilentPeerIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln, stop := startInMemory(t, &status.Server{})
		defer stop()
		conn := ln.dial(t)
		io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: ")
		begin := time.Now()
		if _, err := io.ReadAll(conn); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(begin); d != 5*time.Second {
			t.Errorf("cut off after %v, want 5s", d)
		}
	})
}

func TestServeLetsAnAnswerFinish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ready := make(chan struct{})
		ln, stop := startInMemory(t, &status.Server{Ready: func() error { <-ready; return nil }})
		conn := ln.dial(t)
		io.WriteString(conn, "GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
		synctest.Wait()
		go func() {
			time.Sleep(time.Second)
			close(ready)
		}()
		begin := time.Now()
		var wg sync.WaitGroup
		wg.Go(stop)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || resp.StatusCode != 200 {
			t.Errorf("answer during the shutdown: %v, %v; want 200", resp, err)
		}
		conn.Close()
		wg.Wait()
		if d := time.Since(begin); d > 2*time.Second {
			t.Errorf("shutdown took %v, want at most 2s", d)
		}
	})
}

func TestServeDoesNotWaitForASilentPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln, stop := startInMemory(t, &status.Server{})
		conn := ln.dial(t)
		begin := time.Now()
		stop()
		if d := time.Since(begin); d > 3*time.Second {
			t.Errorf("shutdown took %v, want about 2s", d)
		}
		if _, err := io.ReadAll(conn); err != nil {
			t.Errorf("read after the shutdown: %v, want the end", err)
		}
	})
}

func TestTooManyConnectionsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln, stop := startInMemory(t, &status.Server{})
		defer stop()
		for range 192 {
			ln.dial(t)
		}
		begin := time.Now()
		ln.dial(t) // is accepted when the first of the silent ones is cut off
		if d := time.Since(begin); d != 5*time.Second {
			t.Errorf("connection 193 was accepted after %v, want 5s", d)
		}
	})
}

// memListener is a listener without a network, so that time can be faked.
type memListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func startInMemory(t *testing.T, s *status.Server) (ln *memListener, stop func()) {
	ln = &memListener{conns: make(chan net.Conn), closed: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, ln) }()
	return ln, func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve = %v, want nil", err)
		}
	}
}

func (l *memListener) dial(t *testing.T) net.Conn {
	t.Helper()
	ours, theirs := net.Pipe()
	l.conns <- theirs
	t.Cleanup(func() { ours.Close() })
	return ours
}

func (l *memListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *memListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *memListener) Addr() net.Addr { return &net.UnixAddr{Name: "memory"} }
