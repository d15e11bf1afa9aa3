package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/status"
	"github.com/culvert-proxy/culvert/proxy/status/document"
)

// readyDocument is the least that an end says of itself.
func readyDocument() document.Document {
	return document.Document{Version: document.Version, End: document.Agent, State: document.State{Name: document.Ready}}
}

// serveAdmin is a real admin listener.
func serveAdmin(t *testing.T, s status.Server) *httptest.Server {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Serve(t.Context(), ln)
	}()
	t.Cleanup(func() { <-done })
	return &httptest.Server{URL: "http://" + ln.Addr().String(), Listener: ln}
}

// answer serves one body.
func answer(t *testing.T, code int, body string) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		io.WriteString(w, body)
	}))
	t.Cleanup(s.Close)
	return s
}

// speak listens, reads a request's first line and writes what a server that speaks no HTTP writes.
func speak(t *testing.T, write string) string {
	t.Helper()
	return acceptEach(t, func(c net.Conn) {
		bufio.NewReader(c).ReadString('\n')
		io.WriteString(c, write)
		c.Close()
	})
}

// culvertStatus runs a command line.
func culvertStatus(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = run(append([]string{"status"}, args...), &out, &errs)
	return code, out.String(), errs.String()
}

func TestStatusOfEachState(t *testing.T) {
	for state, want := range map[string]int{document.Ready: 0, document.NotReady: 1, document.Starting: 1, document.Draining: 1} {
		s := serveAdmin(t, status.Server{Status: func() document.Document {
			d := readyDocument()
			d.State = document.State{Name: state, Why: "\x1b[2Jbecause"}
			return d
		}})
		code, stdout, stderr := culvertStatus("--admin", s.URL)
		if code != want || stderr != "" || !strings.Contains(stdout, "culvert agent") || strings.Contains(stdout, "\x1b") {
			t.Errorf("%s: exit %d, %q, %q", state, code, stdout, stderr)
		}
		code, stdout, _ = culvertStatus("--json", "--admin", strings.TrimPrefix(s.URL, "http://"))
		var d document.Document
		if err := json.Unmarshal([]byte(stdout), &d); err != nil || code != want || d.State.Name != state {
			t.Errorf("%s: exit %d, %v, %q", state, code, err, stdout)
		}
	}
}

// Each mistake gets a sentence and exit code 1, and what was read is printed so that no terminal
// obeys it.
func TestStatusOfSomethingElse(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	tls := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(tls.Close)
	tls.Config.ErrorLog = nil
	ready := func() document.Document { return readyDocument() }
	admin := serveAdmin(t, status.Server{Status: ready, Names: flagOf})
	newer, _ := json.Marshal(struct {
		document.Document
		Version int    `json:"version"`
		News    string `json:"news"`
	}{readyDocument(), 7, "x"})
	for what, test := range map[string]struct {
		admin string
		code  int
		want  string
	}{
		"nothing":             {closed.Addr().String(), 1, "nothing listens on " + closed.Addr().String()},
		"another web server":  {answer(t, 404, "404 page not found").URL, 1, "is no admin listener of culvert: it answers 404 Not Found: 404 page not found"},
		"a web page":          {answer(t, 200, "<html>\x1b[2J").URL, 1, "answers with something else than a status document"},
		"other JSON":          {answer(t, 200, `{"version":1,"end":"elsewhere"}`).URL, 1, "something else than a status document"},
		"a redirect":          {answer(t, 302, "\x1b]0;evil\a\n").URL, 1, `answers 302 Found: \x1b]0;evil\x07`},
		"a broker":            {speak(t, ""), 1, "does not answer in HTTP"},
		"another protocol":    {speak(t, "SSH-2.0-x\x1b[2J\r\n"), 1, "does not answer in HTTP"},
		"a port with TLS":     {strings.TrimPrefix(tls.URL, "https://"), 1, "it answers 400 Bad Request: Client sent an HTTP request to an HTTPS server"},
		"TLS that is unknown": {tls.URL, 1, "does not answer in HTTP: tls: failed to verify certificate"},
		"plain, not TLS":      {"https" + strings.TrimPrefix(admin.URL, "http"), 1, "speaks HTTP, not HTTPS"},
		"without its status":  {serveAdmin(t, status.Server{}).URL, 1, "does not serve its status"},
		"a newer version":     {answer(t, 200, string(newer)).URL, 0, ""},
		"an incompatible one": {answer(t, 200, `{"version":9,"end":"agent","nodes":7}`).URL, 1, "has version 9, and this culvert reads version 1"},
		"a huge document":     {answer(t, 200, `{"version":1,"end":"agent","why":"`+strings.Repeat("x", maxStatus)+`"}`).URL, 1, "sends more than 8 MiB"},
		"very many values":    {answer(t, 200, `{"version":1,"end":"agent","nodes":[{}`+strings.Repeat(",{}", maxValues)+`]}`).URL, 1, "more values than a status document has"},
		"a huge header":       {speak(t, "HTTP/1.1 200 OK\r\nx: "+strings.Repeat("x", 1<<20)+"\r\n\r\n"), 1, "does not answer in HTTP"},
	} {
		code, stdout, stderr := culvertStatus("--admin", test.admin)
		if code != test.code || !strings.Contains(stderr, test.want) || strings.Contains(stdout+stderr, "\x1b") {
			t.Errorf("%s: exit %d, want %d, %q in\n%s%s", what, code, test.code, test.want, stdout, stderr)
		}
		if code == 1 && (stdout != "" || !strings.Contains(stderr, "culvert: hint: ")) {
			t.Errorf("%s: no hint, or output:\n%s%s", what, stdout, stderr)
		}
		if what == "a newer version" && !strings.Contains(stdout, "has version 7, and this culvert reads version 1") {
			t.Errorf("%s: %s", what, stdout)
		}
	}
	if code, stdout, _ := culvertStatus("--json", "--admin", answer(t, 200, `{"version":9,"end":"agent","nodes":7}`).URL); code != 1 || stdout != `{"version":9,"end":"agent","nodes":7}` {
		t.Errorf("an incompatible document as JSON: exit %d, %q", code, stdout)
	}
	// A name that is not this machine's is refused by the other side.
	r := &statusReader{client: &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, admin.Listener.Addr().String())
	}}}}
	u, err := parseAdmin("evil.localhost:9464")
	if err != nil {
		t.Fatal(err)
	}
	r.urls = append(r.urls, u)
	if _, _, err := r.read(t.Context()); err == nil || !strings.Contains(err.Error(), "refuses: the admin listener does not serve the host evil.localhost") || hints.Of(err, flagOf) == nil {
		t.Errorf("another host: %v", err)
	}
}

