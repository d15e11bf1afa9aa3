package spcs

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// stub stands in for a program. It records its arguments and prints the platform of an image.
const stub = `#!/bin/sh
echo "$(basename "$0") $*" >> "$CALLS"
if [ "$1" = image ]; then echo "$IMAGES"; fi
`

// push runs 25-push.sh with all images for one platform, and returns the calls.
func push(t *testing.T, platform string) (calls []string, out string, err error) {
	t.Helper()
	bin := t.TempDir()
	for _, program := range []string{"docker", "snow"} {
		if err := os.WriteFile(filepath.Join(bin, program), []byte(stub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	log := filepath.Join(bin, "calls")
	cmd := exec.Command("./25-push.sh", "registry.test/culvert/kafka/images", "2")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "CALLS="+log, "IMAGES="+platform)
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
	builds := []string{
		"docker build -t " + images + "/culvert:2 ../..",
		"docker build -t " + images + "/kafka:4.3.1 --build-arg KAFKA=4.3.1 -f kafka.Dockerfile .",
	}
	calls, out, err := push(t, "linux/arm64")
	if err == nil || !strings.Contains(out, "is for linux/arm64, and Snowflake runs linux/amd64 only") {
		t.Errorf("pushing images of a Mac: %v\n%s", err, out)
	}
	if diff := cmp.Diff(builds, calls); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	calls, out, err = push(t, "linux/amd64")
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	want := append(builds, "snow spcs image-registry login --role culvert_owner", "docker push "+images+"/culvert:2", "docker push "+images+"/kafka:4.3.1")
	if diff := cmp.Diff(want, calls); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}
