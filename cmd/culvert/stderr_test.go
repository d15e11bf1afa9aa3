package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// piped is a culvert whose stderr the test reads itself.
type piped struct {
	t      *testing.T
	cmd    *exec.Cmd
	reader *os.File // the other end of its stderr
	done   chan struct{}
}

// startPiped starts culvert with a pipe as stderr. It is killed when the test ends.
func startPiped(t *testing.T, name string, args ...string) *piped {
	t.Helper()
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p := &piped{t: t, cmd: exec.Command(name, args...), reader: reader, done: make(chan struct{})}
	home := t.TempDir()
	p.cmd.Env = append(os.Environ(), "HOME="+home, "XDG_CACHE_HOME="+home)
	p.cmd.Stderr = writer
	err = p.cmd.Start()
	writer.Close()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		p.cmd.Wait()
	}()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-p.done
		reader.Close()
	})
	return p
}

// listening reads lines up to the one with "listening".
func (p *piped) listening() string {
	p.t.Helper()
	p.reader.SetReadDeadline(time.Now().Add(readyTimeout))
	lines := bufio.NewReader(p.reader)
	for {
		line, err := lines.ReadString('\n')
		if listeningLine.MatchString(line) {
			return strings.TrimSpace(line)
		}
		if err != nil {
			p.t.Fatalf("culvert did not say listening: %v", err)
		}
	}
}

// signal sends s and returns the exit code.
func (p *piped) signal(s os.Signal) int {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
	select {
	case <-p.done:
	case <-time.After(stopTimeout):
		p.t.Fatalf("culvert has not ended %v after %v", stopTimeout, s)
	}
	return p.cmd.ProcessState.ExitCode()
}

// slowWriter takes a line when it is given one, or fails.
type slowWriter struct {
	take  chan error
	lines []string
}

func (w *slowWriter) Write(p []byte) (int, error) {
	if err := <-w.take; err != nil {
		return 0, err
	}
	w.lines = append(w.lines, strings.TrimSpace(string(p)))
	return len(p), nil
}

// What stderr does not take is dropped, and its place says how much that was.
func TestDroppedLinesAreCountedWhereTheyAreMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &slowWriter{take: make(chan error)}
		q := &queuedWriter{w: w}
		q.reportDropped(func(lines int) { w.lines = append(w.lines, fmt.Sprintf("%d missing", lines)) })
		say := func(line string) {
			t.Helper()
			if _, err := io.WriteString(q, line); err != nil {
				t.Fatal(err)
			}
		}
		takes := func(errs ...error) {
			for _, err := range errs {
				w.take <- err
			}
			synctest.Wait()
		}
		long := strings.Repeat(" ", maxUnwritten-10) + "long"
		say("1")
		say(long)
		say("too long for what is left")
		say("3")
		say("and this")
		takes(nil, nil)
		say("4")
		takes(nil, nil)
		lost := errors.New("lost")
		for _, line := range []string{"5", "6", "7"} {
			say(line)
		}
		takes(lost, lost, nil)
		if got, want := strings.Join(w.lines, ", "), "1, long, 1 missing, 3, 1 missing, 4, 7, 2 missing"; got != want {
			t.Errorf("stderr has %q, want %q", got, want)
		}
		if q.bytes != 0 || q.idle != nil {
			t.Errorf("%d bytes are queued still", q.bytes)
		}
		start := time.Now()
		say("8")
		if q.flush(); time.Since(start) != flushTimeout {
			t.Errorf("flush took %v with a writer that takes nothing, want %v", time.Since(start), flushTimeout)
		}
		takes(nil)
		if q.flush(); time.Since(start) != flushTimeout {
			t.Error("flush waited for nothing")
		}
	})
}

// directAgent are the arguments of an agent that logs each connection.
func directAgent(t *testing.T) []string {
	return []string{"agent", "--gateway-url", "tcp://" + cluster(t), "--listen", "127.0.0.1:0",
		"--broker-port-base", freePort(t), "--admin-listen", "127.0.0.1:0", "--log-level", "debug"}
}

