package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/culvert-proxy/culvert/proxy/doctor"
)

// pty is a terminal of which the test sees what is written to it.
type pty struct {
	*os.File // for the program
	master   *os.File
	done     chan struct{}

	mu  sync.Mutex
	raw bytes.Buffer
}

// newPTY opens a terminal of so many columns.
func newPTY(t *testing.T, columns int) *pty {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetUint32(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: uint16(columns)}); err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	p := &pty{File: slave, master: master, done: make(chan struct{})}
	go p.read()
	t.Cleanup(func() { p.end() })
	return p
}

// read collects what is written until the last program has closed the terminal.
func (p *pty) read() {
	defer close(p.done)
	buf := make([]byte, 4096)
	for {
		n, err := p.master.Read(buf)
		p.mu.Lock()
		p.raw.Write(buf[:n])
		p.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// written is all that has been written so far.
func (p *pty) written() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.raw.String()
}

// end closes the terminal, and returns all that was written.
func (p *pty) end() string {
	p.File.Close()
	<-p.done
	p.master.Close()
	return p.written()
}

// sgr is a change of colour.
var sgr = regexp.MustCompile(`\x1b\[[0-9;]*m`)

// screen is what a terminal shows after raw was written to it. It fails for what moves the cursor
// elsewhere than to the beginning of a line.
func screen(t *testing.T, raw string) (lines []string) {
	t.Helper()
	var line []rune
	column := 0
	for _, r := range sgr.ReplaceAllString(raw, "") {
		switch {
		case r == '\r':
			column = 0
		case r == '\n':
			lines = append(lines, strings.TrimRight(string(line), " "))
			line, column = nil, 0
		case r < ' ' || r == 0x7f:
			t.Errorf("control character %q on the terminal", r)
		default:
			if column == len(line) {
				line = append(line, ' ')
			}
			line[column] = r
			column++
		}
	}
	if rest := strings.TrimRight(string(line), " "); rest != "" {
		lines = append(lines, rest)
	}
	return lines
}

// masked replaces what differs from run to run: numbers, and lines about ports that happen to be
// taken.
func masked(lines []string) (kept []string) {
	numbers, gaps := regexp.MustCompile(`-?[0-9]+(\.[0-9]+)*(µs|ms|s\b)?`), regexp.MustCompile(` +`)
	for _, line := range lines {
		if !strings.Contains(line, "are taken") {
			kept = append(kept, gaps.ReplaceAllString(numbers.ReplaceAllString(line, "N"), " "))
		}
	}
	return kept
}

// onTerminal runs the command on a terminal until it ends, and returns all that it wrote there.
func onTerminal(t *testing.T, env []string, args ...string) string {
	t.Helper()
	p := newPTY(t, 80)
	cmd := exec.Command("culvert", args...)
	cmd.Env = append(cmd.Environ(), append([]string{"TERM=xterm", "NO_COLOR="}, env...)...)
	cmd.Stdout, cmd.Stderr = p.File, p.File
	if _, failed := errors.AsType[*exec.ExitError](cmd.Run()); failed && args[0] == "demo" {
		t.Errorf("%v failed on a terminal", args)
	}
	return p.end()
}

func TestTheDemoLeavesTheSameLinesOnATerminal(t *testing.T) {
	args := []string{"demo", "--once", "--listen", "127.0.0.1:0", "--transport", "ws"}
	plain, err := exec.Command("culvert", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, plain)
	}
	if strings.ContainsAny(string(plain), "\r\x1b") {
		t.Errorf("control characters in a pipe: %q", plain)
	}
	want := masked(strings.Split(strings.TrimRight(string(plain), "\n"), "\n"))
	for _, tt := range []struct {
		env              string
		colors, progress bool
	}{{"NO_COLOR=", true, true}, {"NO_COLOR=1", false, true}, {"TERM=dumb", false, false}} {
		raw := onTerminal(t, []string{tt.env}, args...)
		if got := masked(screen(t, raw)); !slices.Equal(got, want) {
			t.Errorf("%s: the terminal shows\n%s\nand a pipe gets\n%s", tt.env, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		if got := strings.Contains(raw, "\x1b"); got != tt.colors {
			t.Errorf("%s: colours: %v, want %v in %q", tt.env, got, tt.colors, raw)
		}
		if got := regexp.MustCompile(`\r  \.\.\. producing 300 records \d`).MatchString(raw); got != tt.progress {
			t.Errorf("%s: says what it does: %v, want %v in %q", tt.env, got, tt.progress, raw)
		}
	}
}

// startMute starts what accepts connections and says nothing, until hangUp: then it closes them, and
// those that come later.
func startMute(t *testing.T) (address string, hangUp func()) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, hangUp := context.WithCancel(t.Context())
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			context.AfterFunc(ctx, func() { c.Close() })
		}
	}()
	return ln.Addr().String(), hangUp
}

