package test

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// TestTheThreatModelNamesTestsThatExist looks for the tests that docs/security.md names for each
// threat.
func TestTheThreatModelNamesTestsThatExist(t *testing.T) {
	doc, err := os.ReadFile("../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("git", "grep", "-hoE", `^func (Test|Fuzz)[A-Za-z0-9_]+\(`, "--", "../*_test.go").Output()
	if err != nil {
		t.Fatal(err)
	}
	exists := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		exists[strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(line), "func "), "(")] = true
	}
	named := regexp.MustCompile("`((?:Test|Fuzz)[A-Z]\\w+)`").FindAllStringSubmatch(string(doc), -1)
	if len(named) < 50 {
		t.Errorf("it names only %d tests", len(named))
	}
	for _, name := range named {
		if !exists[name[1]] {
			t.Errorf("%s does not exist", name[1])
		}
	}
	for line := range strings.Lines(section(string(doc), "## What they may not do")) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if len(cells) == 5 && !strings.Contains(line, "---") && !strings.Contains(line, "held by") && !strings.Contains(cells[3], "`Test") && !strings.Contains(cells[3], "`Fuzz") {
			t.Errorf("no test is named for %q", strings.TrimSpace(cells[1]))
		}
	}
}

// section returns the part of a document from a heading to the next of its level.
func section(doc, heading string) string {
	_, rest, _ := strings.Cut(doc, heading+"\n")
	part, _, _ := strings.Cut(rest, "\n## ")
	return part
}
