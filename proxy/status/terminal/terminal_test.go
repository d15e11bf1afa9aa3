package terminal

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/culvert-proxy/culvert/proxy/status/document"
)

var update = flag.Bool("update", false, "write the golden files")

// golden compares what was drawn with a file.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".txt")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", file, diff)
	}
}

// documents are those that the golden files show.
var documents = map[string]func() document.Document{
	"agent-healthy": healthyAgent, "agent-broken": brokenAgent, "gateway-healthy": healthyGateway, "gateway-broken": brokenGateway,
}

func TestThePageOfStatus(t *testing.T) {
	for name, d := range documents {
		for _, size := range [][2]int{{80, 24}, {200, 50}} {
			term := Terminal{Width: size[0], Height: size[1], Unicode: true}
			d := d()
			golden(t, fmt.Sprintf("status-%s-%d", name, term.Width), term.Status(&d))
		}
	}
}

func TestTheScreenOfTop(t *testing.T) {
	for name, d := range documents {
		for _, size := range [][2]int{{80, 24}, {200, 50}} {
			term := Terminal{Width: size[0], Height: size[1], Unicode: true}
			d := d()
			golden(t, fmt.Sprintf("top-%s-%d", name, term.Width), strings.Join(term.Top(&d, NewView()), "\n")+"\n")
		}
	}
}

// escapes are the sequences that we write ourselves.
var escapes = regexp.MustCompile("\x1b\\[[0-9;]*m")

// Whatever a document holds, at any size, in any style, no line is wider than the terminal, and no
// character but our own sequences is one that a terminal obeys.
// A gateway stays ready while no broker answers.
func TestWhatIsMissingHasATime(t *testing.T) {
	d := healthyGateway()
	d.State = document.State{Name: document.Ready, Since: ago(8 * time.Second), Missing: "no bootstrap broker answers"}
	term := Terminal{Width: 80, Height: 24}
	const want = "ready, but for 8s: no bootstrap broker answers"
	if page := term.Status(&d); !strings.Contains(page, want) {
		t.Errorf("the page of status is without %q:\n%s", want, page)
	}
	if first := term.Top(&d, NewView())[0]; !strings.Contains(first, want) {
		t.Errorf("top begins with %q, want %q", first, want)
	}
}

// In an outage of the gateway, the path says without colours what has failed, and of what nothing is
// known.
func TestMarksOfThePathTellWithoutColours(t *testing.T) {
	d := healthyAgent()
	wants := func(marks ...string) {
		t.Helper()
		page := Terminal{Width: 80, Height: 24}.Status(&d)
		for _, want := range marks {
			if !strings.Contains(page, "\n  "+want) {
				t.Errorf("the page is without %q:\n%s", want, page)
			}
		}
	}
	wants("# tunnel ", "* gateway ", "* brokers ")
	d.Nodes[1].SparePort = true
	wants("! brokers ")
	d.Tunnels = brokenAgent().Tunnels
	for i := range d.Nodes {
		d.Nodes[i] = document.Node{ID: int32(i), State: document.NodeUnknown, Since: ago(time.Minute)}
	}
	wants("x tunnel ", "o gateway ", "o brokers ")
	d.Nodes[1].State = document.NodeUnreachable
	wants("x brokers ")
}

// Where brokers have names, no line counts their ports, for they have none.
func TestAListenerOfNamedBrokers(t *testing.T) {
	d := healthyAgent()
	d.Listeners = []document.Listener{{Name: "kafka", Address: "0.0.0.0:9092", Advertised: "broker-{id}.kafka.example.com", Protocols: "kafka over TLS", Connections: 3}}
	for i := range d.Nodes {
		d.Nodes[i].Local = []string{fmt.Sprintf("broker-%d.kafka.example.com:9092", d.Nodes[i].ID)}
	}
	got := Terminal{Width: 200, Height: 50, Unicode: true}.Status(&d)
	for _, want := range []string{"kafka over TLS at 0.0.0.0:9092 as broker-{id}.kafka.example.com, 3 connections", "broker-1001.kafka.example.com:9092"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in:\n%s", want, got)
		}
	}
	if strings.Contains(got, "for nodes") {
		t.Errorf("ports for nodes in:\n%s", got)
	}
}

func TestNoLineIsWiderThanTheTerminal(t *testing.T) {
	all := []func() document.Document{healthyAgent, brokenAgent, healthyGateway, brokenGateway, hostile, func() document.Document { return document.Document{} }}
	for _, make := range all {
		for _, w := range []int{20, 33, 41, 79, 80, 81, 120, 200, 500} {
			for _, term := range []Terminal{{w, 24, Plain, true}, {w, 8, Colors, true}, {w, 24, Mono, false}} {
				d := make()
				lines := strings.Split(strings.TrimSuffix(term.Status(&d), "\n"), "\n")
				for _, page := range []Page{APIs, Nodes, Events, Help} {
					for _, trouble := range []string{"", d.State.Why} {
						v := NewView()
						v.Page, v.Trouble = page, trouble
						screen := term.Top(&d, v)
						if len(screen) != term.Height {
							t.Errorf("page %d has %d lines on %d rows", page, len(screen), term.Height)
						}
						lines = append(lines, screen...)
					}
				}
				checkLines(t, term, lines)
			}
		}
	}
}

