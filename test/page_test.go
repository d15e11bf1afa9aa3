package test

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvert-proxy/culvert/proxy/status"
	"github.com/culvert-proxy/culvert/proxy/status/document"
	"github.com/culvert-proxy/culvert/test/browser"
)

// needBrowser skips a test of the live page, unless real programs were requested.
func needBrowser(t *testing.T) {
	t.Helper()
	if os.Getenv("CULVERT_TEST_REAL") == "" {
		t.Skip("needs Chromium: set CULVERT_TEST_REAL=1 (go run ./test/all does)")
	}
	browser.Need(t)
}

var (
	wide   = browser.View{Width: 1280, Height: 900, Reduced: true}
	narrow = browser.View{Width: 360, Height: 740, Reduced: true}
)

func dark(v browser.View) browser.View {
	v.Dark = true
	return v
}

// pageServer serves the live page of a process that says what the test wants it to say.
type pageServer struct {
	address string
	says    atomic.Pointer[func(tick int) document.Document]
	ticks   atomic.Int32
	stop    func()
}

func servePage(t *testing.T, says func(tick int) document.Document) *pageServer {
	t.Helper()
	s := &pageServer{address: "127.0.0.1:0", stop: func() {}}
	s.says.Store(&says)
	s.start(t)
	t.Cleanup(func() { s.stop() })
	return s
}

// start starts the listener, or starts it again at the same address.
func (s *pageServer) start(t *testing.T) {
	t.Helper()
	ln, err := net.Listen("tcp", s.address)
	try(t, err)
	s.address = ln.Addr().String()
	server := &status.Server{Status: func() document.Document { return (*s.says.Load())(int(s.ticks.Add(1))) }}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, ln) }()
	s.stop = func() {
		cancel()
		try(t, <-served)
		s.stop = func() {}
	}
}

func (s *pageServer) url() string { return "http://" + s.address + "/" }

// shows waits until a JavaScript expression is true on a page.
func shows(t *testing.T, p *browser.Page, js string) {
	t.Helper()
	var ok bool
	p.Eval(&ok, fmt.Sprintf(`new Promise(done => {
		const begin = Date.now(), look = () => { try { return Boolean(%s) } catch { return false } }
		const i = setInterval(() => { if (look() || Date.now() - begin > 30000) { clearInterval(i); done(look()) } }, 25)
	})`, js))
	if !ok {
		t.Errorf("the page does not come to show %s; it says: %s", js, p.Text("body"))
	}
}

const live = "document.body.dataset.link === 'live'"

// onlyOwn fails if the console has a complaint, or if the page has asked another server for
// something.
func onlyOwn(t *testing.T, p *browser.Page, url string) {
	t.Helper()
	if problems := p.Problems(); len(problems) > 0 {
		t.Errorf("the console says %q", problems)
	}
	for _, request := range p.Requests() {
		if !strings.HasPrefix(request, url) {
			t.Errorf("the page requests %s", request)
		}
	}
}

// TestThePageIsAccessible has axe-core look at each look of the page.
func TestThePageIsAccessible(t *testing.T) {
	needBrowser(t)
	b := browser.Start(t)
	for _, look := range []struct {
		name string
		says func(int) document.Document
		view browser.View
	}{
		{"broken", browser.Broken, wide},
		{"broken, dark", browser.Broken, dark(wide)},
		{"broken, narrow", browser.Broken, narrow},
		{"broken, narrow, dark", browser.Broken, dark(narrow)},
		{"healthy, dark", browser.Healthy, dark(wide)},
		{"gateway", browser.Gateway, wide},
		{"as large as can be", browser.Large, narrow},
		{"empty", func(int) document.Document { return document.Document{Version: document.Version} }, wide},
	} {
		s := servePage(t, look.says)
		p := b.Open(t, s.url(), look.view)
		shows(t, p, live)
		for _, violation := range p.Axe() {
			t.Errorf("%s: %s", look.name, violation)
		}
		var wider []string
		p.Eval(&wider, `document.documentElement.scrollWidth <= innerWidth ? [] :
			[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll') && e.getBoundingClientRect().right > innerWidth).map(e => e.tagName + '.' + e.className + ' ' + (e.innerText ?? '').slice(0, 80))`)
		if len(wider) > 0 {
			t.Errorf("%s: wider than the window: %q", look.name, wider)
		}
		// What does not fit is cut off with an ellipsis or wraps; nothing else may be hidden.
		var clipped []string
		p.Eval(&clipped, `[...document.querySelectorAll('.big, .small, .title, .note, .badge, h1, h2, td, th, .value')]
			.filter(e => !e.closest('.visually-hidden') && e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 0 && getComputedStyle(e).display !== 'inline').map(e => e.innerText)`)
		if len(clipped) > 0 {
			t.Errorf("%s: cut off: %q", look.name, clipped)
		}
		if look.name == "as large as can be" {
			var markup int
			p.Eval(&markup, "document.querySelectorAll('main img, main b, main script').length")
			if markup > 0 || !strings.Contains(p.Text("#nodes"), "<img src=x") {
				t.Errorf("texts of strangers made %d elements", markup)
			}
		}
		onlyOwn(t, p, s.url())
		p.Close()
		s.stop()
	}
}

