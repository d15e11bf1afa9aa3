package credentials

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// To open a pipe waits for who writes into it. It must not hold up everybody who wants to come in.
func TestAPipeIsNotWaitedFor(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	log := &memoryLog{}
	f := testFile(t, "--token-file", "one")
	token, err := FirstToken(f, log.logger())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(pipe, f.Path); err != nil {
		t.Fatal(err)
	}
	got := make(chan string, 1)
	go func() {
		s, _ := token()
		got <- s
	}()
	select {
	case s := <-got:
		if s != "one" || !strings.Contains(log.String(), "not a regular file") {
			t.Errorf("%q, want one, and in the log why:\n%s", s, log)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("a pipe in the file's place is waited for")
	}
}
