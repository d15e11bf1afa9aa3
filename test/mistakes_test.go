package test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/culvert-proxy/culvert/test/cache"
)

// mistake is one row of the table in docs/troubleshooting.md, which says what everybody sees. Here
// is how it is made, and how it is mended.
type mistake struct {
	name string // the row's first cell
	// make changes the site before anything starts.
	make func(s *site)
	// then, if set, happens when a client has been answered.
	then func(s *site)
	// ask is what the client does; nil: it asks the bootstrap address for the API versions.
	ask func(s *site) string
	// mend undoes the mistake, after mended has been set. Neither process is restarted, unless mend
	// does so.
	mend func(s *site)
	// options are those of a client that works when the mistake is mended.
	options func(s *site) []kgo.Opt
	// doctor are flags for the doctor in addition to the agent's.
	doctor []string
}

// row is what the documentation says about a mistake.
type row struct {
	client, agent, gateway, doctor, mended cell
}

// cell is a part of the table: each quotation is a line, and … stands for anything.
type cell struct {
	text   string
	quotes []string
	exit   int // the exit code that is named; -1: none
}

// TestMistakes makes each mistake of the table in a real set-up. The client, both logs and the
// doctor must show what the table says, once and nothing else. When the mistake is mended, the
// all-clear must come, and clients must work.
func TestMistakes(t *testing.T) {
	rows := readTable(t)
	all := slices.Concat(gatewayMistakes, brokerMistakes, clientMistakes, settingsMistakes)
	for _, m := range all {
		r, ok := rows[m.name]
		delete(rows, m.name)
		t.Run(strings.ReplaceAll(m.name, " ", "-"), func(t *testing.T) {
			if !ok {
				t.Error("docs/troubleshooting.md has no row for this mistake")
				r.agent.exit, r.gateway.exit = -1, -1 // what is seen is logged below
			}
			needReal(t)
			t.Parallel()
			m.check(t, r)
		})
	}
	for name := range rows {
		t.Errorf("docs/troubleshooting.md has a row %q, and no test makes this mistake", name)
	}
	if !testing.Short() && len(all) < atLeast {
		t.Errorf("%d mistakes, want at least %d", len(all), atLeast)
	}
}

// atLeast is how many mistakes the table must have.
const atLeast = 30

func (m mistake) check(t *testing.T, want row) {
	s := newSite(t)
	if m.make != nil {
		m.make(s)
	}
	want.gateway.start(s.gateway)
	want.agent.start(s.agent)
	ask := m.ask
	if ask == nil {
		ask = (*site).askAgent
	}
	if m.then != nil {
		s.mustWork(ask)
		s.agent.mustBe("ready")
		m.then(s)
	}
	for range 3 { // a line for each retry would show
		if sees := ask(s); !strings.Contains(want.client.text, sees) {
			t.Errorf("the client sees %q, want %q", sees, want.client.text)
		}
	}
	findings, code := s.doctor(m.doctor...)
	want.doctor.check(t, "the doctor", findings)
	if want.doctor.exit = max(want.doctor.exit, 0); code != want.doctor.exit {
		t.Errorf("the doctor's exit code is %d, want %d:\n%s", code, want.doctor.exit, strings.Join(findings, "\n"))
	}
	want.agent.checkLog(t, s.agent)
	want.gateway.checkLog(t, s.gateway)
	if t.Failed() {
		return
	}
	if s.mended = true; m.mend != nil {
		m.mend(s)
	}
	s.mustWork(ask)
	want.mended.await(t, s)
	s.produceAndConsume(m.options)
	for _, e := range []*end{s.agent, s.gateway} {
		e.stop()
		if e.restarts == 0 {
			c := map[*end]cell{s.agent: want.agent, s.gateway: want.gateway}[e]
			c.checkLog(t, e)
		} else {
			cell{}.checkLog(t, e)
		}
	}
}

// start starts a process, which must listen or, if the cell names an exit code, end with that.
func (c cell) start(e *end) {
	t := e.site.T
	t.Helper()
	switch {
	case e.absent:
	case c.exit < 0:
		e.start()
		e.mustBe("listening")
	default:
		e.start()
		select {
		case <-e.process.Done():
		case <-time.After(patience):
			t.Fatalf("the %s runs, want exit code %d", e.command, c.exit)
		}
		if exit, ok := errors.AsType[*exec.ExitError](e.process.Wait()); !ok || exit.ExitCode() != c.exit {
			t.Errorf("the %s ends with %v, want exit code %d", e.command, e.process.Wait(), c.exit)
		}
	}
}

