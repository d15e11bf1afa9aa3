package main

import (
	"embed"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/culvert-proxy/culvert/proxy/tunnel"
)

// completionCmd is culvert completion.
type completionCmd struct {
	Shell string `arg:"" help:"bash, zsh or fish."`
}

// Help is printed below the flags.
func (*completionCmd) Help() string {
	return `Now:
  source <(culvert completion bash)
  source <(culvert completion zsh)
  culvert completion fish | source

For good:
  culvert completion bash > ~/.local/share/bash-completion/completions/culvert
  culvert completion zsh > "${fpath[1]}/_culvert"
  culvert completion fish > ~/.config/fish/completions/culvert.fish`
}

// completionScripts are short: they run culvert with completeArg whenever something is completed,
// so they stay as they are when flags change.
//
//go:embed completions
var completionScripts embed.FS

// Run prints the script of the shell.
func (c *completionCmd) Run(a *app) error {
	script, err := completionScripts.ReadFile("completions/" + c.Shell)
	if err != nil {
		return wrong("use bash, zsh or fish", "%s: no completion for this shell", c.Shell)
	}
	_, err = a.stdout.Write(script)
	return err
}

const (
	// completeArg is the first argument of a process that a shell has started to complete a command
	// line. The words after culvert follow, up to the one that is completed.
	completeArg = "__complete"
	// completeFiles is what it prints in place of candidates where the name of a file is expected.
	completeFiles = ":files"
)

// candidate is a word that the last one can become.
type candidate struct{ word, help string }

// complete prints the candidates for the last word, each with its help, if any, after a tab.
func complete(w io.Writer, commands *kong.Node, words []string) error {
	for _, c := range candidates(commands, words) {
		if _, err := fmt.Fprintln(w, strings.TrimSuffix(c.word+"\t"+c.help, "\t")); err != nil {
			return err
		}
	}
	return nil
}

func candidates(node *kong.Node, words []string) []candidate {
	words = joinAssignments(words)
	if len(words) == 0 {
		return nil
	}
	last := words[len(words)-1]
	node, awaits := followWords(node, words[:len(words)-1])
	name, value, assigned := strings.Cut(last, "=")
	switch {
	case awaits != nil:
		return valuesFor(awaits, last, "")
	case assigned && flagNamed(node, name) != nil:
		return valuesFor(flagNamed(node, name), value, name+"=")
	case strings.HasPrefix(last, "-"):
		return flagsFrom(node, last)
	}
	return wordsFrom(node, last)
}

// joinAssignments joins --flag=value, which bash passes as three words.
func joinAssignments(words []string) (joined []string) {
	for i, word := range words {
		n := len(joined)
		afterEquals := i > 0 && words[i-1] == "="
		if n > 0 && strings.HasPrefix(joined[n-1], "--") && (word == "=" || afterEquals) {
			joined[n-1] += word
			continue
		}
		joined = append(joined, word)
	}
	return joined
}

// followWords returns the command that words name, and the flag at their end that awaits a value,
// or nil.
func followWords(node *kong.Node, words []string) (_ *kong.Node, awaits *kong.Flag) {
	for _, word := range words {
		switch {
		case awaits != nil:
			awaits = nil
		case strings.HasPrefix(word, "-"):
			if flag := flagNamed(node, word); flag != nil && !flag.IsBool() {
				awaits = flag
			}
		default:
			for _, child := range node.Children {
				if child.Name == word {
					node = child
				}
			}
		}
	}
	return node, awaits
}

// flagNamed returns node's flag that is written so, or nil.
func flagNamed(node *kong.Node, written string) *kong.Flag {
	for _, group := range groups(node) {
		for _, flag := range group.flags {
			if written == "--"+flag.Name || flag.Short != 0 && written == "-"+string(flag.Short) {
				return flag
			}
		}
	}
	return nil
}

// valuesFor returns the values of a flag that begin with prefix, or completeFiles. Most flags take
// what cannot be listed, such as an address.
func valuesFor(flag *kong.Flag, prefix, before string) (all []candidate) {
	if flag.PlaceHolder == "FILE" {
		return []candidate{{completeFiles, ""}}
	}
	var values []string
	switch flag.Name {
	case "transport":
		values = append([]string{tunnel.TransportAuto}, tunnel.Transports()...)
	case "log-level":
		values = slices.Sorted(maps.Keys(levels))
	case "log-format":
		values = []string{formatText, formatJSON}
	}
	for _, v := range values {
		if strings.HasPrefix(v, prefix) {
			all = append(all, candidate{before + v, flagHelp(flag)})
		}
	}
	return all
}

// flagsFrom returns node's flags that begin with prefix.
func flagsFrom(node *kong.Node, prefix string) (all []candidate) {
	for _, group := range groups(node) {
		for _, flag := range group.flags {
			if name := "--" + flag.Name; strings.HasPrefix(name, prefix) {
				all = append(all, candidate{name, flagHelp(flag)})
			}
		}
	}
	return all
}

// wordsFrom returns the commands below node, or the values of its argument, that begin with prefix.
func wordsFrom(node *kong.Node, prefix string) (all []candidate) {
	add := func(word, help string) {
		if strings.HasPrefix(word, prefix) {
			all = append(all, candidate{word, help})
		}
	}
	for _, child := range node.Children {
		if !child.Hidden {
			add(child.Name, firstSentence(child.Help))
		}
	}
	if node.Type == kong.ApplicationNode {
		add("help", "Show the help of a command.")
	}
	if node.Name == "completion" {
		for _, script := range scripts() {
			add(script, "")
		}
	}
	return all
}

// scripts are the shells that there is a script for.
func scripts() (shells []string) {
	entries, err := completionScripts.ReadDir("completions")
	if err != nil {
		panic(err) // it is part of the binary
	}
	for _, e := range entries {
		shells = append(shells, e.Name())
	}
	return shells
}

func flagHelp(flag *kong.Flag) string { return firstSentence(flag.Help) }

// firstSentence is what a shell has room for.
func firstSentence(help string) string {
	first, _, _ := strings.Cut(help, ". ")
	return strings.TrimSuffix(first, ".")
}
