package audit

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// counted is what became of lines.
type counted struct{ written, lost, omitted atomic.Int64 }

func (c *counted) counts() Counts {
	return Counts{Written: func() { c.written.Add(1) }, Lost: func(n int) { c.lost.Add(int64(n)) }, Omitted: func() { c.omitted.Add(1) }}
}

// messages is the log of a test.
type messages struct {
	slog.Handler
	mu  sync.Mutex
	all []string
}

func newMessages() (*slog.Logger, *messages) {
	m := &messages{Handler: slog.DiscardHandler}
	return slog.New(m), m
}

func (m *messages) Enabled(context.Context, slog.Level) bool { return true }

func (m *messages) Handle(_ context.Context, r slog.Record) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.all = append(m.all, r.Message)
	return nil
}

func (m *messages) count(message string) (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.all {
		if strings.HasPrefix(s, message) {
			n++
		}
	}
	return n
}

// disk is an output that may block, fail or take half a line.
type disk struct {
	mu      sync.Mutex
	lines   []string
	err     error
	blocked chan struct{} // closed: no longer blocked; nil: not blocked
}

func (d *disk) write(line []byte) error {
	d.mu.Lock()
	blocked := d.blocked
	d.mu.Unlock()
	if blocked != nil {
		<-blocked
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err == nil {
		d.lines = append(d.lines, string(line))
	}
	return d.err
}

func (d *disk) close() error { return nil }

func (d *disk) fail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = err
}

var ended = Record{Event: StreamEnded, Peer: Peer{Identity: "laptop"}, Cause: "client_fin"}

// A disk that hangs costs a bounded queue, and whoever adds lines never waits. What does not fit is
// counted, and the log says so once.
func TestAHangingDiskBlocksNobodyAndLosesWhatDoesNotFit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c counted
		log, said := newMessages()
		d := &disk{blocked: make(chan struct{})}
		l := start(d, c.counts(), log)
		const n = 100_000
		for range n {
			l.Add(ended)
		}
		l.mu.Lock()
		held, lines := l.bytes, len(l.queue)
		l.mu.Unlock()
		if held > maxQueued || lines == 0 {
			t.Errorf("%d lines of %d bytes are held, more than %d", lines, held, maxQueued)
		}
		if c.lost.Load() == 0 || said.count("audit lines are lost") != 1 {
			t.Errorf("%d lines lost, told %d times", c.lost.Load(), said.count("audit lines are lost"))
		}
		close(d.blocked)
		synctest.Wait()
		if said.count("audit log takes lines again") != 1 {
			t.Errorf("the log does not say that lines are taken again: %q", said.all)
		}
		if w := c.written.Load(); w+c.lost.Load() != n || int(w) != len(d.lines) {
			t.Errorf("%d written and %d lost of %d; the disk has %d", w, c.lost.Load(), n, len(d.lines))
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
}

// A full disk loses nothing that fits into the queue.
func TestLinesWaitWhileTheDiskIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c counted
		log, said := newMessages()
		d := &disk{err: errors.New("no space left on device")}
		l := start(d, c.counts(), log)
		for range 100 {
			l.Add(ended)
		}
		time.Sleep(time.Hour)
		if c.written.Load() != 0 || said.count("audit log cannot be written") != 1 {
			t.Errorf("%d written; %q", c.written.Load(), said.all)
		}
		d.fail(nil)
		time.Sleep(retryMost)
		synctest.Wait()
		if c.written.Load() != 100 || c.lost.Load() != 0 || said.count("audit log takes lines again") != 1 {
			t.Errorf("%d written, %d lost; %q", c.written.Load(), c.lost.Load(), said.all)
		}
		l.Close()
	})
}

// Close writes what is queued, and does not wait long for a disk that fails or hangs.
func TestCloseEndsInTime(t *testing.T) {
	for name, d := range map[string]*disk{"works": {}, "fails": {err: errors.New("full")}, "hangs": {blocked: make(chan struct{})}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if d.blocked != nil {
					d.blocked = make(chan struct{}) // of this bubble
				}
				var c counted
				log, _ := newMessages()
				l := start(d, c.counts(), log)
				for range 10 {
					l.Add(ended)
				}
				began := time.Now()
				l.Close()
				took := time.Since(began)
				l.Add(ended) // is lost, and harms nobody
				if d.blocked != nil {
					close(d.blocked)
				}
				synctest.Wait()
				if took > closeTimeout {
					t.Errorf("Close took %v", took)
				}
				if w, lost := c.written.Load(), c.lost.Load(); w+lost != 11 || name == "works" && w != 10 {
					t.Errorf("%d written, %d lost of 11", w, lost)
				}
			})
		})
	}
}

