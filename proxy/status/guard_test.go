package status_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/status"
	"github.com/culvert-proxy/culvert/proxy/status/document"
)

// A page that has its own name point here must not read what this process knows.
func TestOnlyNamesOfThisMachineAreAnswered(t *testing.T) {
	url, client := start(t, &status.Server{Names: func(hints.Setting) string { return "--admin-host" }, Hosts: []string{"Gateway-1.Example.com."}, Status: func() document.Document { return document.Document{End: "secret"} }})
	for _, tt := range []struct {
		host string
		code int
	}{
		{"127.0.0.1", 200}, {"127.0.0.1:9464", 200}, {"10.1.2.3:1", 200}, {"[::1]", 200}, {"[::1]:9464", 200}, {"[fe80::1%25eth0]:1", 200},
		{"localhost", 200}, {"LocalHost:9464", 200}, {"localhost.", 200}, {"localhost.:9464", 200}, {"localhost:", 200},
		{"gateway-1.example.com", 200}, {"GATEWAY-1.example.com.:9465", 200},
		{"evil.example", 403}, {"evil.example:9464", 403}, {"127.0.0.1.evil.example", 403}, {"localhost.evil.example", 403}, {"evil.localhost", 403},
		{"localhost..", 403}, {"[::1].evil.example", 403}, {"[::1%evil.example]evil.example", 403}, {"[evil.example]:80", 403}, {"[127.0.0.1]", 403},
		{"::1", 403}, {"127.0.0.1:x.evil.example", 403}, {"localhost:80:80", 403}, {"127.1", 403}, {"2130706433", 403}, {"0x7f.0.0.1", 403},
		{"gateway-1.example.com.evil.example", 403}, {"example.com", 403}, {".", 403}, {":9464", 403},
	} {
		for _, path := range []string{"/metrics", "/status", "/"} {
			req, err := http.NewRequest("GET", url+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Host = tt.host
			req.Header.Set("X-Forwarded-Host", "localhost")
			req.Header.Set("Forwarded", "host=localhost")
			resp, err := client.Do(req)
			if err != nil {
				t.Fatalf("Host: %s: %v", tt.host, err)
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode != tt.code {
				t.Errorf("%s, Host: %s: %d %q, want %d", path, tt.host, resp.StatusCode, body, tt.code)
			}
			if tt.code == 403 && (!strings.Contains(string(body), "--admin-host") || strings.Contains(string(body), "secret")) {
				t.Errorf("%s, Host: %s: %q, want the reason alone", path, tt.host, body)
			}
		}
	}
}

// A platform may probe by any name. It is told yes or no, and a page that comes by that way learns
// nothing more.
func TestProbesAreAnsweredByAnyName(t *testing.T) {
	for _, tt := range []struct {
		ready error
		code  int
	}{{nil, 200}, {errors.New("secret is not reached"), 503}} {
		url, client := start(t, &status.Server{Ready: func() error { return tt.ready }})
		for path, code := range map[string]int{"/healthz": 200, "/readyz": tt.code} {
			req, err := http.NewRequest("GET", url+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Host = "probe"
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode != code || strings.Contains(string(body), "secret") {
				t.Errorf("%s: %d %q, want %d", path, resp.StatusCode, body, code)
			}
		}
	}
}

// raw sends a request as it stands.
func raw(t *testing.T, url, request string) (code int, body string) {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, request)
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatalf("%q: %v", request, err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b)
}

func TestARequestWithoutHostIsOfNoBrowser(t *testing.T) {
	url, _ := start(t, &status.Server{})
	for request, want := range map[string]int{
		"GET /metrics HTTP/1.0\r\n\r\n":                                             200,
		"GET /metrics HTTP/1.0\r\nHost: evil.example\r\n\r\n":                       403,
		"GET /metrics HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n":               200,
		"GET /metrics HTTP/1.1\r\nConnection: close\r\n\r\n":                        400, // says net/http
		"GET /metrics HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n":    400, // the same
		"GET http://evil.example/metrics HTTP/1.1\r\nHost: localhost\r\n\r\n":       403,
		"GET /metrics HTTP/1.1\r\nHost: \u202e.evil\r\nConnection: close\r\n\r\n":   400,
		"GET /metrics HTTP/1.1\r\nHost: %1b[2J.evil\r\nConnection: close\r\n\r\n":   403,
		"GET /metrics HTTP/1.1\r\nHost: a,localhost\r\nConnection: close\r\n\r\n":   403,
		"GET /metrics HTTP/1.1\r\nHost: a@localhost\r\nConnection: close\r\n\r\n":   400,
		"POST /metrics HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n": 403,
	} {
		if code, body := raw(t, url, request); code != want {
			t.Errorf("%q: %d %q, want %d", request, code, body, want)
		}
	}
	long := fmt.Sprintf("GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", strings.Repeat("a", 8<<10))
	if code, body := raw(t, url, long); code != 403 || len(body) > 1<<10 {
		t.Errorf("a host of 8 KiB: %d with %d bytes, want 403 with fewer", code, len(body))
	}
}

func TestPagesOfOtherSitesAreRefused(t *testing.T) {
	url, client := start(t, &status.Server{})
	for _, tt := range []struct {
		header http.Header
		code   int
	}{
		{http.Header{}, 200},
		{http.Header{"Sec-Fetch-Site": {"none"}, "Sec-Fetch-Dest": {"document"}}, 200},                                           // typed
		{http.Header{"Sec-Fetch-Site": {"same-origin"}, "Sec-Fetch-Dest": {"empty"}}, 200},                                       // our own page
		{http.Header{"Sec-Fetch-Site": {"same-origin"}, "Sec-Fetch-Dest": {"script"}, "Origin": {"http://127.0.0.1:9464"}}, 200}, // a module of it
		{http.Header{"Sec-Fetch-Site": {"none"}, "Origin": {"https://evil.example"}}, 403},
		{http.Header{"Sec-Fetch-Site": {"cross-site"}, "Sec-Fetch-Dest": {"document"}}, 200}, // a link in a wiki
		{http.Header{"Sec-Fetch-Site": {"cross-site"}, "Sec-Fetch-Dest": {"image"}}, 403},
		{http.Header{"Sec-Fetch-Site": {"cross-site"}, "Sec-Fetch-Dest": {"iframe"}}, 403},
		{http.Header{"Sec-Fetch-Site": {"same-site"}, "Sec-Fetch-Dest": {"empty"}}, 403},
		{http.Header{"Sec-Fetch-Site": {"cross-site"}}, 403},
		{http.Header{"Origin": {"https://evil.example"}}, 403},
		{http.Header{"Origin": {"null"}}, 403},
		// Beyond loopback, browsers send no Sec-Fetch-Site to plain HTTP.
		{http.Header{"Origin": {url}}, 200}, // a module of our own page
		{http.Header{"Origin": {strings.Replace(url, "http:", "https:", 1)}}, 200},
		{http.Header{"Origin": {url + "0"}}, 403},
		{http.Header{"Origin": {url, "https://evil.example"}}, 403},
		{http.Header{"Sec-Fetch-Site": {"cross-site"}, "Origin": {url}}, 403},
	} {
		resp, body := do(t, client, "GET", url+"/metrics", tt.header)
		if resp.StatusCode != tt.code || resp.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%v: %d %.100q, want %d", tt.header, resp.StatusCode, body, tt.code)
		}
	}
}
