package test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/culvert-proxy/culvert/test/cache"
	"github.com/culvert-proxy/culvert/test/proc"
)

// startCulvert starts an agent or a gateway and returns when it accepts connections. What is behind
// it may not be there yet.
func startCulvert(ctx context.Context, cmd *exec.Cmd) (*proc.Process, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	cmd.Env = slices.DeleteFunc(cmd.Env, func(s string) bool { return strings.HasPrefix(s, "CULVERT_") })
	p, err := proc.Start(cmd)
	if err != nil {
		return nil, err
	}
	if _, err := p.Output().WaitLine(ctx, "listening"); err != nil {
		p.Kill()
		return nil, fmt.Errorf("start culvert %s: %w", strings.Join(cmd.Args[1:], " "), err)
	}
	return p, nil
}

// stopCulvert stops an agent or a gateway, which must exit with 0. The race detector, where it is
// built in, would make that 66.
func stopCulvert(p *proc.Process) error {
	if err := p.Terminate(10 * time.Second); err != nil {
		return fmt.Errorf("end culvert: %w\n%s", err, p.Output())
	}
	return nil
}

// build builds culvert once, with the race detector if CULVERT_TEST_RACE is set, and returns its
// path.
var build = sync.OnceValues(func() (string, error) { return buildAs("culvert") })

// buildWithShortTimeouts builds a culvert whose long timeouts are divided by ten.
var buildWithShortTimeouts = sync.OnceValues(func() (string, error) {
	return buildAs("culvert-hurried", "-ldflags=-X=github.com/culvert-proxy/culvert/proxy/tunnel.hurry=10")
})

func buildAs(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	root, err := cache.Root()
	if err != nil {
		return "", err
	}
	dir, err := cache.Dir()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, name)
	args = append([]string{"build", "-o", path}, args...)
	if os.Getenv("CULVERT_TEST_RACE") != "" {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, "./cmd/culvert")...)
	cmd.Dir = root
	_, err = proc.Run(ctx, cmd)
	return path, err
}
