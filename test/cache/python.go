package cache

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/culvert-proxy/culvert/test/proc"
)

// Python returns the folder of a virtual environment with the packages, each written as
// NAME==VERSION. They share the environment, which is named after the first.
func Python(ctx context.Context, packages ...string) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 5*time.Minute, fmt.Errorf("not installed within five minutes"))
	defer cancel()
	name := "python-" + strings.ReplaceAll(packages[0], "==", "-")
	return Get(name, strings.Join(packages, " "), func(dir string) error {
		if _, err := proc.Run(ctx, exec.Command("python3", "-m", "venv", dir)); err != nil {
			return fmt.Errorf("%w (Debian: apt-get install python3-venv)", err)
		}
		pip := exec.Command(filepath.Join(dir, "bin", "pip"), append([]string{"install", "--quiet", "--disable-pip-version-check"}, packages...)...)
		_, err := proc.Run(ctx, pip)
		return err
	})
}
