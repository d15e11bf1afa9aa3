//go:build unix

package proxy

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// specialFiles are what a setting may name by mistake, by what is said of them.
func specialFiles(t *testing.T) map[string]string {
	t.Helper()
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(fifo, link); err != nil {
		t.Fatal(err)
	}
	return map[string]string{dir: "a directory", fifo: "a pipe", link: "a pipe", "/dev/zero": "a device", "/dev/null": "a device"}
}

// A file that is no regular one neither hangs the start nor fills the memory.
func TestOnlyARegularFileIsReadAsState(t *testing.T) {
	for path, want := range specialFiles(t) {
		if _, err := readState(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("state file %s: %v, want that it is %s", path, err, want)
		}
	}
}

func TestTheStateFileReplacesNoSpecialFile(t *testing.T) {
	s := state{}.with(clusterState{Upstream: "u", ClusterID: "c", Nodes: []tunnel.Ticket{{Address: "a:1"}}})
	for path, want := range specialFiles(t) {
		if strings.HasPrefix(path, "/dev") {
			continue // whoever runs this test might be allowed to
		}
		if err := s.write(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("write state to %s: %v, want that it is %s", path, err, want)
		}
	}
}

func TestAStateFileMayBeALink(t *testing.T) {
	dir := t.TempDir()
	link, file := filepath.Join(dir, "link"), filepath.Join(dir, "file")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	s := state{}.with(clusterState{Upstream: "u", ClusterID: "c", Nodes: []tunnel.Ticket{{Address: "a:1"}}})
	if err := s.write(link); err == nil || !strings.Contains(err.Error(), "a link to nothing") {
		t.Errorf("write through a link to nothing: %v", err)
	}
	if err := os.WriteFile(file, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.write(link); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is one no more: %v", err)
	}
	if got, err := readState(file); err != nil || len(got.Clusters) != 1 {
		t.Errorf("read what it leads to: %v, %v", got, err)
	}
}

func TestAStateFileIsReadWithALimit(t *testing.T) {
	file := filepath.Join(t.TempDir(), "large")
	if err := os.WriteFile(file, bytes.Repeat([]byte(" "), maxState+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readState(file); err == nil || !strings.Contains(err.Error(), "larger than 8388608 bytes") {
		t.Errorf("%v, want that the file is larger than 8388608 bytes", err)
	}
}
