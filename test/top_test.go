package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/culvert-proxy/culvert/test/kafka"
	"github.com/culvert-proxy/culvert/test/proc"
)

// tmux is a shell in a terminal of a given size.
type tmux struct {
	t        *testing.T
	socket   string
	columns  int
	commands int
}

// prompt is how the shell asks for a command.
const prompt = `[$#]`

// newTmux starts a shell.
func newTmux(t *testing.T, columns, rows int) *tmux {
	t.Helper()
	if _, err := exec.LookPath("tmux"); err != nil {
		t.Skip("needs tmux (Debian: apt-get install tmux)")
	}
	binary, err := build()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "tmux") // short: the path of a socket has a limit
	if err != nil {
		t.Fatal(err)
	}
	tm := &tmux{t: t, socket: filepath.Join(dir, "s"), columns: columns}
	t.Cleanup(func() {
		exec.Command("tmux", "-S", tm.socket, "kill-server").Run()
		os.RemoveAll(dir)
	})
	unset := "-u NO_COLOR"
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "CULVERT_") {
			unset += " -u " + name
		}
	}
	tm.run("-f", "/dev/null", "new-session", "-d", "-x", strconv.Itoa(columns), "-y", strconv.Itoa(rows),
		"env "+unset+" LC_ALL=C.UTF-8 PATH='"+filepath.Dir(binary)+":"+os.Getenv("PATH")+"' sh")
	tm.see(prompt)
	return tm
}

func (tm *tmux) run(args ...string) string {
	tm.t.Helper()
	out, err := proc.Run(tm.t.Context(), exec.Command("tmux", append([]string{"-S", tm.socket, "-u"}, args...)...))
	if err != nil {
		tm.t.Fatal(err)
	}
	return out
}

// keys sends keys, by tmux's names.
func (tm *tmux) keys(keys ...string) { tm.run(append([]string{"send-keys"}, keys...)...) }

// command has the shell run a line.
func (tm *tmux) command(line string) {
	tm.commands++
	tm.keys(fmt.Sprintf("%s; echo exit $? of %d", line, tm.commands), "Enter")
}

// seeExit waits until the last command has ended.
func (tm *tmux) seeExit(code int) string {
	tm.t.Helper()
	return tm.see(fmt.Sprintf("^exit %d of %d$", code, tm.commands))
}

// screen returns what is visible.
func (tm *tmux) screen() string { return tm.run("capture-pane", "-p") }

// see waits until the screen matches a pattern, in which ^ and $ are ends of lines.
func (tm *tmux) see(pattern string) string {
	tm.t.Helper()
	re := regexp.MustCompile("(?m)" + pattern)
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		screen := tm.screen()
		if re.MatchString(screen) {
			return screen
		}
		if time.Now().After(deadline) {
			tm.t.Fatalf("%s is not on the screen:\n%s", pattern, screen)
		}
	}
}

// all returns what was printed since the screen was cleared, of which lines may have scrolled away,
// and fails if the terminal has wrapped one.
func (tm *tmux) all() string {
	tm.t.Helper()
	printed, joined := tm.run("capture-pane", "-p", "-S", "-"), tm.run("capture-pane", "-p", "-J", "-S", "-")
	if strings.Count(printed, "\n") != strings.Count(joined, "\n") {
		tm.t.Errorf("a line is wider than the terminal, %d columns:\n%s", tm.columns, printed)
	}
	return printed
}

// wantRestored fails unless the terminal is as a shell expects it.
func (tm *tmux) wantRestored(what, settings string) {
	tm.t.Helper()
	if got := strings.TrimSpace(tm.run("display-message", "-p", "#{alternate_on} #{cursor_flag} #{wrap_flag}")); got != "0 1 1" {
		tm.t.Errorf("after %s: alternate screen, cursor, wrap: %s, want 0 1 1", what, got)
	}
	if got := tm.settings(); got != settings {
		tm.t.Errorf("after %s, stty says\n%s\nand before\n%s", what, got, settings)
	}
}

// settings are the terminal's.
func (tm *tmux) settings() string {
	tm.t.Helper()
	name := strings.TrimSpace(tm.run("display-message", "-p", "#{pane_tty}"))
	out, err := proc.Run(tm.t.Context(), exec.Command("stty", "-g", "-F", name))
	if err != nil {
		tm.t.Fatal(err)
	}
	return out
}

// TestStatusAndTopOnATerminal watches an agent and a gateway that carry records.
func TestStatusAndTopOnATerminal(t *testing.T) {
	p := sharedTestbed(t).paths["ws"]
	topic, stop := p.cluster.Topic(t, "top"), make(chan struct{})
	client := p.franz(t, kgo.ConsumeTopics(topic)) // which fetches, also while nobody asks it for records
	produce(t, client, numbered(topic, 1))         // what follows sees that API key
	stopped := make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				stopped <- nil
				return
			case <-time.After(20 * time.Millisecond):
			}
			if err := client.ProduceSync(t.Context(), numbered(topic, 1)...).FirstErr(); err != nil {
				stopped <- err
				return
			}
		}
	}()
	defer func() {
		close(stop)
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	}()
	for _, size := range [][2]int{{80, 24}, {200, 50}} {
		t.Run(fmt.Sprintf("%dx%d", size[0], size[1]), func(t *testing.T) {
			tm := newTmux(t, size[0], size[1])
			checkStatus(t, tm, p)
			checkTop(t, tm, p)
		})
	}
}

