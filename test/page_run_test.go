package test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/culvert-proxy/culvert/proxy/fakekafka"
	"github.com/culvert-proxy/culvert/proxy/status/document"
	"github.com/culvert-proxy/culvert/test/browser"
	"github.com/culvert-proxy/culvert/test/hostsfile"
	"github.com/culvert-proxy/culvert/test/kafka"
	"github.com/culvert-proxy/culvert/test/leak"
)

// screenshots is the variable with the folder that TestThePageFollowsARun writes the pictures of
// docs/ to. Unset: none are taken.
const screenshots = "CULVERT_TEST_SCREENSHOTS"

// TestThePageFollowsARun looks at the pages of both ends while clients work, a broker is killed, a
// port is taken and the gateway goes. The pages show it without being loaded again, and show when it
// is over.
func TestThePageFollowsARun(t *testing.T) {
	needBrowser(t)
	if err := hostsfile.Available(); err != nil {
		t.Skip(err)
	}
	r := newPageRun(t)

	// A port of a broker is taken before the agent needs it.
	r.site.take(r.site.nodeAddress(1))
	r.site.gateway.start()
	r.site.gateway.mustBe("ready")
	r.site.agent.start()
	r.site.agent.mustBe("ready")
	r.open()
	r.site.askMetadata()
	r.follows("a port is taken", r.agent, func(d document.Document) bool { return node(d, 1).SparePort || node(d, 1).NoPort }, `nodeRow('1').includes('spare port') || nodeRow('1').includes('no port')`)
	r.site.lift() // the agent tries again after a while: see below

	load := r.load()
	r.follows("clients work", r.agent, func(d document.Document) bool { return api(d, "Produce").Rate > 0 && api(d, "Fetch").LongPoll },
		`apiRow('Produce') && document.querySelector('#apis tbody:last-child').innerText.includes('Fetch')`)
	r.agree(r.agent)
	r.agree(r.gateway)
	r.picture("healthy")

	// A broker is killed, and comes back.
	r.broker.Close()
	poke := r.poke(2)
	down := func(d document.Document) bool { return node(d, 2).State == document.NodeUnreachable }
	up := func(d document.Document) bool { return node(d, 2).State == document.NodeReached }
	r.follows("a broker is killed", r.gateway, down, `nodeRow('2').includes('unreachable')`)
	r.follows("a broker is killed", r.agent, down, `nodeRow('2').includes('unreachable') && document.querySelector('.broker[data-state=bad]')?.innerText.includes('Broker 2')`)
	r.picture("broken")
	r.startBroker()
	r.follows("the broker is back", r.gateway, up, `nodeRow('2').includes('reached') && !nodeRow('2').includes('unreachable')`)
	r.follows("the broker is back", r.agent, up, `nodeRow('2').includes('reached') && !document.querySelector('.broker[data-state=bad]')`)
	r.follows("the port is free", r.agent, func(d document.Document) bool { return !node(d, 1).SparePort && !node(d, 1).NoPort }, `!nodeRow('1').includes('port for') && !nodeRow('1').includes(' port\n')`)
	poke()
	load()

	// What is counted is the same everywhere once nothing counts any more.
	r.countsAgree(r.agent)
	r.countsAgree(r.gateway)

	// The gateway goes, and comes back. Its page says that it does not know any more.
	r.site.gateway.stop()
	shows(t, r.gateway.page, "document.body.dataset.link === 'lost'")
	r.follows("no transport works", r.agent, func(d document.Document) bool {
		return d.Tunnels[0].Transport == "" && d.State.Name == document.NotReady
	},
		`document.querySelector('.box.pipe').innerText.includes('no transport') && document.getElementById('state').innerText.includes('not ready') && !document.getElementById('alert').hidden`)
	r.site.gateway.start()
	r.follows("a transport works", r.agent, func(d document.Document) bool { return d.Tunnels[0].Transport != "" && d.State.Name == document.Ready },
		`!document.querySelector('.box.pipe').innerText.includes('no transport') && document.getElementById('state').innerText.trim() === 'ready'`)
	shows(t, r.gateway.page, live)

	for _, e := range []*pageOfEnd{r.agent, r.gateway} {
		var same bool
		if e.page.Eval(&same, "window.loadedOnce === true"); !same {
			t.Errorf("the page of the %s was loaded again", e.end.command)
		}
		for _, request := range e.page.Requests() {
			if !strings.HasPrefix(request, e.url) {
				t.Errorf("the page of the %s requests %s", e.end.command, request)
			}
		}
		for _, problem := range e.page.Problems() {
			if !strings.Contains(problem, "ERR_CONNECTION_REFUSED") && !strings.Contains(problem, "ERR_INCOMPLETE_CHUNKED_ENCODING") { // while the gateway was away
				t.Errorf("the console of the %s says %q", e.end.command, problem)
			}
		}
	}
}