// askVersions sends a request on a connection of its own, and returns it when the response has come.
func askVersions(address string) (net.Conn, error) {
	c, err := net.DialTimeout("tcp", address, readyTimeout)
	if err != nil {
		return nil, err
	}
	c.SetDeadline(time.Now().Add(readyTimeout))
	// ApiVersions v0, correlation id 1, no client id.
	if _, err := c.Write([]byte{0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 1, 0xff, 0xff}); err != nil {
		return c, err
	}
	_, err = io.ReadFull(c, make([]byte, 8))
	return c, err
}

// A pipe whose reader has ended used to end culvert by SIGPIPE with its next log line.
func TestLosingTheReaderOfStderrDoesNotTouchConnections(t *testing.T) {
	needSignals(t)
	agent := startPiped(t, "culvert", directAgent(t)...)
	bootstrap := find(t, agentLine, agent.listening())
	agent.reader.Close()
	for range 3 {
		roundTrip(t, bootstrap)
	}
	if code := agent.signal(syscall.SIGTERM); code != exitDone {
		t.Errorf("the agent ended with %d after SIGTERM, want 0", code)
	}
}

// A pipe whose reader has stopped used to stop whatever logs, which is every connection.
func TestAFullPipeOnStderrDoesNotTouchConnections(t *testing.T) {
	needSignals(t)
	agent := startPiped(t, "culvert", directAgent(t)...)
	bootstrap := find(t, agentLine, agent.listening())
	for range 1000 { // each logs some 200 bytes, and a pipe holds 64 KiB
		c, err := askVersions(bootstrap)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	roundTrip(t, bootstrap)
	if code := agent.signal(syscall.SIGTERM); code != exitDone {
		t.Errorf("the agent ended with %d after SIGTERM, want 0", code)
	}
	if said, err := io.ReadAll(agent.reader); err != nil || len(said) < 60<<10 {
		t.Errorf("%d bytes were in the pipe (%v): it was not full", len(said), err)
	}
}

// A terminal that is closed sends SIGHUP. Under nohup, it is to be ignored.
func TestSIGHUPDrainsAsSIGTERMDoes(t *testing.T) {
	needSignals(t)
	// These tests may run under nohup themselves. What a process handles, its children get as by
	// default.
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	agent := startPiped(t, "culvert", directAgent(t)...)
	roundTrip(t, find(t, agentLine, agent.listening()))
	if code := agent.signal(syscall.SIGHUP); code != exitDone {
		t.Errorf("the agent ended with %d after SIGHUP, want 0", code)
	}

	nohup := startPiped(t, "sh", append([]string{"-c", `trap '' HUP; exec culvert "$@"`, "sh"}, directAgent(t)...)...)
	bootstrap := find(t, agentLine, nohup.listening())
	if err := nohup.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		roundTrip(t, bootstrap)
	}
	if code := nohup.signal(syscall.SIGTERM); code != exitDone {
		t.Errorf("the agent ended with %d after SIGTERM, want 0", code)
	}
}

// unread returns a file whose reader is gone.
func unread(t *testing.T) *os.File {
	t.Helper()
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	reader.Close()
	t.Cleanup(func() { writer.Close() })
	return writer
}

// The exit code of culvert doctor is its verdict, also in culvert doctor | head -1. A demo is its
// text, and ends with its reader.
func TestWhatIsPrintedMayLoseItsReader(t *testing.T) {
	needSignals(t)
	for _, test := range []struct {
		args []string
		want int
	}{
		{[]string{"doctor", "--gateway-url", "tcp://" + cluster(t), "--listen", "127.0.0.1:0", "--broker-port-base", freePort(t), "--state-file", "none"}, exitDone},
		{[]string{"doctor", "--gateway-url", "tcp://127.0.0.1:1"}, exitFailed},
		{[]string{"config", "agent", "--gateway-url", "https://x"}, exitFailed},
		{[]string{"demo", "--listen", "127.0.0.1:0", "--transport", "ws"}, exitFailed},
	} {
		var stderr bytes.Buffer
		cmd := exec.CommandContext(t.Context(), "culvert", test.args...)
		cmd.Stdout, cmd.Stderr = unread(t), &stderr
		err := cmd.Run()
		if code := cmd.ProcessState.ExitCode(); code != test.want {
			t.Errorf("culvert %s ended with %v, want exit code %d: %s", test.args[0], err, test.want, stderr.String())
		}
		if strings.Contains(stderr.String(), "broken pipe") {
			t.Errorf("culvert %s complains that nobody reads it: %s", test.args[0], stderr.String())
		}
	}
}
