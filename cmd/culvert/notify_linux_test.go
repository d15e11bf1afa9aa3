package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// notifySocket is systemd's end of the socket.
type notifySocket struct {
	t *testing.T
	c *net.UnixConn
}

// listenNotify makes the socket that NOTIFY_SOCKET of the processes of this test names.
func listenNotify(t *testing.T, name string) notifySocket {
	t.Helper()
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	t.Setenv("NOTIFY_SOCKET", name)
	return notifySocket{t, c}
}

// next returns the lines of the next datagram.
func (s notifySocket) next() []string {
	s.t.Helper()
	b := make([]byte, 64<<10)
	if err := s.c.SetReadDeadline(time.Now().Add(readyTimeout)); err != nil {
		s.t.Fatal(err)
	}
	n, err := s.c.Read(b)
	if err != nil {
		s.t.Fatalf("the service manager was told nothing more: %v", err)
	}
	return strings.Split(string(b[:n]), "\n")
}

// until returns all lines up to the datagram that begins with first.
func (s notifySocket) until(first string) (all []string) {
	s.t.Helper()
	for {
		lines := s.next()
		all = append(all, lines...)
		if lines[0] == first {
			return all
		}
	}
}

// Both ends start like a unit of systemd with Type=notify, with a socket in the file system, and
// with an abstract one, as systemd has for units of users.
func TestSystemdIsToldOfStartAndStop(t *testing.T) {
	broker := cluster(t)
	for name, socket := range map[string]string{"path": filepath.Join(t.TempDir(), "notify"), "abstract": fmt.Sprintf("@culvert-test-%d", os.Getpid())} {
		t.Run(name, func(t *testing.T) {
			systemd := listenNotify(t, socket)
			for _, end := range [][]string{
				{"gateway", "--bootstrap", broker, "--insecure-no-auth", "--listen", "127.0.0.1:0", "--admin-listen", "none"},
				{"agent", "--gateway-url", "tcp://" + broker, "--listen", "127.0.0.1:0", "--broker-port-base", freePort(t), "--admin-listen", "none", "--drain-timeout", "2m"},
			} {
				p := start(t, end...)
				systemd.until("READY=1")
				p.listening()
				if told := systemd.until("STATUS=ready"); slices.Contains(told, "STOPPING=1") {
					t.Errorf("%s: %q", end[0], told)
				}
				if code := p.stop(); code != 0 {
					t.Errorf("%s ended with %d", end[0], code)
				}
				want := map[string]string{"gateway": "EXTEND_TIMEOUT_USEC=30000000", "agent": "EXTEND_TIMEOUT_USEC=125000000"}[end[0]]
				if told := systemd.until("STOPPING=1"); !slices.Contains(told, want) {
					t.Errorf("%s: %q, want %s", end[0], told, want)
				}
			}
		})
	}
}

// A service whose brokers are missing has started: what is missing is its status.
func TestSystemdIsToldWhatIsMissing(t *testing.T) {
	systemd := listenNotify(t, filepath.Join(t.TempDir(), "notify"))
	start(t, "gateway", "--bootstrap", "127.0.0.1:1", "--insecure-no-auth", "--listen", "127.0.0.1:0", "--admin-listen", "none").listening()
	said := systemd.until("READY=1")
	for !strings.HasPrefix(said[len(said)-1], "STATUS=not ready: ") {
		said = systemd.next()
	}
}

// What is missing can quote a broker or a gateway.
func TestStatusForSystemdIsOneAssignment(t *testing.T) {
	systemd := listenNotify(t, filepath.Join(t.TempDir(), "notify"))
	m := newServiceManager(slog.New(slog.DiscardHandler))
	var told []string
	err := m.during(t.Context(), time.Second, func() error { return errors.New("cluster x\nMAINPID=1\n" + strings.Repeat("x", 1<<20)) },
		func(context.Context) error { told = systemd.next(); return nil })
	if err != nil || len(told) != 1 || !strings.HasPrefix(told[0], `STATUS=not ready: cluster x\nMAINPID=1\n`) || len(told[0]) > maxStatusText+100 {
		t.Errorf("told %.200q, %v", told, err)
	}
}

func TestWithoutTheSocketOfSystemdTheProcessRuns(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "gone"))
	gateway := start(t, "gateway", "--bootstrap", cluster(t), "--insecure-no-auth", "--listen", "127.0.0.1:0", "--admin-listen", "none")
	gateway.ready()
	gateway.says(`the service manager was not told of the state of this process.*gone: connect: no such file or directory`)
	if code := gateway.stop(); code != 0 {
		t.Errorf("ended with %d", code)
	}
}
