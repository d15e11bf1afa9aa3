package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// Each command that help lists has a page, with all of its flags.
func TestEveryCommandHasAManualPage(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "man")
	if out, err := exec.Command("culvert", "man", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	pages, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	wanted := 0
	app := newParser(t).Model.Node
	for _, node := range append([]*kong.Node{app}, app.Children...) {
		if node.Hidden {
			continue
		}
		wanted++
		page, err := os.ReadFile(filepath.Join(dir, manName(node)+".1"))
		if err != nil {
			t.Error(err)
			continue
		}
		for _, group := range groups(node) {
			for _, flag := range group.flags {
				if !strings.Contains(string(page), `.B "`+escapeRoff.Replace(flagForm(flag))+`"`) {
					t.Errorf("%s does not name --%s", manName(node), flag.Name)
				}
			}
		}
	}
	if len(pages) != wanted {
		t.Errorf("%d pages, want %d: %q", len(pages), wanted, pages)
	}
}

// What groff makes of a page is what --help says, to the letter: options, quotes, examples.
func TestManualPageReadsAsHelp(t *testing.T) {
	if _, err := exec.LookPath("groff"); err != nil {
		t.Skip("needs groff (Debian: apt-get install groff)")
	}
	dir := t.TempDir()
	if out, err := exec.Command("culvert", "man", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	pages, err := filepath.Glob(filepath.Join(dir, "*.1"))
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range pages {
		cmd := exec.Command("groff", "-k", "-Kutf8", "-man", "-Tutf8", "-ww", "-rLL=200n", "-P-cbou", page)
		var complaints strings.Builder
		cmd.Stderr = &complaints
		text, err := cmd.Output()
		if err != nil || complaints.Len() > 0 {
			t.Errorf("%s: %v\n%s", filepath.Base(page), err, &complaints)
		}
		name := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(page), "culvert-"), ".1")
		args := []string{name, "--help"}
		if name == "culvert" {
			args = args[1:]
		}
		help, err := exec.Command("culvert", args...).Output()
		if err != nil {
			t.Fatal(err)
		}
		shown := words(strings.ReplaceAll(string(text), "\u2212", "-")) // \- without the man.local of Debian
		for line := range strings.Lines(string(help)) {
			// Both break lines where they like; one line of help is a piece of a sentence.
			if want := words(line); want != "" && !strings.HasPrefix(want, "Usage:") && !strings.HasSuffix(want, ":") && !strings.Contains(shown, want) {
				t.Errorf("%s does not say %q", filepath.Base(page), want)
			}
		}
	}
}

// words is text with one space wherever there is any.
func words(text string) string { return strings.Join(strings.Fields(text), " ") }
