package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/culvert-proxy/culvert/test/cache"
)

// tool is a checker written in Go. It is built here at a fixed version and is in no go.mod, since
// building culvert does not need it.
type tool struct{ path, version string }

var (
	staticcheck  = tool{"honnef.co/go/tools/cmd/staticcheck", "v0.8.2"}
	golangciLint = tool{"github.com/golangci/golangci-lint/v2/cmd/golangci-lint", "v2.15.0"}
	govulncheck  = tool{"golang.org/x/vuln/cmd/govulncheck", "v1.9.0"}
)

// staticChecks are all checks of staticcheck except style (ST) and the fixes that it offers to
// editors (QF).
const staticChecks = "-checks=SA*,S1*,U1000"

// check returns a check that runs the tool on the code for Linux on every system, so that all get
// the same findings.
func (t tool) check(args ...string) func(context.Context) error {
	return func(ctx context.Context) error {
		program, err := t.install(ctx)
		if err != nil {
			return err
		}
		return command(append([]string{"GOOS=linux", program}, args...)...)(ctx)
	}
}

// install builds the tool, unless this version of Go has built it already. It returns the program's
// path.
func (t tool) install(ctx context.Context) (program string, err error) {
	name := filepath.Base(t.path)
	dir, err := cache.Get(name+"-"+t.version, t.path+"@"+t.version+" "+runtime.Version(), func(dir string) error {
		return command("GOBIN="+dir, "go", "install", t.path+"@"+t.version)(ctx)
	})
	if err != nil {
		return "", err
	}
	return exec.LookPath(filepath.Join(dir, name)) // which adds .exe on Windows
}

// vulnerabilities fails where our code calls functions with known vulnerabilities. If the database
// cannot be reached, the check is skipped.
func vulnerabilities(ctx context.Context) error {
	err := govulncheck.check("./...")(ctx)
	if err != nil && strings.Contains(err.Error(), "govulncheck: fetching vulnerabilities") {
		return skipped{fmt.Errorf("the database of vulnerabilities cannot be reached: %w", err)}
	}
	return err
}

// skipped is why a check has no result.
type skipped struct{ error }