// TestTheKeyboardReachesEverything walks through the page with Tab, switches the theme, and keeps
// the focus while the figures change.
func TestTheKeyboardReachesEverything(t *testing.T) {
	needBrowser(t)
	s := servePage(t, browser.Large)
	p := browser.Start(t).Open(t, s.url(), wide)
	shows(t, p, live)
	var want []string
	const name = `(e => e.id || e.ariaLabel || e.textContent.trim() || e.tagName)`
	p.Eval(&want, `[...document.querySelectorAll('a[href], button, [tabindex="0"]')].filter(e => e.checkVisibility()).map(`+name+`)`)
	var got []string
	for range len(want) + 1 {
		p.Press("Tab")
		var at string
		p.Eval(&at, name+`(document.activeElement)`)
		if !slices.Contains(want, at) {
			break // at the end of the page
		}
		got = append(got, at)
	}
	if !slices.Equal(got, want) {
		t.Errorf("Tab goes to %q, want %q", got, want)
	}
	// The figures change beneath the focus, and a screen reader is told nothing.
	p.Eval(new(any), `{ window.news = 0; new MutationObserver(() => window.news++).observe(document.getElementById('announce'), { childList: true, characterData: true, subtree: true })
		const sort = document.querySelectorAll('#apis thead button')[2]; sort.focus(); sort.click(); window.sort = sort; window.seen = culvert.document.time }`)
	shows(t, p, "Date.parse(culvert.document.time) - Date.parse(seen) >= 2000")
	shows(t, p, "document.activeElement === sort && sort.parentElement.ariaSort === 'descending'")
	var news int
	if p.Eval(&news, "news"); news != 0 {
		t.Errorf("a screen reader was told %d times that nothing has happened: %q", news, p.Text("#announce"))
	}
	healthy := browser.Healthy
	s.says.Store(&healthy)
	shows(t, p, "!document.querySelector('#events .open')")
	broken := browser.Broken
	s.says.Store(&broken)
	shows(t, p, "document.getElementById('announce').textContent.includes('broker cannot be reached')")
	// The theme is remembered.
	p.Eval(new(any), "document.getElementById('theme').focus()")
	p.Press("Enter")
	shows(t, p, "getComputedStyle(document.documentElement).colorScheme === 'dark'")
	p.Reload()
	shows(t, p, live+" && getComputedStyle(document.documentElement).colorScheme === 'dark'")
	onlyOwn(t, p, s.url())
}

// TestThePageSaysWhenTheProcessIsGone stops the process, and starts it again.
func TestThePageSaysWhenTheProcessIsGone(t *testing.T) {
	needBrowser(t)
	s := servePage(t, browser.Healthy)
	p := browser.Start(t).Open(t, s.url(), wide)
	shows(t, p, live)
	s.stop()
	shows(t, p, "document.body.dataset.link === 'lost' && document.getElementById('link-text').textContent.startsWith('not reached since ') && document.title.startsWith('not reached')")
	shows(t, p, "getComputedStyle(document.querySelector('main')).filter === 'grayscale(1)' && document.getElementById('announce').textContent.includes('not reached')")
	for _, violation := range p.Axe() {
		t.Error(violation)
	}
	s.start(t)
	shows(t, p, live+" && document.getElementById('announce').textContent.includes('reached again')")
	// Another version may have other figures than this page knows.
	upgraded := func(tick int) document.Document {
		d := browser.Healthy(tick)
		d.Build.Version = "v0.10.0"
		return d
	}
	s.says.Store(&upgraded)
	shows(t, p, "document.body.dataset.link === 'stale' && document.getElementById('link-text').textContent.includes('reload')")
}

