package main

import (
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// update writes docs/configuration.md again: go test ./cmd/culvert -run Reference -update
var update = flag.Bool("update", false, "write the files that tests compare with")

const (
	referencePage = "../../docs/configuration.md"
	// referenceStart is the line below which the page is made from the flags.
	referenceStart = "<!-- From here on, the page is made from the flags: go test ./cmd/culvert -run Reference -update -->\n"
)

// TestConfigurationReference compares docs/configuration.md with the flags. With -update it writes
// the page.
func TestConfigurationReference(t *testing.T) {
	page, err := os.ReadFile(referencePage)
	if err != nil {
		t.Fatal(err)
	}
	written, old, found := strings.Cut(string(page), referenceStart)
	if !found {
		t.Fatalf("%s has no line %s", referencePage, referenceStart)
	}
	var b strings.Builder
	printReference(&b, commandLine(t))
	switch {
	case b.String() == old:
	case *update:
		if err := os.WriteFile(referencePage, []byte(written+referenceStart+b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("%s differs from the flags: see git diff after go test ./cmd/culvert -run Reference -update", referencePage)
	}
}

// TestConfigurationExamples runs the file and the command that docs/configuration.md shows.
func TestConfigurationExamples(t *testing.T) {
	page, err := os.ReadFile(referencePage)
	if err != nil {
		t.Fatal(err)
	}
	_, file, _ := strings.Cut(string(page), "```yaml\n")
	file, _, _ = strings.Cut(file, "```")
	path := write(t, file)
	for setting, want := range map[string]string{
		"gateway-url":   "['https://a.example.com', 'https://b.example.com']",
		"token-file":    "/etc/culvert/token.txt",
		"transport":     "ws",
		"drain-timeout": "10s",
	} {
		if got := effective(t, setting, "agent", "--config", path); got != want+" # "+path {
			t.Errorf("%s is %s, want %s", setting, got, want)
		}
	}

	_, shown, _ := strings.Cut(string(page), "```console\n$ culvert ")
	shown, _, _ = strings.Cut(shown, "```")
	command, shown, _ := strings.Cut(shown, "\n")
	var stdout, stderr bytes.Buffer
	if code := run(strings.Fields(command), &stdout, &stderr); code != 0 {
		t.Fatalf("culvert %s ended with %d: %s", command, code, &stderr)
	}
	for line := range strings.Lines(shown) {
		if line != "…\n" && !strings.Contains(stdout.String(), line) {
			t.Errorf("culvert %s does not print %q", command, line)
		}
	}
}

// commandLine is the command line without anybody who typed one.
func commandLine(t *testing.T) *kong.Node {
	t.Helper()
	parser, err := kong.New(&cli{}, kong.Name("culvert"), kong.NoDefaultHelp())
	if err != nil {
		t.Fatal(err)
	}
	return parser.Model.Node
}

// printReference prints a section for each command, and one for the flags that all have.
func printReference(w io.Writer, root *kong.Node) {
	fmt.Fprintln(w, "\n## Every command")
	printReferenceGroup(w, root.Flags)
	for _, command := range root.Children {
		if !command.Hidden {
			printReferenceCommand(w, command)
		}
	}
}

// printReferenceCommand prints a command's own flags. Those that it has in common with a whole other
// command stand there only.
func printReferenceCommand(w io.Writer, command *kong.Node) {
	fmt.Fprintf(w, "\n## %s\n\n%s\n", command.FullPath(), pageLines(command.Help))
	for _, argument := range command.Positional {
		fmt.Fprintf(w, "\n`%s %s`: %s\n", command.FullPath(), strings.ToUpper(argument.Name), argument.Help)
	}
	for _, child := range command.Children {
		if whole := wholeOf(child); whole != nil {
			fmt.Fprintf(w, "\n`%s` takes all flags of [%s](#%s).\n", child.FullPath(), whole.FullPath(), anchor(whole))
			continue
		}
		printReferenceCommand(w, child)
	}
	whole := wholeOf(command)
	if whole != nil {
		fmt.Fprintf(w, "\nAll flags of [%s](#%s), and:\n", whole.FullPath(), anchor(whole))
	}
	for _, group := range groups(command) {
		var own []*kong.Flag
		for _, flag := range group.flags {
			if has(command, flag.Name) && (whole == nil || !has(whole, flag.Name)) {
				own = append(own, flag)
			}
		}
		if len(own) == 0 {
			continue
		}
		fmt.Fprintf(w, "\n### %s: %s\n", command.Path(), group.title)
		printReferenceGroup(w, own)
	}
}

// wholeOf returns another command all of whose flags command takes: agent or gateway.
func wholeOf(command *kong.Node) *kong.Node {
	for _, other := range root(command).Children {
		if len(other.Flags) < 2 || other == command || len(other.Flags) > len(command.Flags) {
			continue
		}
		all := true
		for _, flag := range other.Flags {
			all = all && has(command, flag.Name)
		}
		if all {
			return other
		}
	}
	return nil
}

func has(command *kong.Node, name string) bool {
	for _, flag := range command.Flags {
		if flag.Name == name {
			return true
		}
	}
	return false
}

// anchor is the fragment that a Markdown renderer gives to the command's heading.
func anchor(command *kong.Node) string { return strings.ReplaceAll(command.FullPath(), " ", "-") }

func printReferenceGroup(w io.Writer, flags []*kong.Flag) {
	fmt.Fprint(w, "\n| flag | variable | default | |\n|---|---|---|---|\n")
	for _, flag := range flags {
		name := "--" + flag.Name
		if flag.Short != 0 {
			name = fmt.Sprintf("-%c`, `%s", flag.Short, name)
		}
		if !flag.IsBool() {
			name += " " + flag.PlaceHolder
		}
		variable := "–"
		if isSetting(flag) {
			variable = "`" + envName(flag.Name) + "`"
		}
		fmt.Fprintf(w, "| `%s` | %s | %s | %s |\n", name, variable, defaultOf(flag), cell(flag.Help))
	}
}

// defaultOf says what holds if nobody sets the flag.
func defaultOf(flag *kong.Flag) string {
	switch {
	case !isSetting(flag):
		return "–"
	case flag.IsBool():
		return "`" + cmp.Or(flag.Default, "false") + "`"
	case flag.Default != "":
		return "`" + flag.Default + "`"
	case flag.Target.IsZero() && flag.Target.CanInt(): // a number or a duration
		return "`0`"
	}
	return "unset"
}

// cell is text in a cell of a table.
func cell(text string) string {
	return strings.NewReplacer("|", `\|`, "<", "&lt;", "*", `\*`).Replace(text)
}

// pageLines wraps a paragraph as the pages in docs/ are wrapped.
func pageLines(text string) string {
	var b strings.Builder
	width := 0
	for i, word := range strings.Fields(text) {
		switch {
		case i == 0:
		case width+1+len(word) > 100:
			b.WriteString("\n")
			width = 0
		default:
			b.WriteString(" ")
			width++
		}
		b.WriteString(word)
		width += len(word)
	}
	return b.String()
}
