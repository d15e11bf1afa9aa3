package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// maxFile is what no file of the repository needs to exceed. Who installs the
// module downloads all of them.
const maxFile = 256 << 10

// TestTheRepositoryHoldsNoLitter finds what a test has left and somebody has
// added: large files, and names that a format string made.
func TestTheRepositoryHoldsNoLitter(t *testing.T) {
	out, err := exec.Command("git", "ls-files", "-z", "--full-name", ":/").Output()
	if err != nil {
		t.Skipf("not a checkout: git ls-files: %v", err)
	}
	root, err := exec.Command("git", "rev-parse", "--show-toplevel").Output()
	if err != nil {
		t.Fatal(err)
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		if strings.Contains(name, "%!") {
			t.Errorf("%s: no name for a file", name)
		}
		info, err := os.Stat(filepath.Join(strings.TrimSpace(string(root)), name))
		if err == nil && info.Size() > maxFile {
			t.Errorf("%s has %d bytes, want %d at most", name, info.Size(), maxFile)
		}
	}
}
