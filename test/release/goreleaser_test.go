package release

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/culvert-proxy/culvert/test/cache"
	"github.com/culvert-proxy/culvert/test/proc"
)

const (
	// goreleaser is the version of .github/workflows/release.yml.
	goreleaser = "github.com/goreleaser/goreleaser/v2@v2.15.1"
	// goreleaserVariable asks for TestGoreleaser, which takes many minutes: 1 for amd64 alone, all for
	// every platform.
	goreleaserVariable = "CULVERT_TEST_GORELEASER"
	released           = "9.8.7"
)

// checkout is a clone of this repository's last commit.
type checkout struct {
	t       *testing.T
	dir     string
	program string // goreleaser
}

func (c checkout) run(argv ...string) (string, error) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Hour)
	defer cancel()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = c.dir
	cmd.Env = append(os.Environ(), "PACKAGES_TOKEN=none", "GITHUB_TOKEN=none")
	return proc.Run(ctx, cmd)
}

func (c checkout) must(argv ...string) string {
	c.t.Helper()
	out, err := c.run(argv...)
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

// release makes what a release consists of, and publishes nothing. SBOMs and signatures need syft
// and cosign, and the latter an identity.
func (c checkout) release() error {
	c.t.Helper()
	_, err := c.run(c.program, "release", "--clean", "--skip=publish,announce,sbom,sign")
	return err
}

// TestGoreleaser releases a version in a clone, after it was refused for what must not be released.
func TestGoreleaser(t *testing.T) {
	platforms := os.Getenv(goreleaserVariable)
	if platforms == "" {
		cache.Say("LEFT OUT: the release by goreleaser itself, which takes many minutes: set %s=1", goreleaserVariable)
		return
	}
	program, err := goTool("goreleaser", goreleaser)
	if err != nil {
		t.Fatal(err)
	}
	root, err := cache.Root()
	if err != nil {
		t.Fatal(err)
	}
	c := checkout{t, filepath.Join(t.TempDir(), "culvert"), program}
	if _, err := proc.Run(t.Context(), exec.Command("git", "clone", "-q", root, c.dir)); err != nil {
		t.Fatal(err)
	}
	c.must(program, "check")
	if platforms != "all" {
		c.reduce()
	}
	if err := c.release(); err == nil || !strings.Contains(err.Error(), "git doesn't contain any tags") {
		t.Errorf("without a tag: %v", err)
	}
	c.must("git", "tag", "v"+released)
	if err := os.WriteFile(filepath.Join(c.dir, "Dockerfile"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := c.release(); err == nil || !strings.Contains(err.Error(), "git is in a dirty state") {
		t.Errorf("from a tree with changes: %v", err)
	} else {
		t.Log(err)
	}
	c.must("git", "checkout", "-q", "Dockerfile")
	if err := c.release(); err != nil {
		t.Fatal(err)
	}
	c.wantFiles(platforms)
	c.wantChecksums()
	c.wantArchive()
}

// reduce leaves Linux and Windows on amd64, in a commit of its own. Scoop wants one for Windows.
func (c checkout) reduce() {
	c.t.Helper()
	file := filepath.Join(c.dir, ".goreleaser.yaml")
	text, err := os.ReadFile(file)
	if err != nil {
		c.t.Fatal(err)
	}
	few := strings.NewReplacer("goos: [linux, darwin, windows]", "goos: [linux, windows]", "goarch: [amd64, arm64]", "goarch: [amd64]").Replace(string(text))
	if err := os.WriteFile(file, []byte(few), 0o644); err != nil {
		c.t.Fatal(err)
	}
	c.must("git", "-c", "user.name=test", "-c", "user.email=test@culvert.invalid", "commit", "-q", "-a", "-m", "test: few platforms")
}

func (c checkout) path(name string) string { return filepath.Join(c.dir, "dist", name) }

func (c checkout) wantFiles(platforms string) {
	c.t.Helper()
	want := []string{
		"culvert_" + released + "_linux_amd64.tar.gz", "culvert_" + released + "_windows_amd64.zip",
		"culvert_" + released + "_amd64.deb", "culvert-" + released + "-1.x86_64.rpm",
		"homebrew/Casks/culvert.rb", "scoop/culvert.json",
	}
	if platforms == "all" {
		want = append(want, "culvert_"+released+"_darwin_arm64.tar.gz", "culvert_"+released+"_darwin_amd64.tar.gz",
			"culvert_"+released+"_linux_arm64.tar.gz", "culvert_"+released+"_windows_arm64.zip",
			"culvert_"+released+"_arm64.deb", "culvert-"+released+"-1.aarch64.rpm")
	}
	for _, name := range want {
		if _, err := os.Stat(c.path(name)); err != nil {
			c.t.Error(err)
		}
	}
}

func (c checkout) wantChecksums() {
	c.t.Helper()
	sums, err := os.ReadFile(c.path("checksums.txt"))
	if err != nil {
		c.t.Fatal(err)
	}
	for line := range strings.Lines(string(sums)) {
		fields := strings.Fields(line)
		content, err := os.ReadFile(c.path(fields[1]))
		if err != nil {
			c.t.Fatal(err)
		}
		if sum := sha256.Sum256(content); hex.EncodeToString(sum[:]) != fields[0] {
			c.t.Errorf("%s has another checksum than checksums.txt says", fields[1])
		}
	}
	if n := strings.Count(string(sums), "\n"); n < 4 {
		c.t.Errorf("checksums.txt has %d lines:\n%s", n, sums)
	}
}

// wantArchive unpacks the archive for Linux, and runs the binary if this machine can.
func (c checkout) wantArchive() {
	c.t.Helper()
	name := "culvert_" + released + "_linux_amd64"
	files := unpack(c.t, c.path(name+".tar.gz"))
	for _, file := range []string{
		"culvert", "LICENSE", "README.md", "CHANGELOG.md", "man/culvert.1", "man/culvert-agent.1",
		"completions/bash", "completions/zsh", "completions/fish", "systemd/culvert-agent.service",
	} {
		if len(files[name+"/"+file]) == 0 {
			c.t.Errorf("the archive has no %s", file)
		}
	}
	if page := string(files[name+"/man/culvert.1"]); !strings.Contains(page, `"culvert v`+strings.ReplaceAll(released, "-", `\-`)+`"`) {
		c.t.Errorf("the manual page names another version: %.200s", page)
	}
	if runtime.GOARCH != "amd64" {
		return
	}
	binary := filepath.Join(c.t.TempDir(), "culvert")
	if err := os.WriteFile(binary, files[name+"/culvert"], 0o755); err != nil {
		c.t.Fatal(err)
	}
	said, commit := c.must(binary, "version"), c.must("git", "rev-parse", "HEAD")
	c.t.Log(said)
	if !strings.HasPrefix(said, "culvert v"+released+" ") || !strings.Contains(said, "commit "+commit[:12]+", 2") {
		c.t.Errorf("culvert version says %q of commit %s", said, commit)
	}
}

func unpack(t *testing.T, archive string) map[string][]byte {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}

// TestReleaseUsesTheVersionsThatAreTried compares the workflow with the versions here.
func TestReleaseUsesTheVersionsThatAreTried(t *testing.T) {
	workflow, err := os.ReadFile("../../.github/workflows/release.yml")
	if err != nil {
		t.Fatal(err)
	}
	if lines := strings.Split(string(workflow), "\n"); !slices.Contains(lines, "  GORELEASER: "+goreleaser) {
		t.Errorf("the workflow does not use %s", goreleaser)
	}
}
