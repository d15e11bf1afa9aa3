package main

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/alecthomas/kong"
)

// manCmd is culvert man, which is for whoever packages culvert.
type manCmd struct {
	Directory string `arg:"" help:"Where to write the pages."`
}

// Run writes a page for culvert and one for each command, from the same texts as --help.
func (c *manCmd) Run(ctx *kong.Context) error {
	if err := os.MkdirAll(c.Directory, 0o755); err != nil {
		return err
	}
	for _, node := range append([]*kong.Node{ctx.Model.Node}, ctx.Model.Children...) {
		if node.Hidden {
			continue
		}
		file := filepath.Join(c.Directory, manName(node)+".1")
		if err := os.WriteFile(file, []byte(manPage(node)), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// manName is the name of a command's page: culvert-agent.
func manName(node *kong.Node) string { return strings.ReplaceAll(node.FullPath(), " ", "-") }

// manPage is the page of a command, in the macros of man(7).
func manPage(node *kong.Node) string {
	var p roff
	day, _, _ := strings.Cut(commitTime, "T")
	p.macro("TH", strings.ToUpper(manName(node)), "1", day, "culvert "+version(), "User Commands")
	p.macro("SH", "NAME")
	p.text(manName(node) + " - " + firstSentence(node.Help))
	p.macro("SH", "SYNOPSIS")
	p.macro("B", usageLine(node))
	p.macro("SH", "DESCRIPTION")
	p.text(node.Help)
	p.detail(node.Detail)
	p.commands(node)
	p.options(node)
	if node.Type == kong.CommandNode {
		p.macro("SH", "ENVIRONMENT AND FILE")
		p.text(settingsHelp)
	}
	p.macro("SH", "EXIT STATUS")
	p.item("0", "The command did its work. Of an agent or a gateway: a signal ended it, and all connections had ended.")
	p.item("1", "Something failed that may work another time.")
	p.item("2", "The command line, a variable or a file is wrong. No socket was opened.")
	p.macro("SH", "SEE ALSO")
	p.text(strings.Join(manPagesBeside(node), ", "))
	return p.String()
}

// manPagesBeside are the other pages.
func manPagesBeside(node *kong.Node) (names []string) {
	for _, other := range append([]*kong.Node{root(node)}, root(node).Children...) {
		if other != node && !other.Hidden {
			names = append(names, manName(other)+"(1)")
		}
	}
	return names
}

// roff is a manual page.
type roff struct{ strings.Builder }

// escapeRoff keeps characters from being read as commands, and hyphens from becoming dashes that
// cannot be pasted.
var escapeRoff = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`)

// macro writes a line that is a macro with its arguments.
func (p *roff) macro(name string, arguments ...string) {
	p.WriteString("." + name)
	for _, a := range arguments {
		p.WriteString(` "` + strings.ReplaceAll(escapeRoff.Replace(a), `"`, `""`) + `"`)
	}
	p.WriteString("\n")
}

// text writes a line of text. A line that began with a dot or a space would be a command or a
// break.
func (p *roff) text(line string) { p.WriteString(`\&` + escapeRoff.Replace(line) + "\n") }

// item writes a term and what it means.
func (p *roff) item(term, meaning string) {
	p.macro("TP")
	p.macro("B", term)
	p.text(meaning)
}

// detail writes what stands below the flags in help. Indented lines are commands, which stay as they
// are.
func (p *roff) detail(text string) {
	if text == "" {
		return
	}
	p.macro("PP")
	example := false
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		indented := strings.HasPrefix(line, "  ")
		switch {
		case indented && !example:
			p.macro("PP")
			p.macro("RS", "4")
			p.macro("EX")
		case example && !indented:
			p.macro("EE")
			p.macro("RE")
		}
		example = indented
		if line == "" {
			p.macro("PP")
			continue
		}
		p.text(strings.TrimPrefix(line, "  "))
	}
	if example {
		p.macro("EE")
		p.macro("RE")
	}
}

func (p *roff) commands(node *kong.Node) {
	if len(node.Children) == 0 {
		return
	}
	p.macro("SH", "COMMANDS")
	for _, child := range node.Children {
		if !child.Hidden {
			p.item(child.Name, child.Help)
		}
	}
}

func (p *roff) options(node *kong.Node) {
	p.macro("SH", "OPTIONS")
	for _, group := range groups(node) {
		p.macro("SS", group.title)
		for _, flag := range group.flags {
			p.item(flagForm(flag), flagMeaning(flag))
		}
	}
}