// checkStatus reads the page of both ends.
func checkStatus(t *testing.T, tm *tmux, p *path) {
	for end, admin := range map[string]string{"agent": p.admin, "gateway": p.gateway.admin} {
		tm.run("clear-history")
		tm.command("clear; culvert status --admin " + admin)
		tm.seeExit(0)
		page := tm.all()
		for _, want := range []string{`culvert ` + end, `● ready`, `║ tunnel +ws, round trip`, `^Produce .*\d`, `^long polls`, `^ *\d+ +reached`} {
			if !regexp.MustCompile("(?m)" + want).MatchString(page) {
				t.Errorf("the page of the %s lacks %s:\n%s", end, want, page)
			}
		}
	}
}

// checkTop watches, sorts, leaves and comes back.
func checkTop(t *testing.T, tm *tmux, p *path) {
	settings := tm.settings()
	tm.command("clear; echo before; culvert top --admin " + p.admin)
	tm.see(`q quit`)
	produced := regexp.MustCompile(`(?m)^Produce .*`)
	first := produced.FindString(tm.screen())
	for deadline := time.Now().Add(patience); produced.FindString(tm.screen()) == first; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the figures of Produce do not change:\n%s", tm.screen())
		}
	}
	tm.keys("a")
	names := apiNames(tm.see(`^API▲ `))
	if !slices.IsSorted(names) || len(names) < 2 {
		t.Errorf("by name: %q", names)
	}
	tm.keys("a")
	if names := apiNames(tm.see(`^API▼ `)); !slices.IsSortedFunc(names, func(a, b string) int { return strings.Compare(b, a) }) {
		t.Errorf("by name, reversed: %q", names)
	}
	tm.keys("Right")
	tm.see(`rate▼`)
	tm.keys("2")
	tm.see(`^id +state`)
	tm.keys("3")
	tm.see(`no events|ago`)
	tm.keys("1", "Space")
	tm.see(`^ paused `)
	tm.keys("q")
	tm.see(`^before\nexit 0 `)
	tm.wantRestored("q", settings)

	tm.command("clear; sh -c 'echo $$ > " + tm.socket + ".pid; exec culvert top --admin " + p.gateway.admin + "'")
	tm.see(`q quit`)
	pid, err := os.ReadFile(tm.socket + ".pid")
	if err != nil {
		t.Fatal(err)
	}
	tm.run("resize-window", "-x", strconv.Itoa(tm.columns+7), "-y", "20")
	tm.see(`q quit`)
	if _, err := proc.Run(t.Context(), exec.Command("kill", "-TERM", strings.TrimSpace(string(pid)))); err != nil {
		t.Fatal(err)
	}
	tm.seeExit(0)
	tm.wantRestored("SIGTERM", settings)
	tm.run("resize-window", "-x", strconv.Itoa(tm.columns))
}

// apiNames are the names in the table of API keys, without the long polls.
func apiNames(screen string) (names []string) {
	_, table, _ := strings.Cut(screen, "\nAPI")
	for _, l := range strings.Split(table, "\n")[1:] {
		if strings.HasPrefix(l, "total") || l == "" || strings.HasPrefix(l, "↓") {
			return names
		}
		names = append(names, strings.Fields(l)[0])
	}
	return names
}

// TestTopOutlivesWhatItWatches watches a gateway that is restarted and has no brokers.
func TestTopOutlivesWhatItWatches(t *testing.T) {
	if os.Getenv("CULVERT_TEST_REAL") == "" {
		t.Skip("starts culvert: set CULVERT_TEST_REAL=1 (go run ./test/all does)")
	}
	tm := newTmux(t, 80, 24)
	ports, err := kafka.FreePorts(2)
	if err != nil {
		t.Fatal(err)
	}
	admin := address(clientHost, ports[1])
	start := func() *proc.Process {
		binary, err := build()
		if err != nil {
			t.Fatal(err)
		}
		g, err := startCulvert(t.Context(), exec.Command(binary, "gateway", "--listen", address(clientHost, ports[0]), "--bootstrap", "127.0.0.1:1", "--insecure-no-auth", "--admin-listen", admin))
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	tm.command("culvert status --admin " + admin)
	tm.see(`nothing listens on ` + admin)
	tm.seeExit(1)
	g := start()
	defer func() { g.Kill() }()
	tm.command("clear; culvert status --admin " + admin)
	tm.seeExit(1)
	if page := tm.all(); !strings.Contains(page, "culvert gateway") || !strings.Contains(page, "no bootstrap broker answers") {
		t.Errorf("the page of a gateway without brokers:\n%s", page)
	}
	tm.command("clear; echo before; culvert top --admin " + admin)
	tm.see(`q quit`)
	if err := stopCulvert(g); err != nil {
		t.Fatal(err)
	}
	tm.see(`not reached since \d\d:\d\d:\d\d, trying again: nothing listens on`)
	g = start()
	tm.see(`^● culvert gateway (starting|not ready)`)
	tm.keys("C-c")
	tm.see(`^before\nexit 0 `)
}
