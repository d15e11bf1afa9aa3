package test

import (
	"os"
	"regexp"
	"slices"
	"testing"
)

// The workflow of a release looks for these headings.
var (
	changelogHeading = regexp.MustCompile(`(?m)^## (.*)$`)
	changelogVersion = regexp.MustCompile(`^\[(?:Unreleased|\d+\.\d+\.\d+(?:-[0-9a-z.]+)?)\](?: - \d{4}-\d\d-\d\d)?$`)
	changelogKind    = regexp.MustCompile(`(?m)^### (.*)$`)
)

func TestChangelogCanBeReadByTheRelease(t *testing.T) {
	text, err := os.ReadFile("../CHANGELOG.md")
	if err != nil {
		t.Fatal(err)
	}
	headings := changelogHeading.FindAllStringSubmatch(string(text), -1)
	if len(headings) == 0 || headings[0][1] != "[Unreleased]" {
		t.Errorf("CHANGELOG.md does not begin with ## [Unreleased]: %q", headings)
	}
	for i, h := range headings {
		if !changelogVersion.MatchString(h[1]) || (i > 0) != regexp.MustCompile(` - \d`).MatchString(h[1]) {
			t.Errorf("CHANGELOG.md has the heading %q, want [1.2.3] - 2026-12-01", h[1])
		}
	}
	for _, k := range changelogKind.FindAllStringSubmatch(string(text), -1) {
		if !slices.Contains([]string{"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}, k[1]) {
			t.Errorf("CHANGELOG.md has changes of the kind %q", k[1])
		}
	}
}
