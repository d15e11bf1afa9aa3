package main

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

// TestPerformancePageShowsItsFiles makes docs/performance.md and the plots again, from the files
// that runs have written.
func TestPerformancePageShowsItsFiles(t *testing.T) {
	files, err := makePage(root)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range files {
		got, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Error(err)
		}
		if string(got) != want {
			t.Errorf("%s does not show what is in the files of %s: go run ./test/bench page", name, performance)
		}
	}
}

// TestPerformancePageNamesWhatExists checks the commands and the plots in docs/performance.md: each
// can be run, each plan has a command and a plot.
func TestPerformancePageNamesWhatExists(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, performance+".md"))
	if err != nil {
		t.Fatal(err)
	}
	page := string(text)
	commands := regexp.MustCompile(`go run \./test/bench([^`+"`"+`\n#]*)`).FindAllStringSubmatch(page, -1)
	if len(commands) < len(plans) {
		t.Errorf("%d commands on the page, want one for each of %d plans", len(commands), len(plans))
	}
	for _, m := range commands {
		args := splitQuoted(m[1])
		if slices.Contains([]string{"all", "page"}, strings.Join(args, " ")) {
			continue
		}
		if i := slices.Index(args, "-pair"); i >= 0 {
			args[i+1] = strings.Replace(args[i+1], "=", "="+root+"/", 1)
		}
		if _, err := parseOptions(args); err != nil && !errors.Is(err, flag.ErrHelp) {
			t.Errorf("%s: %v", m[0], err)
		}
	}
	for _, p := range plans {
		if !strings.Contains(page, "(performance/"+p.name+".svg)") {
			t.Errorf("the page does not show the plot of plan %s", p.name)
		}
		if !strings.Contains(page, "<!-- bench "+p.name+":") {
			t.Errorf("the page does not show the figures of plan %s", p.name)
		}
	}
	for _, m := range regexp.MustCompile(`\| (?:culvert|bare|direct)[^|]* \|`).FindAllString(page, -1) {
		if name := strings.Trim(m, "| "); !slices.Contains(new(options).rowNames(), name) {
			t.Errorf("the page has figures of a row %q", name)
		}
	}
}

// splitQuoted splits a command line in which an argument may be in double quotes.
func splitQuoted(line string) (args []string) {
	for _, m := range regexp.MustCompile(`"([^"]*)"|\S+`).FindAllStringSubmatch(line, -1) {
		if m[1] != "" {
			args = append(args, m[1])
		} else {
			args = append(args, m[0])
		}
	}
	return args
}

// TestSummaryNamesWhatExists checks that each line of the summary is measured by its plan.
func TestSummaryNamesWhatExists(t *testing.T) {
	for _, l := range summary {
		o, err := parseOptions([]string{"-plan", l.plan})
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(o.loads, func(have load) bool { return have.name == l.load })
		if i < 0 {
			t.Errorf("%s: plan %s does not run %q", l.what, l.plan, l.load)
			continue
		}
		if !slices.ContainsFunc(o.loads[i].columns, func(c column) bool { return c.quantity == l.quantity }) {
			t.Errorf("%s: %q does not measure %s", l.what, l.load, l.quantity.name)
		}
		for _, base := range []string{"direct", "bare ws"} {
			if kind, _, _ := strings.Cut(base, " "); l.of == kind && !slices.Contains(o.rows, base) {
				t.Errorf("%s: plan %s has no row %s", l.what, l.plan, base)
			}
		}
	}
}