// Whoever is refused cannot fill the disk: such lines have a rate, and the next one says how many
// were left out. Streams have none.
func TestRefusalsAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c counted
		log, _ := newMessages()
		d := &disk{}
		l := start(d, c.counts(), log)
		login := Record{Event: LoginRefused, Peer: Peer{ClientAddr: "192.0.2.1:1"}, Cause: "credentials"}
		for range 1000 {
			l.Add(login)
		}
		if got := c.omitted.Load(); got != 900 {
			t.Errorf("%d of 1000 were left out, want 900", got)
		}
		time.Sleep(time.Second)
		for range 1000 {
			l.Add(login)
		}
		for range 1000 {
			l.Add(ended)
		}
		synctest.Wait()
		if w := c.written.Load(); w != 100+10+1000 {
			t.Errorf("%d written, want 1110", w)
		}
		if !strings.Contains(d.lines[100], `"omitted":900`) || strings.Contains(d.lines[101], "omitted") {
			t.Errorf("after the gap: %s%s", d.lines[100], d.lines[101])
		}
		l.Close()
	})
}

func TestANilLogDoesNothing(t *testing.T) {
	var l *Log
	l.Add(ended)
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// A file is continued, is for its owner only, is opened again when it was renamed or removed, and
// goes on at its end when it was truncated.
func TestAFileIsFollowed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	if err := os.WriteFile(path, []byte("before\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := openOutput(path)
	if err != nil {
		t.Fatal(err)
	}
	defer out.close()
	write := func(line string) {
		t.Helper()
		if err := out.write([]byte(line + "\n")); err != nil {
			t.Fatal(err)
		}
	}
	is := func(path, want string) {
		t.Helper()
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("%s has %q, want %q (%v)", path, got, want, err)
		}
	}
	write("one")
	is(path, "before\none\n")
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	write("two")
	is(path, "two\n")
	if runtime.GOOS == "windows" {
		return // an open file can be neither renamed nor removed there
	}
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	write("three")
	is(path+".1", "two\n")
	is(path, "three\n")
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("others may read the new file: %v, %v", info.Mode(), err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	write("four")
	is(path, "four\n")
}

// A directory that is gone is an error until it is back, and then the line is written whole.
func TestAFileThatCannotBeOpenedAgainIsTriedAgain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "audit.log")
	out, err := openOutput(path)
	if err != nil {
		t.Fatal(err)
	}
	defer out.close()
	if runtime.GOOS == "windows" {
		t.Skip("an open file cannot be renamed on Windows")
	}
	if err := os.Rename(dir, dir+".gone"); err != nil {
		t.Fatal(err)
	}
	out.(*file).torn = 3
	if err := out.write([]byte("line\n")); err == nil {
		t.Error("a file in a directory that is gone was written")
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := out.write([]byte("line\n")); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(path); !bytes.Equal(got, []byte("line\n")) {
		t.Errorf("the new file has %q", got)
	}
}

// A line of which a full disk has taken a part is completed when there is room.
func TestAPartOfALineIsCompleted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	out, err := openOutput(path)
	if err != nil {
		t.Fatal(err)
	}
	defer out.close()
	if err := out.write([]byte("one\ntw")); err != nil {
		t.Fatal(err)
	}
	out.(*file).torn, out.(*file).size = 2, 6
	for _, line := range []string{"two\n", "three\n"} {
		if err := out.write([]byte(line)); err != nil {
			t.Fatal(err)
		}
	}
	if got, _ := os.ReadFile(path); string(got) != "one\ntwo\nthree\n" {
		t.Errorf("the file has %q", got)
	}
}

func TestOnlyRegularFilesAreOpened(t *testing.T) {
	for _, path := range []string{t.TempDir(), os.DevNull} {
		if out, err := openOutput(path); err == nil {
			out.close()
			t.Errorf("%s was opened", path)
		}
	}
}

// A process that was killed, or a disk that was full when it ended, leaves a part of a line. The next
// line is a line of its own.
func TestAPartOfALineAtTheEndOfTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	const part = `{"time":"2026-12-01T00:00:00Z","ev`
	if err := os.WriteFile(path, []byte(part), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		l, err := Open(path, new(counted).counts(), slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		l.Add(Record{Event: StreamEnded})
		l.Close()
	}
	got, err := os.ReadFile(path)
	lines := strings.Split(string(got), "\n")
	if err != nil || len(lines) != 4 || lines[0] != part || !strings.HasPrefix(lines[1], "{") || !strings.HasPrefix(lines[2], "{") || lines[3] != "" {
		t.Errorf("the file is %q, %v", got, err)
	}
}

// Who truncates the file because the disk is full does not leave the rest of a line behind.
func TestAFileIsTruncatedBehindAPartOfALine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	o := &file{path: path}
	if err := o.open(); err != nil {
		t.Fatal(err)
	}
	defer o.close()
	line := []byte("{\"event\":\"stream_ended\"}\n")
	if _, err := o.f.Write(line[:8]); err != nil { // what the disk had room for
		t.Fatal(err)
	}
	o.torn, o.size = 8, 8
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	if err := o.write(line); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); !bytes.Equal(got, line) {
		t.Errorf("the file is %q, %v", got, err)
	}
}