// pageRun is a site and the pages of its ends.
type pageRun struct {
	*testing.T
	site           *site
	broker         *leak.Relay // broker 2, as the gateway reaches it
	agent, gateway *pageOfEnd
}

// pageOfEnd is the open page of one process.
type pageOfEnd struct {
	end  *end
	url  string
	page *browser.Page
}

func newPageRun(t *testing.T) *pageRun {
	t.Helper()
	r := &pageRun{T: t, site: newSite(t)}
	r.site.gateway.hosts[fakekafka.Host(2)] = killableHost
	r.startBroker()
	t.Cleanup(func() { r.broker.Close() })
	return r
}

// killableHost is the address of broker 2: embedded brokers stop only together.
const killableHost = "127.0.0.3"

// startBroker makes broker 2 reachable, until Close.
func (r *pageRun) startBroker() {
	r.Helper()
	port := r.site.brokerPorts[2]
	r.broker = leak.New(kafka.Domain)
	try(r.T, r.broker.Listen(address(killableHost, port), address(clientHost, port)))
}

// helpers are what the test asks the pages.
const helpers = `window.loadedOnce = true
	window.rowOf = (table, key) => [...document.querySelectorAll('#' + table + ' tbody tr')].find(tr => tr.cells[0].innerText.trim() === key)
	window.nodeRow = id => rowOf('nodes', id).innerText + '\n'
	window.apiRow = name => rowOf('apis', name)`

// open opens the pages of both ends.
func (r *pageRun) open() {
	r.Helper()
	b := browser.Start(r.T)
	for _, e := range []*end{r.site.agent, r.site.gateway} {
		p := &pageOfEnd{end: e, url: "http://" + e.flags["admin-listen"] + "/"}
		p.page = b.Open(r.T, p.url, wide)
		shows(r.T, p.page, live)
		p.page.Eval(new(any), "{"+helpers+"}")
		if e == r.site.agent {
			r.agent = p
		} else {
			r.gateway = p
		}
	}
}

// document reads /status.
func (r *pageRun) document(e *pageOfEnd) (d document.Document) {
	r.Helper()
	resp, err := http.Get(e.url + "status")
	try(r.T, err)
	defer resp.Body.Close()
	try(r.T, json.NewDecoder(resp.Body).Decode(&d))
	return d
}

func node(d document.Document, id int32) document.Node {
	i := slices.IndexFunc(d.Nodes, func(n document.Node) bool { return n.ID == id })
	if i < 0 {
		return document.Node{}
	}
	return d.Nodes[i]
}

func api(d document.Document, name string) document.API {
	i := slices.IndexFunc(d.APIs, func(a document.API) bool { return a.Name == name })
	if i < 0 {
		return document.API{}
	}
	return d.APIs[i]
}

// follows waits until /status says something, and then until the page shows it.
func (r *pageRun) follows(what string, e *pageOfEnd, says func(document.Document) bool, js string) {
	r.Helper()
	deadline := time.Now().Add(patience)
	for !says(r.document(e)) {
		if time.Now().After(deadline) {
			r.Fatalf("%s: /status of the %s does not say so: %+v", what, e.end.command, r.document(e))
		}
		time.Sleep(20 * time.Millisecond)
	}
	begin := time.Now()
	shows(r.T, e.page, js)
	r.Logf("%s: the page of the %s shows it %v after /status", what, e.end.command, time.Since(begin).Round(time.Millisecond))
}

