// Package browser drives headless Chromium, to see the live page as its reader does.
package browser

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/culvert-proxy/culvert/test/cache"
	"github.com/culvert-proxy/culvert/test/proc"
)

// packages drive the browser and check pages for accessibility. They download no browser.
var packages = []string{"playwright-core@1.65.1", "axe-core@4.14.1"}

// Need skips a test if there is no browser, or nothing to drive it with.
func Need(t testing.TB) {
	t.Helper()
	for _, name := range []string{"chromium", "node", "npm"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("needs %s (Debian: apt-get install chromium nodejs npm)", name)
		}
	}
}

// patience is how long one command of the driver may take.
const patience = time.Minute

// Browser is a running browser. Its pages share nothing: each has its own storage.
type Browser struct {
	mu  sync.Mutex
	in  io.Writer
	out *bufio.Reader
	ids int
}

// Start starts a browser that ends with the test.
func Start(t testing.TB) *Browser {
	t.Helper()
	dir, err := cache.Get("browser", fmt.Sprint(packages), func(dir string) error {
		cmd := exec.Command("npm", append([]string{"install", "--no-audit", "--no-fund", "--silent", "--prefix", dir}, packages...)...)
		cmd.Dir = dir
		_, err := proc.Run(context.Background(), cmd)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	root, err := cache.Root()
	if err != nil {
		t.Fatal(err)
	}
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("node", filepath.Join(root, "test", "browser", "driver.mjs"), dir, chromium)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b := &Browser{in: in, out: bufio.NewReader(out)}
	t.Cleanup(func() {
		in.Close() // the driver closes the browser and ends
		kill := time.AfterFunc(patience, func() { cmd.Process.Kill() })
		defer kill.Stop()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the driver of the browser ended with %v", err)
		}
	})
	return b
}

// do runs a command of the driver, and puts its answer into value.
func (b *Browser) do(value any, run string, args map[string]any) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ids++
	command := map[string]any{"id": b.ids, "run": run}
	maps.Copy(command, args)
	line, err := json.Marshal(command)
	if err != nil {
		return err
	}
	if _, err := b.in.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("tell the driver to %s: %w", run, err)
	}
	reply, err := b.out.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("hear from the driver about %s: %w", run, err)
	}
	var answer struct {
		Value json.RawMessage
		Error string
	}
	if err := json.Unmarshal(reply, &answer); err != nil {
		return err
	}
	if answer.Error != "" {
		return fmt.Errorf("%s: %s", run, answer.Error)
	}
	return json.Unmarshal(answer.Value, value)
}

// View is how a page is looked at.
type View struct {
	Width, Height int
	Dark          bool
	Reduced       bool // no motion
}

// Page is an open page. A command that fails ends the test.
type Page struct {
	t       testing.TB
	browser *Browser
	url     string
	number  int
}

// Open opens a page.
func (b *Browser) Open(t testing.TB, url string, v View) *Page {
	t.Helper()
	p := &Page{t: t, browser: b, url: url}
	if err := b.do(&p.number, "open", map[string]any{"url": url, "width": v.Width, "height": v.Height, "dark": v.Dark, "reduced": v.Reduced}); err != nil {
		t.Fatal(err)
	}
	return p
}

// Another opens the same page once more.
func (p *Page) Another(v View) *Page { return p.browser.Open(p.t, p.url, v) }

func (p *Page) do(value any, run string, args map[string]any) {
	p.t.Helper()
	if args == nil {
		args = map[string]any{}
	}
	args["page"] = p.number
	if err := p.browser.do(value, run, args); err != nil {
		p.t.Fatal(err)
	}
}

// Eval evaluates a JavaScript expression on the page, and puts what it is into value.
func (p *Page) Eval(value any, js string) {
	p.t.Helper()
	p.do(value, "eval", map[string]any{"js": js})
}

// Text returns the text of the first element that matches a CSS selector; "" if there is none.
func (p *Page) Text(selector string) (s string) {
	p.t.Helper()
	p.Eval(&s, fmt.Sprintf("document.querySelector(%q)?.innerText ?? ''", selector))
	return s
}

// Press presses a key.
func (p *Page) Press(key string) {
	p.t.Helper()
	p.do(new(any), "press", map[string]any{"key": key})
}

// Reload loads the page anew.
func (p *Page) Reload() {
	p.t.Helper()
	p.do(new(any), "reload", nil)
}

// Axe returns what axe-core finds.
func (p *Page) Axe() (violations []string) {
	p.t.Helper()
	p.do(&violations, "axe", nil)
	return violations
}

// Screenshot writes a picture of the page: of the whole page, or of what the window shows.
func (p *Page) Screenshot(path string, full bool) {
	p.t.Helper()
	p.do(new(any), "screenshot", map[string]any{"path": path, "full": full})
}

// Problems returns the errors and warnings on the console.
func (p *Page) Problems() (all []string) {
	p.t.Helper()
	p.do(&all, "problems", nil)
	return all
}

// Requests returns the addresses that the page has asked for.
func (p *Page) Requests() (all []string) {
	p.t.Helper()
	p.do(&all, "requests", nil)
	return all
}

// Cost returns what Chromium has measured of the page, such as TaskDuration in seconds.
func (p *Page) Cost() (metrics map[string]float64) {
	p.t.Helper()
	p.do(&metrics, "cost", nil)
	return metrics
}

// Close closes the page.
func (p *Page) Close() {
	p.t.Helper()
	p.do(new(any), "close", nil)
}
