package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/culvert-proxy/culvert/test/cache"
)

// event is a line of the output of go test -json.
type event struct {
	Action     string
	Package    string
	ImportPath string // of a build's output
	Test       string // "": the package
	Elapsed    float64
	Output     string
}

// result is the result of a test, a package or a check.
type result struct {
	action  string // pass, fail or skip
	elapsed float64
	output  strings.Builder
}

// suite is a package with its tests, or the checks.
type suite struct {
	result
	tests map[string]*result
}

// Results collects the results of checks and tests.
type Results struct {
	suites map[string]*suite
	order  []string
	builds map[string]*strings.Builder // the compiler's output
}

const checksName = "checks"

func (r *Results) suite(name string) *suite {
	if r.suites == nil {
		r.suites = make(map[string]*suite)
		r.builds = make(map[string]*strings.Builder)
	}
	s := r.suites[name]
	if s == nil {
		s = &suite{tests: make(map[string]*result)}
		r.suites[name] = s
		r.order = append(r.order, name)
	}
	return s
}

func (s *suite) test(name string) *result {
	if name == "" {
		return &s.result
	}
	if s.tests[name] == nil {
		s.tests[name] = &result{}
	}
	return s.tests[name]
}

// Check adds the result of a check.
func (r *Results) Check(name string, err error) {
	t := r.suite(checksName).test(name)
	if err == nil {
		t.action = "pass"
		return
	}
	t.action = "fail"
	if why, ok := errors.AsType[skipped](err); ok {
		t.action = "skip"
		cache.Say("SKIPPED %s: %v", name, why)
	}
	fmt.Fprintf(&t.output, "%v\n", err)
}

// Read adds the output of go test -json, and prints progress.
func (r *Results) Read(from io.Reader, progress io.Writer) error {
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return fmt.Errorf("read the report of go test: %w", err)
		}
		r.add(e, progress)
	}
	return lines.Err()
}

func (r *Results) add(e event, progress io.Writer) {
	if e.Action == "build-output" {
		r.build(e.ImportPath).WriteString(e.Output)
		return
	}
	if e.Package == "" {
		return
	}
	s := r.suite(e.Package)
	t := s.test(e.Test)
	switch e.Action {
	case "output":
		t.output.WriteString(e.Output)
		if strings.HasPrefix(e.Output, cache.Prefix) {
			io.WriteString(progress, e.Output)
		}
	case "pass", "fail", "skip":
		t.action = e.Action // of the last run
		t.elapsed += e.Elapsed
		if !strings.Contains(e.Test, "/") && e.Elapsed > 1 || e.Test == "" {
			fmt.Fprintf(progress, "%-4s %7.1f s  %s %s\n", e.Action, e.Elapsed, short(e.Package), e.Test)
		}
	}
}

func (r *Results) build(name string) *strings.Builder {
	name, _, _ = strings.Cut(name, " ") // "package [package.test]"
	r.suite(name)
	if r.builds[name] == nil {
		r.builds[name] = new(strings.Builder)
	}
	return r.builds[name]
}

// short is a package's path below the module.
func short(name string) string {
	return strings.TrimPrefix(name, "github.com/culvert-proxy/culvert/")
}

// leaves returns the tests that count: those without subtests, and those that failed by themselves.
func (s *suite) leaves() map[string]*result {
	parents := make(map[string]bool)
	blamed := make(map[string]bool) // a test below it has failed
	for name, t := range s.tests {
		for at, c := range name {
			if c == '/' {
				parents[name[:at]] = true
				blamed[name[:at]] = blamed[name[:at]] || t.action == "fail"
			}
		}
	}
	all := make(map[string]*result)
	for name, t := range s.tests {
		if !parents[name] || t.action == "fail" && !blamed[name] {
			all[name] = t
		}
	}
	if s.action == "fail" && !anyFailed(all) {
		all["(package)"] = &s.result
	}
	return all
}

func anyFailed(tests map[string]*result) bool {
	for t := range maps.Values(tests) {
		if t.failed() {
			return true
		}
	}
	return false
}

// failed is also true of a test that never ended because its binary died.
func (t *result) failed() bool { return t.action != "pass" && t.action != "skip" }

// count returns how many passed, failed and were skipped.
func (s *suite) count() (n counts) {
	for t := range maps.Values(s.leaves()) {
		switch {
		case t.failed():
			n.failed++
		case t.action == "skip":
			n.skipped++
		default:
			n.passed++
		}
	}
	return n
}

type counts struct{ passed, failed, skipped int }

func (r *Results) total() (n counts) {
	for s := range maps.Values(r.suites) {
		c := s.count()
		n.passed += c.passed
		n.failed += c.failed
		n.skipped += c.skipped
	}
	return n
}

// Failed reports whether anything has failed.
func (r *Results) Failed() bool { return r.total().failed > 0 }

// Skipped returns, by package, the names of the tests that were skipped or had a skipped subtest.
// Checks are in no package.
func (r *Results) Skipped() map[string][]string {
	all := make(map[string][]string)
	for name, s := range r.suites {
		if name == checksName {
			continue
		}
		for test, t := range s.leaves() {
			top, _, _ := strings.Cut(test, "/")
			if t.action == "skip" && !slices.Contains(all[name], top) {
				all[name] = append(all[name], top)
			}
		}
	}
	return all
}

// Err returns why the run has failed, or nil.
func (r *Results) Err(ci bool) error {
	n := r.total()
	if n.failed > 0 {
		return fmt.Errorf("%d failed", n.failed)
	}
	if n.passed == 0 {
		return errors.New("no test ran")
	}
	if checks := r.suite(checksName).count(); ci && n.skipped > checks.skipped {
		return fmt.Errorf("%d skipped: in CI every test must run", n.skipped-checks.skipped)
	}
	return nil
}

// Print writes the failed and skipped tests with their output, then the table, and as the last line
// the sum.
func (r *Results) Print(w io.Writer) {
	for _, name := range r.order {
		r.printTrouble(w, name)
	}
	fmt.Fprintf(w, "\n%-40s %7s %7s %7s %9s\n", "", "passed", "failed", "skipped", "seconds")
	for _, name := range r.order {
		s := r.suites[name]
		if n := s.count(); n != (counts{}) {
			fmt.Fprintf(w, "%-40s %7d %7d %7d %9.1f\n", short(name), n.passed, n.failed, n.skipped, s.elapsed)
		}
	}
	n := r.total()
	fmt.Fprintf(w, "\n%d passed, %d failed, %d skipped\n", n.passed, n.failed, n.skipped)
}

func (r *Results) printTrouble(w io.Writer, name string) {
	leaves := r.suites[name].leaves()
	for _, test := range slices.Sorted(maps.Keys(leaves)) {
		t := leaves[test]
		switch {
		case t.failed():
			fmt.Fprintf(w, "\nFAILED %s %s\n%s", short(name), test, t.output.String())
			if b := r.builds[name]; b != nil {
				fmt.Fprint(w, b)
			}
		case t.action == "skip":
			fmt.Fprintf(w, "\nskipped %s %s\n%s", short(name), test, t.output.String())
		}
	}
}