// load has clients produce and consume until the function that it returns is called.
func (r *pageRun) load() (stop func()) {
	r.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(r.site.agent.flags["listen"]), kgo.ConsumeTopics(topicOfASite), kgo.ConsumerGroup("page"), kgo.DefaultProduceTopic(topicOfASite),
		kgo.MetadataMinAge(100*time.Millisecond), kgo.MetadataMaxAge(2*time.Second), kgo.AutoCommitInterval(time.Second), kgo.HeartbeatInterval(time.Second), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
	try(r.T, err)
	ctx, cancel := context.WithCancel(r.Context())
	done := make(chan struct{}, 2)
	go func() {
		defer func() { done <- struct{}{} }()
		for i := 0; ctx.Err() == nil; i++ {
			client.ProduceSync(ctx, &kgo.Record{Value: []byte(strings.Repeat("record ", 100+i%300))})
			time.Sleep(time.Duration(5+i/50%5*5) * time.Millisecond)
		}
	}()
	go func() {
		defer func() { done <- struct{}{} }()
		for ctx.Err() == nil {
			client.PollFetches(ctx)
		}
	}()
	return func() {
		cancel()
		<-done
		<-done
		client.Close()
	}
}

// poke connects to a node's port again and again, as a client does.
func (r *pageRun) poke(id int) (stop func()) {
	ctx, cancel := context.WithCancel(r.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			r.site.askNode(id)
			time.Sleep(200 * time.Millisecond)
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// shownValues is what a page shows, and of which second.
type shownValues struct {
	Time        time.Time
	Connections string
	APIs        map[string][]string // the cells of each row
	Nodes       map[string][]string
}

const values = `(() => { const rows = table => Object.fromEntries([...document.querySelectorAll('#' + table + ' tbody tr:not(.group)')].map(tr => [tr.cells[0].innerText.trim(), [...tr.cells].map(c => c.textContent)]))
	return { Time: culvert.document.time, Connections: document.querySelector('.clients .lines li').textContent, APIs: rows('apis'), Nodes: rows('nodes') } })()`

// agree compares what the page shows with the document of the same second, which this test reads by
// itself.
func (r *pageRun) agree(e *pageOfEnd) {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, "GET", e.url+"status/stream", nil)
	try(r.T, err)
	resp, err := http.DefaultClient.Do(request)
	try(r.T, err)
	defer resp.Body.Close()
	events := json.NewDecoder(&dataOnly{resp.Body})
	for {
		var d document.Document
		try(r.T, events.Decode(&d))
		var v shownValues
		shows(r.T, e.page, fmt.Sprintf("Date.parse(culvert.document.time) >= Date.parse(%q)", d.Time.Format(time.RFC3339Nano)))
		if e.page.Eval(&v, values); !v.Time.Equal(d.Time) {
			continue // the page is one ahead
		}
		r.compare(e, d, v)
		return
	}
}

func (r *pageRun) compare(e *pageOfEnd, d document.Document, v shownValues) {
	r.Helper()
	if first, _, _ := strings.Cut(v.Connections, " "); first != strconv.Itoa(d.Clients.Connections) {
		r.Errorf("the page of the %s shows %s, /status %d connections", e.end.command, v.Connections, d.Clients.Connections)
	}
	if len(v.APIs) != len(d.APIs) || len(v.Nodes) != len(d.Nodes) || len(d.APIs) == 0 || len(d.Nodes) == 0 {
		r.Errorf("the page of the %s shows %d API keys and %d brokers, /status %d and %d", e.end.command, len(v.APIs), len(v.Nodes), len(d.APIs), len(d.Nodes))
	}
	for _, a := range d.APIs {
		want := []string{a.Name, "", thousands(a.Requests)}
		if a.Latency != nil {
			want = append(want, milliseconds(a.Latency.Mean), milliseconds(a.Latency.P50), milliseconds(a.Latency.P90), milliseconds(a.Latency.P99))
		}
		if a.Gateway != nil {
			share := "–"
			if !a.LongPoll {
				share = milliseconds(a.Tunnel)
			}
			want = append(want, milliseconds(a.Gateway.Mean), share)
		}
		for _, s := range want {
			if !slices.Contains(v.APIs[a.Name], s) {
				r.Errorf("the page of the %s shows %q of %s, want %s: %+v", e.end.command, v.APIs[a.Name], a.Name, s, a)
			}
		}
	}
	for _, n := range d.Nodes {
		row := v.Nodes[strconv.Itoa(int(n.ID))]
		if len(row) < 3 || !strings.HasPrefix(row[1], n.State) && !n.SparePort || row[2] != strconv.Itoa(n.Connections) || n.Advertised != "" && !slices.Contains(row, n.Advertised) {
			r.Errorf("the page of the %s shows %q of broker %d: %+v", e.end.command, row, n.ID, n)
		}
	}
}

// countsAgree compares the requests of each API key on the page with those of /metrics, when none
// come any more.
func (r *pageRun) countsAgree(e *pageOfEnd) {
	r.Helper()
	deadline := time.Now().Add(patience)
	for {
		metrics := scrape(r.T, e.end.flags["admin-listen"])
		var v shownValues
		e.page.Eval(&v, values)
		var differ []string
		for name, row := range v.APIs {
			if want := thousands(uint64(metrics[fmt.Sprintf("culvert_requests_total{api_key=%q}", name)])); len(row) < 3 || row[2] != want {
				differ = append(differ, fmt.Sprintf("%s: %q, want %s", name, row, want))
			}
		}
		if len(differ) == 0 && len(v.APIs) > 0 {
			return
		}
		if time.Now().After(deadline) {
			r.Fatalf("the page of the %s and /metrics differ: %q", e.end.command, differ)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// thousands and milliseconds write as the page does, by other means.
func thousands(n uint64) string {
	s := strconv.FormatUint(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func milliseconds(seconds float64) string {
	seconds *= 1 + 1e-12 // JavaScript rounds halves up, and Go to the even digit
	switch {
	case seconds <= 0:
		return "0ms"
	case seconds < 0.001:
		return fmt.Sprintf("%.0fµs", max(1, seconds*1e6))
	case seconds < 0.01:
		return fmt.Sprintf("%.2fms", seconds*1e3)
	case seconds < 0.1:
		return fmt.Sprintf("%.1fms", seconds*1e3)
	case seconds < 1:
		return fmt.Sprintf("%.0fms", seconds*1e3)
	case seconds < 10:
		return fmt.Sprintf("%.2fs", seconds)
	}
	return fmt.Sprintf("%.1fs", seconds)
}

// picture writes what the pages look like, if that is asked for.
func (r *pageRun) picture(name string) {
	r.Helper()
	dir := os.Getenv(screenshots)
	if dir == "" {
		return
	}
	try(r.T, os.MkdirAll(dir, 0o755))
	time.Sleep(70 * time.Second) // until the trend of a minute is there
	phone := narrow
	phone.Height = 1240
	for look, view := range map[string]browser.View{"light": wide, "dark": dark(wide), "narrow": phone} {
		for _, e := range []*pageOfEnd{r.agent, r.gateway} {
			if e == r.gateway && look == "narrow" {
				continue
			}
			p := e.page.Another(view)
			shows(r.T, p, live)
			file := filepath.Join(dir, fmt.Sprintf("page-%s-%s-%s.png", e.end.command, name, look))
			p.Screenshot(file, look != "narrow")
			p.Close()
			if _, err := exec.LookPath("pngquant"); err == nil {
				try(r.T, exec.Command("pngquant", "--force", "--ext", ".png", "--strip", "128", file).Run())
			}
		}
	}
}

// dataOnly takes the field names out of a stream of events.
type dataOnly struct {
	r interface{ Read([]byte) (int, error) }
}

func (d *dataOnly) Read(b []byte) (int, error) {
	n, err := d.r.Read(b)
	text := strings.ReplaceAll(string(b[:n]), "\ndata: ", "\n      ")
	if after, ok := strings.CutPrefix(text, "data: "); ok {
		text = "      " + after
	}
	return copy(b, text), err
}
