package spcs

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// stub stands in for a program. It records its arguments and prints the platform of an image.
const stub = `#!/bin/sh
echo "$(basename "$0") $*" >> "$CALLS"
if [ "$1" = image ]; then echo "$IMAGES"; fi
`

// push runs 25-push.sh where some programs exist and Docker makes images for one platform. It returns
// the calls.
func push(t *testing.T, programs []string, made string, env ...string) (calls []string, out string, err error) {
	t.Helper()
	bin := t.TempDir()
	for _, program := range programs {
		if err := os.WriteFile(filepath.Join(bin, program), []byte(stub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// Nothing else is in PATH, so that a machine with Snowflake's CLI is like one without.
	for _, program := range []string{"basename", "sed", "sh"} {
		path, err := exec.LookPath(program)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(path, filepath.Join(bin, program)); err != nil {
			t.Fatal(err)
		}
	}
	log := filepath.Join(bin, "calls")
	cmd := exec.Command("./25-push.sh", "registry.test/culvert/kafka/images", "2")
	cmd.Dir = dir
	cmd.Env = append([]string{"PATH=" + bin, "CALLS=" + log, "IMAGES=" + made}, env...)
	b, err := cmd.CombinedOutput()
	text, _ := os.ReadFile(log)
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); !strings.Contains(line, " image inspect ") {
			calls = append(calls, line)
		}
	}
	return calls, string(b), err
}

func TestPushChecksBeforeItPushes(t *testing.T) {
	const images = "registry.test/culvert/kafka/images"
	both := []string{"docker", "snow"}
	builds := func(platform string) []string {
		return []string{
			"docker build -t " + images + "/culvert:2 --build-arg PLATFORM=" + platform + " ../..",
			"docker build -t " + images + "/kafka:4.3.1 --build-arg PLATFORM=" + platform + " --build-arg KAFKA=4.3.1 -f kafka.Dockerfile .",
		}
	}
	pushes := []string{"docker push " + images + "/culvert:2", "docker push " + images + "/kafka:4.3.1"}
	const byCLI, byDocker = "snow spcs image-registry login --role culvert_owner", "docker login registry.test -u alice"
	for name, c := range map[string]struct {
		programs []string
		made     string
		env      []string
		calls    []string
		refusal  string
	}{
		"amd64":                  {both, "linux/amd64", nil, slices.Concat(builds("linux/amd64"), []string{byCLI}, pushes), ""},
		"a Mac's own platform":   {both, "linux/arm64", nil, builds("linux/amd64"), "is for linux/arm64, and not for linux/amd64"},
		"arm64 pools":            {both, "linux/arm64", []string{"platform=linux/arm64"}, slices.Concat(builds("linux/arm64"), []string{byCLI}, pushes), ""},
		"amd64 for arm64 pools":  {both, "linux/amd64", []string{"platform=linux/arm64"}, builds("linux/arm64"), "is for linux/amd64, and not for linux/arm64"},
		"without the CLI":        {both[:1], "linux/amd64", []string{"snowflake_user=alice"}, slices.Concat(builds("linux/amd64"), []string{byDocker}, pushes), ""},
		"without CLI and a user": {both[:1], "linux/amd64", nil, builds("linux/amd64"), "export snowflake_user"},
	} {
		t.Run(name, func(t *testing.T) {
			calls, out, err := push(t, c.programs, c.made, c.env...)
			if diff := cmp.Diff(c.calls, calls); diff != "" {
				t.Errorf("calls (-want +got):\n%s", diff)
			}
			if (err != nil) != (c.refusal != "") || !strings.Contains(out, c.refusal) {
				t.Errorf("%v, want %q\n%s", err, c.refusal, out)
			}
		})
	}
}
