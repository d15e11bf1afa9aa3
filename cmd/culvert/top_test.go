package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-proxy/culvert/proxy/status/terminal"
)

// fakeScreen is a screen in memory.
type fakeScreen struct {
	*fullScreen
	keys *io.PipeWriter

	mu    sync.Mutex
	drawn bytes.Buffer
	cols  int
}

func (f *fakeScreen) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.drawn.Write(p)
}

// last returns the frame that was drawn last.
func (f *fakeScreen) last() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.drawn.String()[max(strings.LastIndex(f.drawn.String(), beginFrame), 0):]
}

func newFakeScreen() *fakeScreen {
	in, keys := io.Pipe()
	f := &fakeScreen{keys: keys, cols: 80}
	f.fullScreen = &fullScreen{in: in, out: f, leave: func() error { return nil }}
	f.terminal = func() terminal.Terminal { return terminal.Terminal{Width: f.cols, Height: 24, Unicode: true} }
	return f
}

// answering answers requests without a network.
type answering func() (*http.Response, error)

func (f answering) RoundTrip(*http.Request) (*http.Response, error) { return f() }

// watchOn runs culvert top on a screen in memory.
func watchOn(f *fakeScreen, answer answering) *watch {
	u, _ := parseAdmin(agentAdmin)
	d := readyDocument()
	return &watch{
		screen: f.fullScreen, view: terminal.NewView(), document: &d, panicked: make(chan string, 2),
		reader: &statusReader{urls: []*url.URL{u}, client: &http.Client{Transport: answer}},
	}
}

func document200(body string) (*http.Response, error) {
	return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(body))}, nil
}

// While the process cannot be reached, the screen says since when, and goes on when it is back.
func TestTopGoesOnWhenTheProcessIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeScreen()
		defer f.keys.Close()
		var up atomic.Bool
		up.Store(true)
		w := watchOn(f, func() (*http.Response, error) {
			if !up.Load() {
				return nil, errors.New("connection\x1b[2J reset")
			}
			return document200(`{"version":1,"end":"gateway","state":{"name":"ready"}}`)
		})
		ended := make(chan error, 1)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() { ended <- w.run(ctx) }()
		see := func(after time.Duration, want string) {
			t.Helper()
			time.Sleep(after)
			synctest.Wait()
			if got := f.last(); !strings.Contains(got, want) {
				t.Errorf("%q is not on the screen:\n%s", want, got)
			}
		}
		see(0, "culvert agent")
		see(1100*time.Millisecond, "culvert gateway")
		up.Store(false)
		since := time.Now().Add(900 * time.Millisecond).Format(time.TimeOnly)
		see(time.Second, "not reached since "+since+", trying again")
		see(5*time.Second, "not reached since "+since)
		if strings.Contains(strings.ReplaceAll(f.last(), eraseLine, ""), "\x1b[2J") {
			t.Errorf("the error clears the screen: %q", f.last())
		}
		up.Store(true)
		see(time.Second, "ready")
		io.WriteString(f.keys, " ")
		see(0, "paused")
		up.Store(false)
		see(3*time.Second, "paused") // and nothing is read
		if strings.Contains(f.last(), "not reached") {
			t.Errorf("reads while it is paused:\n%s", f.last())
		}
		io.WriteString(f.keys, "q")
		if err := <-ended; err != nil {
			t.Errorf("q: %v", err)
		}
	})
}