// mustWork waits until the client is answered.
func (s *site) mustWork(ask func(*site) string) {
	s.Helper()
	var sees string
	await(s.T, 2*patience, "the client works", func() bool {
		sees = ask(s)
		return sees == "works"
	})
}

// checkLog fails the test unless the warnings and errors of a process are those of the cell.
func (c cell) checkLog(t *testing.T, e *end) {
	t.Helper()
	var said []string
	for _, l := range e.complaints() {
		if l.Msg == notReached && e.site.gateway.restarts > 0 && !c.has(l.text) {
			continue // while the gateway was restarted to mend the mistake
		}
		said = append(said, l.text)
	}
	if c.check(t, "the log of the "+e.command, said); len(said) != len(c.quotes) {
		t.Errorf("the %s warns %d times, want %d:\n%s", e.command, len(said), len(c.quotes), strings.Join(said, "\n"))
	}
}

// notReached is what an agent says when it reaches no gateway.
const notReached = "gateway not reached"

// has reports whether a quotation of the cell is in a line.
func (c cell) has(line string) bool {
	return slices.ContainsFunc(c.quotes, func(quote string) bool { return quoted(quote).MatchString(line) })
}

// check fails the test unless each quotation of the cell is in one of the lines, and in one only.
func (c cell) check(t *testing.T, where string, lines []string) {
	t.Helper()
	for _, quote := range c.quotes {
		n := 0
		for _, l := range lines {
			if quoted(quote).MatchString(l) {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%s has %q %d times, want once:\n%s", where, quote, n, strings.Join(lines, "\n"))
		}
	}
}

// await waits until each quotation of the cell is in the log of one of the ends.
func (c cell) await(t *testing.T, s *site) {
	t.Helper()
	for _, quote := range c.quotes {
		pattern := quoted(quote)
		await(t, 2*patience, "the all-clear "+quote, func() bool {
			for _, e := range []*end{s.agent, s.gateway} {
				if slices.ContainsFunc(e.lines(), func(l line) bool { return pattern.MatchString(l.text) }) {
					return true
				}
			}
			return false
		})
	}
}

// quoted returns the pattern of a quotation.
func quoted(quote string) *regexp.Regexp {
	parts := strings.Split(quote, "…")
	for i, p := range parts {
		parts[i] = regexp.QuoteMeta(p)
	}
	return regexp.MustCompile(strings.Join(parts, ".*"))
}

// tableHeading is the section of docs/troubleshooting.md with the table.
const tableHeading = "\n## Mistakes\n"

// readTable reads the table of docs/troubleshooting.md.
func readTable(t *testing.T) map[string]row {
	t.Helper()
	root, err := cache.Root()
	try(t, err)
	page, err := os.ReadFile(filepath.Join(root, "docs", "troubleshooting.md"))
	try(t, err)
	_, section, found := strings.Cut(string(page), tableHeading)
	if !found {
		t.Fatalf("docs/troubleshooting.md has no section %q", strings.TrimSpace(tableHeading))
	}
	section, _, _ = strings.Cut(section, "\n## ")
	rows := make(map[string]row)
	for l := range strings.Lines(section) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(l), "|"), " | ")
		if !strings.HasPrefix(l, "| ") || len(cells) < 2 || strings.HasPrefix(l, "| mistake ") || strings.HasPrefix(l, "| --") {
			continue
		}
		if len(cells) != 7 {
			t.Fatalf("docs/troubleshooting.md: a row with %d cells, want 7: %s", len(cells), l)
		}
		rows[strings.TrimSpace(cells[0])] = row{
			client: newCell(t, cells[1]), agent: newCell(t, cells[2]), gateway: newCell(t, cells[3]), doctor: newCell(t, cells[4]), mended: newCell(t, cells[6]),
		}
	}
	return rows
}

var quotation = regexp.MustCompile("`([^`]+)`")

func newCell(t *testing.T, text string) cell {
	t.Helper()
	c := cell{text: text, exit: -1}
	if _, code, given := strings.Cut(text, "exit "); given {
		_, err := fmt.Sscan(code, &c.exit)
		try(t, err)
	}
	for _, m := range quotation.FindAllStringSubmatch(text, -1) {
		c.quotes = append(c.quotes, m[1])
	}
	return c
}