// An endless answer is given up after statusTimeout.
// What a document has many of, and how long its texts are, must not keep the command busy.
func TestStatusOfATunnelWithoutEndIsShort(t *testing.T) {
	tunnel := `{"gateway":"g","transport":"h3","why":"` + strings.Repeat("a", 4<<20) + `","tried":[` + strings.Repeat(`{"error":"ab"},`, 2e5) + `{}],"carriers":[` +
		strings.Repeat(`{"streams":1},`, 5e4) + `{}]}`
	s := answer(t, 200, `{"version":1,"end":"agent","state":{"name":"ready"},"tunnels":[`+tunnel+`]}`)
	begin := time.Now()
	code, stdout, stderr := culvertStatus("--admin", s.URL)
	if lines := strings.Count(stdout, "\n"); code != 0 || lines < 10 || lines > 100 || stderr != "" {
		t.Errorf("exit code %d, %d lines, %s", code, lines, stderr)
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("took %v", took)
	}
}

func TestStatusDoesNotWaitForever(t *testing.T) {
	endless := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			io.WriteString(w, " ")
			w.(http.Flusher).Flush()
			select {
			case <-r.Context().Done():
			case <-time.After(20 * time.Millisecond):
			}
		}
	}))
	t.Cleanup(endless.Close)
	r, err := adminFlags{Admin: endless.URL}.reader()
	if err != nil {
		t.Fatal(err)
	}
	r.client.Timeout = 200 * time.Millisecond
	if _, _, err := r.read(t.Context()); err == nil || !strings.Contains(err.Error(), "has not answered within") {
		t.Errorf("read = %v", err)
	}
}

// Without --admin, the agent's address is asked, then the gateway's. Whichever answered is asked
// again.
func TestStatusOfWhatRunsHere(t *testing.T) {
	gateway := serveAdmin(t, status.Server{Status: readyDocument})
	r, err := adminFlags{}.reader()
	if err != nil {
		t.Fatal(err)
	}
	hosts := []string{r.urls[0].Host, r.urls[1].Host}
	if !slices.Equal(hosts, []string{"127.0.0.1:9464", "127.0.0.1:9465"}) {
		t.Errorf("asks %q", hosts)
	}
	r.urls[0].Host, r.urls[1].Host = speak(t, "x"), gateway.Listener.Addr().String()
	for range 2 {
		if _, d, err := r.read(t.Context()); err != nil || d.End != document.Agent {
			t.Fatalf("read = %v, %v", d, err)
		}
	}
	if len(r.urls) != 1 || r.urls[0].Host != gateway.Listener.Addr().String() {
		t.Errorf("asks %v again", r.urls)
	}
}

func TestWrongAdminAddresses(t *testing.T) {
	for _, admin := range []string{"none", "9464", "http://", "http://127.0.0.1", "ftp://127.0.0.1:1", "http://u:p@127.0.0.1:1", "http://127.0.0.1:1/?a=b", "http://127.0.0.1:x", ":9464", "a b:1"} {
		if code, _, stderr := culvertStatus("--admin", admin); code != exitUsage || !strings.Contains(stderr, "--admin") || strings.Contains(stderr, "u:p") {
			t.Errorf("--admin %s: exit %d, %s", admin, code, stderr)
		}
	}
	for admin, want := range map[string]string{"localhost:1": "http://localhost:1", "[::1]:1": "http://[::1]:1", "http://h:1/": "http://h:1", "http://h:1/a/status": "http://h:1/a", "https://h": "https://h"} {
		if u, err := parseAdmin(admin); err != nil || u.String() != want {
			t.Errorf("parseAdmin(%s) = %v, %v, want %s", admin, u, err, want)
		}
	}
}

// What a terminal would obey is written as JSON writes it, and means the same.
func TestVisibleJSON(t *testing.T) {
	raw := "{\r\n\t\"a\": \"東京 \u202e \u009b \x7f \U000e0041 \\u001b\"}\n"
	got := visibleJSON([]byte(raw))
	var before, after any
	if err := errors.Join(json.Unmarshal([]byte(raw), &before), json.Unmarshal([]byte(got), &after)); err != nil || fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("%v: %q became %q", err, raw, got)
	}
	if want := "{ \n \"a\": \"東京 \\u202e \\u009b \\u007f \\udb40\\udc41 \\u001b\"}\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
