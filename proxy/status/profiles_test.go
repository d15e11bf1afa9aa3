package status_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-proxy/culvert/proxy/status"
)

// Only profiles that somebody asked for are served: importing net/http/pprof is not asking.
func TestProfilesAreServedOnlyIfAskedFor(t *testing.T) {
	paths := []string{"/debug/pprof/", "/debug/pprof/heap", "/debug/pprof/allocs", "/debug/pprof/goroutine", "/debug/pprof/profile", "/debug/pprof/trace"}
	url, client := start(t, &status.Server{})
	for _, path := range append(paths, "/debug/pprof/cmdline", "/debug/pprof/symbol") {
		if resp, body := do(t, client, "GET", url+path, nil); resp.StatusCode != 404 {
			t.Errorf("%s without Profiles: %d %.100q", path, resp.StatusCode, body)
		}
	}
	url, client = start(t, &status.Server{Profiles: true})
	for _, path := range paths {
		if resp, body := do(t, client, "GET", url+path+"?seconds=1", nil); resp.StatusCode != 200 && !strings.Contains(body, "not supported") || body == "" {
			t.Errorf("%s: %d %.100q", path, resp.StatusCode, body)
		}
		if resp, _ := do(t, client, "POST", url+path, nil); resp.StatusCode != 405 {
			t.Errorf("POST %s: %d, want 405", path, resp.StatusCode)
		}
		evil := http.Header{"Sec-Fetch-Site": {"cross-site"}}
		if resp, _ := do(t, client, "GET", url+path, evil); resp.StatusCode != 403 {
			t.Errorf("%s for a page of another site: %d, want 403", path, resp.StatusCode)
		}
		evil = http.Header{"Sec-Fetch-Site": {"cross-site"}, "Sec-Fetch-Mode": {"navigate"}, "Sec-Fetch-Dest": {"document"}}
		if resp, _ := do(t, client, "GET", url+path, evil); resp.StatusCode != 403 && path != "/debug/pprof/" {
			t.Errorf("%s by a link of another site: %d, want 403", path, resp.StatusCode)
		}
		if code, _ := raw(t, url, "GET "+path+" HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"); code != 403 {
			t.Errorf("%s for another host: %d, want 403", path, code)
		}
		for _, index := range []string{"/", "/debug/pprof/"} {
			if _, body := do(t, client, "GET", url+index, nil); !strings.Contains(body, "\n"+path+" ") {
				t.Errorf("%s does not list %s", index, path)
			}
		}
	}
	// They may hold a password, or nobody needs them.
	for _, path := range []string{"/debug/pprof/cmdline", "/debug/pprof/symbol", "/debug/pprof/../pprof/heap", "/debug/pprof"} {
		if resp, _ := do(t, client, "GET", url+path, nil); resp.StatusCode != 404 {
			t.Errorf("%s: %d, want 404", path, resp.StatusCode)
		}
	}
}

func TestGoToolPprofReadsTheProfiles(t *testing.T) {
	if testing.Short() {
		t.Skip("builds go tool pprof: run it without -short, as go run ./test/all does")
	}
	url, _ := start(t, &status.Server{Profiles: true})
	for profile, want := range map[string]string{"heap": "Type: inuse_space", "allocs": "Type: alloc_space", "goroutine": "Type: goroutine", "profile?seconds=1": "Type: cpu"} {
		cmd := exec.Command("go", "tool", "pprof", "-top", url+"/debug/pprof/"+profile)
		cmd.Env = append(cmd.Environ(), "PPROF_TMPDIR="+t.TempDir())
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), want) {
			t.Errorf("%s: %v, want %q in\n%s", profile, err, want, out)
		}
	}
}

func TestSecondsOfAProfileAreBounded(t *testing.T) {
	url, client := start(t, &status.Server{Profiles: true})
	for _, seconds := range []string{"61", "1e9", "-1", "0", "NaN", "Inf", "x", "1h", "99999999999999999999"} {
		for _, path := range []string{"profile", "trace", "allocs"} {
			resp, body := do(t, client, "GET", url+"/debug/pprof/"+path+"?seconds="+seconds, nil)
			if resp.StatusCode != 400 || body != "seconds must be a number from 1 to 60\n" {
				t.Errorf("%s?seconds=%s: %d %q, want 400", path, seconds, resp.StatusCode, body)
			}
		}
	}
}

// The deadlines of the listener are shorter than a profile: 5 s to read a request, 30 s to write.
func TestALongProfileIsNotCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln, stop := startInMemory(t, &status.Server{Profiles: true})
		defer stop()
		begin := time.Now()
		first := askForProfile(ln.dial(t), 60)
		synctest.Wait() // until it is being taken
		second := askForProfile(ln.dial(t), 1)
		if code, body := second(t); code != 503 || !strings.Contains(body, "another profile") {
			t.Errorf("a second profile meanwhile: %d %q, want 503", code, body)
		}
		if code, body := first(t); code != 200 || time.Since(begin) != time.Minute {
			t.Errorf("a profile of 60 s: %d after %v with %.100q", code, time.Since(begin), body)
		}
	})
}

func TestAProfileEndsWithItsConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln, stop := startInMemory(t, &status.Server{Profiles: true})
		defer stop()
		gone := ln.dial(t)
		askForProfile(gone, 60)
		synctest.Wait()
		gone.Close()
		synctest.Wait()
		if code, body := askForProfile(ln.dial(t), 1)(t); code != 200 {
			t.Errorf("the next profile: %d %.100q, want 200", code, body)
		}
	})
}

// askForProfile asks for what is allocated during some seconds. The result waits for the answer.
func askForProfile(c net.Conn, seconds int) (answer func(t *testing.T) (code int, body string)) {
	fmt.Fprintf(c, "GET /debug/pprof/allocs?seconds=%d HTTP/1.1\r\nHost: localhost\r\n\r\n", seconds)
	return func(t *testing.T) (int, string) {
		t.Helper()
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Error(err)
		}
		return resp.StatusCode, string(body)
	}
}