// The terminal is restored when anything ends culvert top, a mistake of ours in any goroutine too.
func TestTopRestoresTheTerminal(t *testing.T) {
	crash := func() (*http.Response, error) { panic("a mistake \x1b[2J") }
	fine := func() (*http.Response, error) { return document200("{}") }
	for what, test := range map[string]struct {
		answer answering
		end    func(*fakeScreen, context.CancelFunc)
		panics bool
	}{
		"q":               {fine, func(f *fakeScreen, _ context.CancelFunc) { io.WriteString(f.keys, "q") }, false},
		"Ctrl-C":          {fine, func(f *fakeScreen, _ context.CancelFunc) { io.WriteString(f.keys, "\x03") }, false},
		"a signal":        {fine, func(_ *fakeScreen, cancel context.CancelFunc) { cancel() }, false},
		"no terminal":     {fine, func(f *fakeScreen, _ context.CancelFunc) { f.keys.Close() }, false},
		"a panic":         {crash, func(*fakeScreen, context.CancelFunc) {}, true},
		"a panic in draw": {fine, func(f *fakeScreen, _ context.CancelFunc) { f.terminal = nil; io.WriteString(f.keys, "1") }, true},
		"a screen that is gone": {fine, func(f *fakeScreen, _ context.CancelFunc) {
			f.fullScreen.out = brokenWriter{}
			io.WriteString(f.keys, "1")
		}, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			f := newFakeScreen()
			w := watchOn(f, test.answer)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			restored := false
			f.leave = func() error { restored = true; return nil }
			panicked := make(chan any, 1)
			go func() {
				defer func() { panicked <- recover() }()
				defer f.restore()
				w.run(ctx)
			}()
			synctest.Wait()
			test.end(f, cancel)
			got := <-panicked
			if (got != nil) != test.panics || !restored {
				t.Errorf("%s: panicked with %v, restored %v", what, got, restored)
			}
			if text, _ := got.(string); strings.Contains(text, "\x1b") {
				t.Errorf("%s: %q", what, text)
			}
			if f.out == io.Writer(f) && !strings.HasSuffix(f.last(), leaveScreen) {
				t.Errorf("%s: ends with %q", what, f.last())
			}
			cancel()
			f.keys.Close()
		})
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("gone") }

func TestKeys(t *testing.T) {
	for read, want := range map[string][]string{
		"q":                              {"q"},
		"\x03":                           {terminal.KeyCtrlC},
		"\x1b":                           {terminal.KeyEscape},
		"\x1b[A\x1b[B\x1bOC\x1b[D":       {terminal.KeyUp, terminal.KeyDown, terminal.KeyRight, terminal.KeyLeft},
		"\x1b[5~\x1b[6~x":                {terminal.KeyPageUp, terminal.KeyPageDown, "x"},
		"\x1b[1;5Aq":                     {"q"}, // Ctrl and an arrow
		"\x1b[":                          nil,
		"\x1b[200~ab\x1b[201~":           {"a", "b"},
		"ä\xff":                          {"ä", "\ufffd"},
		strings.Repeat("\x1b[999999", 3): nil,
	} {
		if got := splitKeys([]byte(read)); !slices.Equal(got, want) {
			t.Errorf("splitKeys(%q) = %q, want %q", read, got, want)
		}
	}
}

func TestTopNeedsATerminal(t *testing.T) {
	var out, errs bytes.Buffer
	if code := run([]string{"top"}, &out, &errs); code != exitUsage || !strings.Contains(errs.String(), "needs a terminal") || out.Len() != 0 {
		t.Errorf("exit %d, %s%s", code, out.String(), errs.String())
	}
}

func TestTheLocaleDecidesWhichCharactersAreDrawn(t *testing.T) {
	for _, tt := range []struct {
		env  map[string]string
		want bool
	}{
		{nil, true}, {map[string]string{"LANG": "de_DE.UTF-8"}, true}, {map[string]string{"LANG": "C"}, false}, {map[string]string{"LC_ALL": "C", "LANG": "en_US.UTF-8"}, false},
		{map[string]string{"LC_CTYPE": "C.utf8", "LANG": "C"}, true}, {map[string]string{"LC_ALL": "POSIX"}, false},
	} {
		if got := unicodeLocale(func(name string) string { return tt.env[name] }); got != tt.want {
			t.Errorf("%v: %v", tt.env, got)
		}
	}
}