func TestTheDoctorShowsWhatItWaitsFor(t *testing.T) {
	broker, hangUp := startMute(t)
	args := []string{"doctor", "--bootstrap", broker}
	p := newPTY(t, 80)
	cmd := exec.Command("culvert", args...)
	cmd.Env = append(cmd.Environ(), "TERM=xterm", "NO_COLOR=")
	cmd.Stdout, cmd.Stderr = p.File, p.File
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	await(t, "the findings so far, the hop that hangs, and for how long", func() bool {
		lines := screen(t, p.written())
		return len(lines) == 3 && strings.HasPrefix(lines[1], "ok    tcp ") && regexp.MustCompile(`^\.\.\.   bootstrap    [1-9].*s$`).MatchString(lines[2])
	})
	hangUp()
	if err := cmd.Wait(); err == nil {
		t.Error("the doctor is content")
	}
	raw := p.end()
	if !strings.Contains(raw, "\x1b[32mok   \x1b[0m") || !strings.Contains(raw, "\x1b[31mfail \x1b[0m") {
		t.Errorf("no colours in %q", raw)
	}
	for _, args := range [][]string{args, append(args, "--json")} {
		plain, _ := exec.Command("culvert", args...).CombinedOutput()
		if strings.ContainsAny(string(plain), "\r\x1b") {
			t.Errorf("control characters in a pipe: %q", plain)
		}
		if args[len(args)-1] == "--json" {
			raw = onTerminal(t, nil, args...)
			if strings.Contains(raw, "...") || strings.Contains(raw, "\x1b") {
				t.Errorf("more than JSON: %q", raw)
			}
		}
		want := masked(strings.Split(strings.TrimRight(string(plain), "\n"), "\n"))
		if got := masked(screen(t, raw)); !slices.Equal(got, want) {
			t.Errorf("%v: the terminal shows\n%s\nand a pipe gets\n%s", args, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

// Whatever a peer has sent, and whatever is logged meanwhile, the line of the progress goes and the
// others stay.
func TestProgressAndLogShareATerminal(t *testing.T) {
	t.Setenv("TERM", "xterm")
	t.Setenv("NO_COLOR", "")
	p := newPTY(t, 30)
	a := &app{stdout: p.File, stderr: &queuedWriter{w: p.File}}
	out, done := a.progress()
	out.show("examining something that has a long name")
	fmt.Fprintln(a.stderr, "logged")
	a.stderr.flush()
	await(t, "the line to be drawn again", func() bool {
		lines := screen(t, p.written())
		return len(lines) == 2 && lines[0] == "logged" && regexp.MustCompile(`^examining something .* [0-9.]+m?s$`).MatchString(lines[1]) && len(lines[1]) < 30
	})
	new(doctorCmd).print(out, doctor.Finding{Hop: "tls", Result: doctor.Fail, Text: "\x1b[2J\x1b]0;pwned\x07\rok    tls", Remedy: "\x1b[31m\u202e"})
	out.show("more")
	fmt.Fprintln(a.stderr, "logged too")
	a.stderr.flush()
	done()
	fmt.Fprintln(a.stderr, "the end")
	a.stderr.flush()
	raw := p.end()
	if strings.Contains(strings.ReplaceAll(strings.ReplaceAll(raw, "\x1b[31mfail \x1b[0m", ""), "\r\n", ""), "\x1b") {
		t.Errorf("the peer's sequences are on the terminal: %q", raw)
	}
	got := screen(t, raw)
	if len(got) != 5 || got[0] != "logged" || !strings.HasPrefix(got[1], "fail  tls") || !strings.Contains(got[2], "hint:") || got[3] != "logged too" || got[4] != "the end" {
		t.Errorf("the terminal shows %q", got)
	}
}
