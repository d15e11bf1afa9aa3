package release

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/culvert-proxy/culvert/test/cache"
	"github.com/culvert-proxy/culvert/test/proc"
)

const (
	// nfpm makes the packages inside goreleaser, too: this is the version that goreleaser has.
	nfpm = "github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.2"
	// version is what the packages are built as.
	version    = "v0.0.1-test"
	commitTime = "2026-11-30T23:10:00Z"
)

// needRoot skips a test that installs packages.
func needRoot(t *testing.T, programs ...string) {
	t.Helper()
	if os.Getenv("CULVERT_TEST_REAL") == "" {
		t.Skip("installs packages: set CULVERT_TEST_REAL=1 (go run ./test/all does)")
	}
	for _, program := range programs {
		if _, err := exec.LookPath(program); err != nil || os.Geteuid() != 0 {
			t.Skipf("installing packages needs root and %s", program)
		}
	}
}

// goTool builds a program at its version, once.
func goTool(name, path string) (string, error) {
	dir, err := cache.Get(name, path+" "+runtime.Version(), func(dir string) error {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
		defer cancel()
		cmd := exec.Command("go", "install", path)
		cmd.Env = append(os.Environ(), "GOBIN="+dir)
		_, err := proc.Run(ctx, cmd)
		return err
	})
	return filepath.Join(dir, name), err
}

// packages builds the deb and the rpm of .goreleaser.yaml, once, and returns their folder.
var packages = sync.OnceValues(func() (dir string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	root, err := cache.Root()
	if err != nil {
		return "", err
	}
	program, err := goTool("nfpm", nfpm)
	if err != nil {
		return "", err
	}
	// What the hooks of goreleaser make, and the tests of goreleaser too, stands in .cache/release.
	dir = filepath.Join(root, ".cache", "release")
	if err := os.MkdirAll(filepath.Join(dir, "completions"), 0o755); err != nil {
		return "", err
	}
	run := func(argv ...string) (string, error) {
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		return proc.Run(ctx, cmd)
	}
	binary := filepath.Join(dir, "culvert")
	flags := "-s -w -X main.release=" + version + " -X main.commit=0123456789abcdef -X main.commitTime=" + commitTime
	if _, err := run("go", "build", "-trimpath", "-ldflags", flags, "-o", binary, "./cmd/culvert"); err != nil {
		return "", err
	}
	if _, err := run(binary, "man", filepath.Join(dir, "man")); err != nil {
		return "", err
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		script, err := run(binary, "completion", shell)
		if err != nil {
			return "", err
		}
		if err := os.WriteFile(filepath.Join(dir, "completions", shell), []byte(script), 0o644); err != nil {
			return "", err
		}
	}
	config := filepath.Join(dir, "nfpm.yaml")
	if err := writeNFPM(filepath.Join(root, ".goreleaser.yaml"), binary, config); err != nil {
		return "", err
	}
	for _, format := range []string{"deb", "rpm"} {
		if _, err := run(program, "package", "--config", config, "--packager", format, "--target", filepath.Join(dir, "culvert."+format)); err != nil {
			return "", err
		}
	}
	return dir, nil
})

// writeNFPM writes the part of goreleaser's configuration that is nfpm's, completed with what
// goreleaser adds.
func writeNFPM(goreleaser, binary, to string) error {
	text, err := os.ReadFile(goreleaser)
	if err != nil {
		return err
	}
	var project struct {
		NFPMs []map[string]any `yaml:"nfpms"`
	}
	if err := yaml.Unmarshal([]byte(strings.ReplaceAll(string(text), "{{ .CommitDate }}", commitTime)), &project); err != nil {
		return err
	}
	c := project.NFPMs[0]
	c["name"], c["arch"], c["platform"], c["version"] = c["package_name"], runtime.GOARCH, "linux", version
	c["contents"] = append(c["contents"].([]any), map[string]any{
		"src": binary, "dst": filepath.Join(c["bindir"].(string), "culvert"), "file_info": map[string]any{"mode": 0o755},
	})
	for _, key := range []string{"package_name", "file_name_template", "formats", "bindir"} {
		delete(c, key)
	}
	text, err = yaml.Marshal(c)
	if err != nil {
		return err
	}
	return os.WriteFile(to, text, 0o644)
}
