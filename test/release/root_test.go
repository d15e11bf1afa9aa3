package release

import (
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/culvert-proxy/culvert/test/proc"
)

// root is the root of a machine that has a shell, and nothing else.
type root struct {
	t   *testing.T
	dir string
}

// systemDirs belong to other packages of a system.
var systemDirs = []string{
	"usr/bin", "usr/lib/systemd/system", "usr/share/doc", "usr/share/licenses", "usr/share/man/man1",
	"usr/share/bash-completion/completions", "usr/share/fish/vendor_completions.d",
	"usr/share/zsh/site-functions", "usr/share/zsh/vendor-completions",
}

func newRoot(t *testing.T) root {
	t.Helper()
	r := root{t, t.TempDir()}
	if err := os.Chmod(r.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, dir := range append(systemDirs, "bin", "tmp", "etc", "run", "var/tmp", "var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/rpm") {
		if err := os.MkdirAll(r.path(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	r.write("bin/busybox", string(content), 0o755)
	for _, tool := range []string{"sh", "rm"} {
		if err := os.Symlink("busybox", r.path("bin/"+tool)); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"status", "available"} {
		r.write("var/lib/dpkg/"+file, "", 0o644)
	}
	return r
}

func (r root) path(name string) string { return filepath.Join(r.dir, name) }

func (r root) write(name, content string, mode fs.FileMode) {
	r.t.Helper()
	if err := os.WriteFile(r.path(name), []byte(content), mode); err != nil {
		r.t.Fatal(err)
	}
}

func (r root) read(name string) string {
	r.t.Helper()
	content, err := os.ReadFile(r.path(name))
	if err != nil {
		r.t.Fatal(err)
	}
	return string(content)
}

// run runs a program of this machine, such as dpkg. Scripts of packages run inside the root.
func (r root) run(argv ...string) string {
	r.t.Helper()
	out, err := proc.Run(r.t.Context(), exec.Command(argv[0], argv[1:]...))
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

func (r root) dpkg(args ...string) { r.run(append([]string{"dpkg", "--root=" + r.dir}, args...)...) }

func (r root) rpm(args ...string) { r.run(append([]string{"rpm", "--root", r.dir}, args...)...) }

// files returns the mode of every file and folder, without the records of dpkg and rpm.
func (r root) files() map[string]fs.FileMode {
	r.t.Helper()
	all := map[string]fs.FileMode{}
	err := filepath.WalkDir(r.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, r.dir)
		if name == "/var/lib/dpkg" || name == "/var/lib/rpm" {
			return fs.SkipDir
		}
		info, err := d.Info()
		if err == nil {
			all[name] = info.Mode()
		}
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return all
}

// wantOnly fails if there are more files than before. dpkg removes folders that no package has any
// more, so there may be fewer.
func (r root) wantOnly(before map[string]fs.FileMode, when string) {
	r.t.Helper()
	for _, name := range slices.Sorted(maps.Keys(r.files())) {
		if _, there := before[name]; !there {
			r.t.Errorf("%s, %s is left behind", when, name)
		}
	}
}

// installed are the files that both packages have.
var installed = map[string]fs.FileMode{
	"/usr/bin/culvert": 0o755,
	"/usr/lib/systemd/system/culvert-agent.service":     0o644,
	"/usr/lib/systemd/system/culvert-gateway.service":   0o644,
	"/etc/culvert/agent.yaml":                           0o644,
	"/etc/culvert/gateway.yaml":                         0o644,
	"/etc/culvert/agent-credentials":                    0o700 | fs.ModeDir,
	"/etc/culvert/gateway-credentials":                  0o700 | fs.ModeDir,
	"/usr/share/man/man1/culvert.1":                     0o644,
	"/usr/share/man/man1/culvert-agent.1":               0o644,
	"/usr/share/bash-completion/completions/culvert":    0o644,
	"/usr/share/fish/vendor_completions.d/culvert.fish": 0o644,
	"/usr/share/doc/culvert/CHANGELOG.md":               0o644,
}

func (r root) wantInstalled(more ...string) {
	r.t.Helper()
	got := r.files()
	want := maps.Clone(installed)
	for _, name := range more {
		want[name] = 0o644
	}
	for name, mode := range want {
		if got[name] != mode {
			r.t.Errorf("%s has mode %v, want %v", name, got[name], mode)
		}
	}
	for name := range got {
		if strings.HasPrefix(name, "/etc/systemd") {
			r.t.Errorf("%s: the package has enabled a service", name)
		}
	}
}

// TestDebInAFreshRoot follows a user from the installation to the last file that is removed.
func TestDebInAFreshRoot(t *testing.T) {
	needRoot(t, "dpkg", "busybox", "chroot")
	dir, err := packages()
	if err != nil {
		t.Fatal(err)
	}
	deb, r := filepath.Join(dir, "culvert.deb"), newRoot(t)
	before := r.files()
	r.dpkg("--install", deb)
	r.wantInstalled("/usr/share/zsh/vendor-completions/_culvert", "/usr/share/doc/culvert/copyright")
	if got := r.run("chroot", r.dir, "/usr/bin/culvert", "version"); !strings.HasPrefix(got, "culvert "+version+" ") || !strings.Contains(got, "commit 0123456789ab, "+commitTime) {
		t.Errorf("culvert version says %q", got)
	}
	r.refusesToStart("agent", "--gateway-url is missing")
	r.refusesToStart("gateway", "--bootstrap is missing")
	r.carriesRecords()

	// What the user wrote outlives an upgrade and the removal, not the purge.
	settings := r.read("etc/culvert/agent.yaml")
	r.dpkg("--install", deb)
	r.dpkg("--remove", "culvert")
	if got := r.read("etc/culvert/agent.yaml"); got != settings || !strings.Contains(got, "\ngateway-url: ") {
		t.Errorf("after an upgrade and the removal, the settings are\n%s", got)
	}
	if _, err := os.Stat(r.path("usr/bin/culvert")); err == nil {
		t.Error("the binary is still there")
	}
	r.dpkg("--purge", "culvert")
	r.wantOnly(before, "after the purge")
}

func TestRPMInAFreshRoot(t *testing.T) {
	needRoot(t, "rpm", "busybox", "chroot")
	dir, err := packages()
	if err != nil {
		t.Fatal(err)
	}
	r := newRoot(t)
	r.rpm("--initdb")
	before := r.files()
	// The shell is no package of this root. Nothing else is missing.
	r.rpm("--install", "--nodeps", filepath.Join(dir, "culvert.rpm"))
	r.wantInstalled("/usr/share/zsh/site-functions/_culvert", "/usr/share/licenses/culvert/LICENSE")
	for need := range strings.Lines(r.run("rpm", "--query", "--requires", "--package", filepath.Join(dir, "culvert.rpm"))) {
		if need = strings.TrimSpace(need); need != "/bin/sh" && !strings.HasPrefix(need, "rpmlib(") && !strings.HasPrefix(need, "config(culvert)") {
			t.Errorf("the package requires %s", need)
		}
	}
	r.carriesRecords()
	r.rpm("--erase", "culvert")
	// rpm keeps settings that were changed, and folders in which there are other files.
	kept := r.files()
	for _, name := range []string{"etc/culvert/agent.yaml.rpmsave", "etc/culvert/gateway.yaml.rpmsave"} {
		if _, there := kept["/"+name]; !there {
			t.Errorf("%s is not there", name)
		}
	}
	if err := os.RemoveAll(r.path("etc/culvert")); err != nil {
		t.Fatal(err)
	}
	r.wantOnly(before, "after the removal")
}
