package status_test

import (
	"io/fs"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/culvert-proxy/culvert/proxy/hints"
	"github.com/culvert-proxy/culvert/proxy/status"
	"github.com/culvert-proxy/culvert/proxy/status/document"
)

func shown() document.Document { return document.Document{Version: document.Version} }

var browser = http.Header{"Accept": {"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}}

func TestBrowsersGetThePageAndProgramsTheList(t *testing.T) {
	url, client := start(t, &status.Server{Status: shown})
	for _, tt := range []struct {
		accept string
		page   bool
	}{{browser.Get("Accept"), true}, {"Text/HTML", true}, {"*/*", false}, {"", false}, {"application/json", false}, {"text/html-like", false}} {
		resp, body := do(t, client, "GET", url+"/", http.Header{"Accept": {tt.accept}})
		if got := strings.HasPrefix(body, "<!doctype html>"); got != tt.page || resp.StatusCode != 200 {
			t.Errorf("Accept: %s: %d, the page: %v, want %v", tt.accept, resp.StatusCode, got, tt.page)
		}
		if resp.Header.Get("Vary") != "Accept" {
			t.Errorf("Accept: %s: Vary: %q", tt.accept, resp.Header.Get("Vary"))
		}
	}
	if _, body := do(t, client, "GET", url+"/", nil); !strings.Contains(body, "\n/status/stream ") || strings.Contains(body, "page.js") {
		t.Errorf("list: %q", body)
	}
}

// Where others can reach the listener, the page is off unless somebody has asked for it.
func TestWithoutStatusThereIsNoPage(t *testing.T) {
	url, client := start(t, &status.Server{Public: true, Names: func(s hints.Setting) string { return "--" + string(s) }})
	if _, body := do(t, client, "GET", url+"/", browser); !strings.HasPrefix(body, "culvert\n") || !strings.Contains(body, "--admin page") {
		t.Errorf("/ in a browser: %q, want the list and how to have the page", body)
	}
	for _, path := range []string{"/status", "/status/stream", "/page/page.js", "/page/page.css"} {
		if resp, _ := do(t, client, "GET", url+path, browser); resp.StatusCode != 404 {
			t.Errorf("%s: %s, want 404", path, resp.Status)
		}
	}
}

func TestThePageMayLoadOnlyItself(t *testing.T) {
	url, client := start(t, &status.Server{Status: shown})
	for path, kind := range map[string]string{"/": "text/html; charset=utf-8", "/page/page.css": "text/css; charset=utf-8",
		"/page/page.js": "text/javascript; charset=utf-8", "/page/icon.svg": "image/svg+xml"} {
		resp, body := do(t, client, "GET", url+path, browser)
		if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != kind || body == "" {
			t.Fatalf("%s: %s, %s, %d bytes", path, resp.Status, resp.Header.Get("Content-Type"), len(body))
		}
		for _, part := range []string{"default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'", "frame-ancestors 'none'", "base-uri 'none'", "require-trusted-types-for 'script'"} {
			if !strings.Contains(resp.Header.Get("Content-Security-Policy"), part) {
				t.Errorf("%s: the policy %q has no %s", path, resp.Header.Get("Content-Security-Policy"), part)
			}
		}
		if strings.Contains(resp.Header.Get("Content-Security-Policy"), "unsafe") {
			t.Errorf("%s: policy %q", path, resp.Header.Get("Content-Security-Policy"))
		}
		for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY",
			"Cache-Control": "no-store", "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin"} {
			if got := resp.Header.Get(name); got != want {
				t.Errorf("%s: %s: %q, want %q", path, name, got, want)
			}
		}
	}
	if resp, _ := do(t, client, "GET", url+"/page/index.html", nil); resp.StatusCode != 404 {
		t.Errorf("/page/index.html: %s: the page has one address", resp.Status)
	}
}

// The guard stands before the page as before everything else.
func TestThePageIsForThisMachineOnly(t *testing.T) {
	url, _ := start(t, &status.Server{Status: shown, Names: func(hints.Setting) string { return "--admin-host" }})
	for _, path := range []string{"/", "/page/page.js", "/status", "/status/stream"} {
		for header, want := range map[string]string{"Host: evil.example\r\n": "--admin-host", "Host: localhost\r\nSec-Fetch-Site: cross-site\r\n": "pages of other sites", "Host: localhost\r\nOrigin: https://evil.example\r\n": "pages of other sites"} {
			code, body := raw(t, url, "GET "+path+" HTTP/1.1\r\n"+header+"Accept: text/html\r\nConnection: close\r\n\r\n")
			if code != 403 || !strings.Contains(body, want) || strings.Contains(body, "<") {
				t.Errorf("%s with %q: %d %q, want 403 and why", path, header, code, body)
			}
		}
	}
}

// The page works offline, is small, and writes text as text only.
func TestFilesOfThePage(t *testing.T) {
	total := 0
	elsewhere := regexp.MustCompile(`(?i)(src|href)="(https?:)?//|@import|url\(|innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|\sstyle="|\son[a-z]+="`)
	err := fs.WalkDir(os.DirFS("page"), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile("page/" + path)
		if found := elsewhere.Find(content); found != nil {
			t.Errorf("page/%s has %q", path, found)
		}
		total += len(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if total > 96<<10 || total < 1<<10 {
		t.Errorf("the page has %d bytes, want 96 KiB at most", total)
	}
}