// TestThePageStaysLight shows as much as a document can hold. An update changes what has changed,
// and nothing else.
// TestThePageSaysWhatItsFiguresAre has figures that are easily taken for others.
func TestThePageSaysWhatItsFiguresAre(t *testing.T) {
	needBrowser(t)
	s := servePage(t, func(tick int) document.Document {
		d := browser.Healthy(tick)
		d.Listeners[0].Address, d.Listeners[0].Advertised = "10.0.0.10:9092", "10.0.0.1"
		produce := &d.APIs[5]
		produce.RequestByteRate, produce.Errors = 1280, []document.Count{{Name: "topic", Count: 1}}
		d.Forwards = []document.Forward{{Name: "schema-registry", Address: "127.0.0.1:8081", State: document.NodeUnreachable, Error: "dial schema-registry at registry:8081: connection refused"}}
		d.Limits = []document.Limit{{Name: "unauthenticated", Used: 2, Max: 1024, Refused: 7}}
		d.Credentials = []document.Credential{{Setting: "--gateway-ca-file", Kind: "certificate", Expires: d.Time.Add(10 * 24 * time.Hour), Left: 10 * 86400}}
		return d
	})
	p := browser.Start(t).Open(t, s.url(), wide)
	shows(t, p, live)
	for where, want := range map[string]string{
		".process": "10.0.0.10:9092 as 10.0.0.1", ".box.gateway": "brokers answer in", ".box.broker": "18 conns",
		"#apis tbody": "topic: 1", "#limits": "closed 7 times",
		"#forwards tbody": "dial schema-registry at registry:8081: connection refused",
	} {
		if got := p.Text(where); !strings.Contains(got, want) {
			t.Errorf("%s says %q, want %q in it", where, got, want)
		}
	}
	if got := p.Text("#apis tbody"); !strings.Contains(got, "1.3 kB/s") {
		t.Errorf("1280 bytes per second are not 1.3 kB/s: %q", got)
	}
	var columns, fetch []string
	p.Eval(&columns, `[...document.querySelectorAll('#apis thead th')].map(h => h.innerText)`)
	p.Eval(&fetch, `[...[...document.querySelectorAll('#apis tbody tr')].find(tr => tr.cells[0].innerText === 'Fetch').cells].map(c => c.innerText)`)
	mean := slices.Index(columns, "mean")
	if mean < 0 || !slices.Equal(columns[mean:mean+3], []string{"mean", "brokers", "tunnel"}) || fetch[mean+1] == "–" || fetch[mean+2] != "–" {
		t.Errorf("columns %q, Fetch %q: want mean, brokers and tunnel in this order, and no tunnel's share of a long poll", columns, fetch)
	}
	var warnings int
	if p.Eval(&warnings, `document.querySelectorAll('#credentials .icon.warn').length`); warnings != 0 {
		t.Error("a certificate with 10 days left is a warning, want one from 7 days on")
	}
}

func TestThePageStaysLight(t *testing.T) {
	needBrowser(t)
	s := servePage(t, browser.Large)
	p := browser.Start(t).Open(t, s.url(), wide)
	shows(t, p, live)
	var elements int
	if p.Eval(&elements, "document.getElementsByTagName('*').length"); elements > 5000 {
		t.Errorf("the page has %d elements, want 5000 at most", elements)
	}
	var same, changed int
	p.Eval(&same, `(() => { const o = new MutationObserver(() => {}); o.observe(document.documentElement, { subtree: true, childList: true, attributes: true, characterData: true })
		culvert.time(culvert.document); return o.takeRecords().length })()`)
	if same != 0 {
		t.Errorf("the same document again makes %d changes, want 0", same)
	}
	p.Eval(&changed, `(() => { const o = new MutationObserver(() => {}); const d = structuredClone(culvert.document); d.clients.connections++
		o.observe(document.documentElement, { subtree: true, childList: true, attributes: true, characterData: true }); culvert.time(d); return o.takeRecords().length })()`)
	if changed != 1 {
		t.Errorf("another number of connections makes %d changes, want 1", changed)
	}
	var took []float64
	p.Eval(&took, `[0, 1, 2, 3, 4].map(i => { const d = structuredClone(culvert.document); for (const a of d.apis) { a.rate += i + 1; a.history = a.history.map(n => n + i); a.latency.mean_seconds *= 1.01 + i }; for (const n of d.nodes) n.connections += i + 1; return culvert.time(d) })`)
	before := p.Cost()
	time.Sleep(3 * time.Second)
	after := p.Cost()
	t.Logf("%d brokers, %d API keys, %d events: %d elements; updates that change every figure took %.1f ms with layout; the page's process used %.1f %% of a core",
		document.MaxNodes, 92, document.MaxEvents, elements, took, 100*(after["TaskDuration"]-before["TaskDuration"])/(after["Timestamp"]-before["Timestamp"]))
	onlyOwn(t, p, s.url())
}
