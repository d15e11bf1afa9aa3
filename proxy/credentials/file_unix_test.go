//go:build unix

package credentials

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A file that is no regular one neither hangs the start nor fills the memory.
func TestOnlyRegularFilesAreRead(t *testing.T) {
	dir := t.TempDir()
	fifo, link := filepath.Join(dir, "fifo"), filepath.Join(dir, "link")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(fifo, link); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{dir: "a directory", fifo: "a pipe", link: "a pipe", "/dev/zero": "a device", "/dev/null": "a device"} {
		_, err := ReadTokens(File{Path: path, Name: "--token-file"}, nil)
		if err == nil || !strings.Contains(err.Error(), "read --token-file "+path+": it is "+want) {
			t.Errorf("token file %s: %v, want that it is %s", path, err, want)
		}
		if _, err := ReadCA(File{Path: path, Name: "--broker-ca-file"}, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("CA file %s: %v, want that it is %s", path, err, want)
		}
	}
}

func TestFilesAreReadWithALimit(t *testing.T) {
	file := filepath.Join(t.TempDir(), "large")
	if err := os.WriteFile(file, bytes.Repeat([]byte(" "), MaxFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadTokens(File{Path: file, Name: "--token-file"}, nil); err == nil || !strings.Contains(err.Error(), "larger than 1048576 bytes") {
		t.Errorf("%v, want that the file is larger than 1048576 bytes", err)
	}
}