func checkLines(t *testing.T, term Terminal, lines []string) {
	t.Helper()
	for _, l := range lines {
		plain := escapes.ReplaceAllString(l, "")
		if term.Styles == Plain && plain != l {
			t.Errorf("escape sequences where there should be none: %q", l)
		}
		if n := columns(plain); n > term.Width {
			t.Errorf("%d columns on a terminal of %d: %q", n, term.Width, plain)
		}
		if strings.ContainsFunc(plain, func(r rune) bool { return r < ' ' || r > '~' && r < 0xa0 || r == '\u202e' }) || !utf8.ValidString(plain) {
			t.Errorf("not printable: %q", plain)
		}
		if !term.Unicode && strings.ContainsFunc(plain, func(r rune) bool { return r > '~' }) {
			t.Errorf("not ASCII: %q", plain)
		}
	}
}

func TestNumbersAreShort(t *testing.T) {
	for s, want := range map[float64]string{
		-1: "-", 0: "0s", 1e-9: "1.00µs", 12.3e-6: "12.3µs", 999.4e-6: "999µs", 999.6e-6: "1.00ms", 1.234e-3: "1.23ms", 24.3e-3: "24.3ms",
		0.482: "482ms", 0.9996: "1.00s", 1: "1.00s", 12.34: "12.3s", 99.94: "99.9s", 99.96: "1m40s", 3599.7: "1h", 11520: "3h12m", 90 * 86400: "90d", 1e300: ">99kd",
	} {
		if got := seconds(s); got != want || columns(got) > 6 {
			t.Errorf("seconds(%v) = %q, want %q", s, got, want)
		}
	}
	for x, want := range map[float64]string{0: "0", 0.001: "<0.01", 0.05: "0.05", 4.1: "4.10", 12.34: "12.3", 999.4: "999", 999.6: "1.00k", 1284.7: "1.28k", 1e300: ">999T"} {
		if got := rate(x); got != want || columns(got) > 6 {
			t.Errorf("rate(%v) = %q, want %q", x, got, want)
		}
	}
	for n, want := range map[uint64]string{0: "0", 99_999: "99999", 100_000: "100k", 8_123_456: "8.12M", 1<<64 - 1: "18.4E"} {
		if got := count(n); got != want {
			t.Errorf("count(%v) = %q, want %q", n, got, want)
		}
	}
	for x, want := range map[float64]string{1: "1B", 51234: "51.2kB", 12_345_678: "12.3MB", 1e300: ">999EB"} {
		if got := byteCount(x); got != want {
			t.Errorf("byteCount(%v) = %q, want %q", x, got, want)
		}
	}
}

// Keys sort by the columns that are on the screen, turn pages and scroll.
func TestKeysChangeTheView(t *testing.T) {
	d, v := healthyAgent(), NewView()
	term := Terminal{Width: 80, Height: 24, Unicode: true}
	names := func() (names []string) {
		for _, l := range term.Top(&d, v)[headerLines+2:] {
			if strings.HasPrefix(l, "total") {
				return names
			}
			names = append(names, strings.Fields(l)[0])
		}
		return names
	}
	names() // the columns are known once they have been drawn
	for _, step := range []struct {
		keys  []string
		first string
		title string
	}{
		{nil, "Produce", "rate▼"},
		{[]string{"r"}, "DescribeUserScramCr…", "rate▲"},
		{[]string{"m"}, "Metadata", "mean▼"},
		{[]string{KeyRight}, "Metadata", "brokers▼"},
		{[]string{"t"}, "Metadata", "tunnel▼"},
		{[]string{"a"}, "ApiVersions", "API▲"},
		{[]string{KeyLeft}, "ApiVersions", "API▲"}, // there is none on the left
		{[]string{"a"}, "Produce", "API▼"},
		{[]string{"f", KeyRight, KeyRight}, "Produce", "flight▼"}, // in 80 columns, there is none on the right
		{[]string{"x", "2", "m", "1"}, "Produce", "flight▼"},      // no column, and none on that page
	} {
		for _, k := range step.keys {
			if v.Key(k) {
				t.Errorf("%s quits", k)
			}
		}
		got := names()
		if title := term.Top(&d, v)[headerLines+1]; got[0] != step.first || !strings.Contains(title, step.title) {
			t.Errorf("after %q: %q first below %s, want %s by %s", step.keys, got[0], title, step.first, step.title)
		}
	}
	d = brokenGateway()
	v.Key("2")
	for range 100 {
		v.Key(KeyPageDown)
	}
	if screen := strings.Join(term.Top(&d, v), "\n"); !strings.Contains(screen, "kafka-99.") || strings.Contains(screen, "kafka-80.") {
		t.Errorf("at the end of the nodes:\n%s", screen)
	}
	v.Key(KeyPageUp)
	if screen := strings.Join(term.Top(&d, v), "\n"); !strings.Contains(screen, "kafka-80.") {
		t.Errorf("a page above the end of the nodes:\n%s", screen)
	}
	v.Key("?")
	if v.Page != Help {
		t.Errorf("? shows page %d", v.Page)
	}
	if v.Key("?"); v.Page != Nodes {
		t.Errorf("a second ? shows page %d, want the nodes again", v.Page)
	}
	for _, k := range []string{"q", KeyCtrlC} {
		if !v.Key(k) {
			t.Errorf("%s does not quit", k)
		}
	}
}
