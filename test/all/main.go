// Command all runs every check and every test of the repository, including those against real
// brokers and clients. It installs what is missing for them:
//
//	go run ./test/all
//	go run ./test/all -checks    # no tests: a minute, and seconds the next time
//
// It ends with a table of what passed, failed and was skipped. On Linux, where CI is set, a skipped
// test is a failure; a skipped check is not. On other systems the tests with real brokers, clients,
// ingresses and networks are left out.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/culvert-proxy/culvert/test/cache"
	"github.com/culvert-proxy/culvert/test/proc"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	checksOnly := flag.Bool("checks", false, "run the checks and no tests")
	flag.Parse()
	if err := run(ctx, *checksOnly); err != nil {
		fmt.Fprintln(os.Stderr, "test/all:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, checksOnly bool) error {
	root, err := cache.Root()
	if err != nil {
		return err
	}
	if err := os.Chdir(root); err != nil {
		return err
	}
	if !checksOnly {
		if err := install(ctx); err != nil {
			return err
		}
	}
	var results Results
	for _, c := range checks {
		cache.Say("%s", c.name) // a first run compiles for minutes
		results.Check(c.name, c.run(ctx))
	}
	if !checksOnly {
		if err := runAllTests(ctx, &results); err != nil {
			return err
		}
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	results.Print(os.Stdout)
	return results.Err(os.Getenv("CI") != "" && hasReal)
}

// hasReal reports whether this system can run the tests with real programs. They need Debian's
// packages, namespaces and emulated networks.
const hasReal = runtime.GOOS == "linux"

func runAllTests(ctx context.Context, results *Results) error {
	product, real, err := packages(ctx)
	if err != nil {
		return err
	}
	runTests(ctx, results, ".", nil, append([]string{"-race"}, product...))
	// The race detector allocates, so tests that count allocations skip with it.
	for name, tests := range results.Skipped() {
		runTests(ctx, results, ".", nil, []string{"-run=^(" + strings.Join(tests, "|") + ")$", name})
	}
	if err := fuzz(ctx, results, product); err != nil {
		return err
	}
	runTests(ctx, results, "test/chart", nil, []string{"./..."})
	runTests(ctx, results, "test/compose", nil, []string{"./..."})
	runTests(ctx, results, "test/clients/go", nil, []string{"./..."})
	env := []string{"CULVERT_TEST_REAL=1"}
	if !hasReal {
		cache.Say("LEFT OUT on %s: every test with Apache Kafka, its clients, ingresses, images or emulated networks. They need Linux", runtime.GOOS)
		env = nil // tests with real programs skip; those of the repository itself run
	}
	// One package at a time, since each starts its own brokers.
	runTests(ctx, results, ".", env, append([]string{"-p=1"}, real...))
	return nil
}

// packages returns the packages of the product, and those of the tests with real programs.
func packages(ctx context.Context) (product, real []string, err error) {
	out, err := proc.Run(ctx, exec.Command("go", "list", "./..."))
	if err != nil {
		return nil, nil, err
	}
	for name := range strings.FieldsSeq(out) {
		if strings.Contains(name+"/", "/culvert/test/") {
			real = append(real, name)
		} else {
			product = append(product, name)
		}
	}
	return product, real, nil
}

// testTimeout stops a test binary that hangs.
const testTimeout = "20m"

// runTests runs go test in a module's folder and adds its results.
func runTests(ctx context.Context, results *Results, module string, env, args []string) {
	cmd := exec.Command("go", append([]string{"test", "-json", "-count=1", "-timeout=" + testTimeout}, args...)...)
	cmd.Dir = module
	cmd.Env = append(os.Environ(), env...)
	reader, writer := io.Pipe()
	cmd.Stdout = writer
	read := make(chan error, 1)
	go func() { read <- results.Read(reader, os.Stdout) }()
	_, err := proc.Run(ctx, cmd)
	writer.Close()
	if e := <-read; e != nil {
		err = errors.Join(err, e)
	}
	if err != nil && !results.Failed() {
		results.Check("go test", err)
	}
}

// check is a step other than a test.
type check struct {
	name string
	run  func(context.Context) error
}

var checks = []check{
	{"gofmt", formatted},
	{"go mod tidy", command("go", "mod", "tidy", "-diff")},
	{"go vet linux", vet("linux")},
	{"go vet darwin", vet("darwin")},
	{"go vet windows", vet("windows")},
	{"go mod tidy test/clients/go", command("go", "-C", "test/clients/go", "mod", "tidy", "-diff")},
	{"go vet test/clients/go", command("go", "-C", "test/clients/go", "vet", "./...")},
	{"go mod tidy test/chart", command("go", "-C", "test/chart", "mod", "tidy", "-diff")},
	{"go vet test/chart", command("go", "-C", "test/chart", "vet", "./...")},
	{"go mod tidy test/compose", command("go", "-C", "test/compose", "mod", "tidy", "-diff")},
	{"go vet test/compose", command("go", "-C", "test/compose", "vet", "./...")},
	{"staticcheck", staticcheck.check(staticChecks, "./...")},
	{"golangci-lint", golangciLint.check("run")},
	{"govulncheck", vulnerabilities},
}

func formatted(ctx context.Context) error {
	out, err := proc.Run(ctx, exec.Command("gofmt", "-l", "cmd", "protocol", "proxy", "rewrite", "test"))
	if err == nil && out != "" {
		err = fmt.Errorf("not formatted:\n%s", out)
	}
	return err
}

func vet(system string) func(context.Context) error {
	return command("GOOS="+system, "go", "vet", "./...")
}

// command returns a check that runs a program. Arguments before its name that contain "=" are
// environment variables.
func command(argv ...string) func(context.Context) error {
	name := slices.IndexFunc(argv, func(s string) bool { return !strings.Contains(s, "=") })
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
		defer cancel()
		cmd := exec.Command(argv[name], argv[name+1:]...)
		cmd.Env = append(os.Environ(), argv[:name]...)
		_, err := proc.Run(ctx, cmd)
		return err
	}
}
