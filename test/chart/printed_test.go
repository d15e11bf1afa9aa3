package chart

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/strvals"
)

func readDocument(t *testing.T, file string) string {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// printedCommands returns the commands of a text that begin with words. They may have several lines.
func printedCommands(t *testing.T, text, begins string) [][]string {
	t.Helper()
	var commands [][]string
	for _, c := range command.FindAllString(text, -1) {
		if strings.HasPrefix(c, begins) {
			commands = append(commands, shellWords(c))
		}
	}
	if len(commands) == 0 {
		t.Fatalf("no command %q", begins)
	}
	return commands
}

var (
	// command is a line, with those that a backslash or single quotes make part of it.
	command = regexp.MustCompile(`(?m)^(?:'[^']*'|\\\n|[^'\n])+`)
	word    = regexp.MustCompile(`(?:'[^']*'|[^\s'])+`)
)

// shellWords splits a command as a shell does that has no quotes but single ones.
func shellWords(command string) []string {
	var all []string
	for _, w := range word.FindAllString(strings.ReplaceAll(command, "\\\n", " "), -1) {
		all = append(all, strings.ReplaceAll(w, "'", ""))
	}
	return all
}

// TestPrintedHelmCommandsRender: what the pages tell readers to install can be installed.
func TestPrintedHelmCommandsRender(t *testing.T) {
	for _, file := range []string{chartDir + "/README.md", "../../docs/kubernetes.md"} {
		for _, words := range printedCommands(t, readDocument(t, file), "helm ") {
			if words[1] != "install" && words[3] != "install" {
				continue // helm test
			}
			values := map[string]any{}
			for i, w := range words {
				switch w {
				case "-f":
					path, ok := strings.CutPrefix(words[i+1], "charts/culvert/")
					if !ok {
						t.Errorf("%s: %s is no file of the chart", file, words[i+1])
					}
					values = readValues(t, filepath.Join(chartDir, path))
				case "--set":
					if err := strvals.ParseInto(words[i+1], values); err != nil {
						t.Errorf("%s: --set %s: %v", file, words[i+1], err)
					}
				}
			}
			if texts, err := render(values, nil); err != nil || strings.Contains(texts["NOTES.txt"], "Nothing is installed") {
				t.Errorf("%s: %q: %v", file, words, err)
			}
		}
	}
}
