package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// helpCommand turns "help agent" into "agent --help".
func helpCommand(args []string) []string {
	if len(args) == 0 || args[0] != "help" {
		return args
	}
	return append(slices.Clone(args[1:]), "--help")
}

// dashes begin flags. Word processors make the longer ones of two hyphens.
const dashes = "-–—"

// unknownFlag explains kong's error if it is about a flag that node does not have, otherwise it
// returns nil. Kong takes a flag with one dash for several of one letter, and knows the flags of
// one command only.
func unknownFlag(err error, args []string, node *kong.Node) error {
	what, suggestion, _ := strings.Cut(err.Error(), ",")
	written, isFlag := strings.CutPrefix(what, "unknown flag ")
	if argument, ok := strings.CutPrefix(what, "unexpected argument "); ok {
		written, isFlag = argument, strings.TrimLeft(argument, dashes) != argument
	}
	if !isFlag {
		return nil
	}
	if !strings.HasPrefix(written, "--") {
		written, suggestion = asWritten(written, args), ""
	}
	name := strings.TrimLeft(written, dashes)
	if meant := meantFlag(name, node); suggestion == "" && meant != "" {
		suggestion = fmt.Sprintf(" did you mean %q?", "--"+meant)
	}
	if suggestion != "" {
		return wrong("see "+node.FullPath()+" --help", "unknown flag %s,%s", written, suggestion)
	}
	return wrong(whoseFlag(name, node), "unknown flag %s", written)
}

// asWritten returns the first argument that kong can have taken for flags of one letter, without
// its value, or else the letter that kong did not know.
func asWritten(letter string, args []string) string {
	for _, arg := range args {
		if arg == "--" {
			break
		}
		if rest := strings.TrimLeft(arg, dashes); rest != arg && !strings.HasPrefix(arg, "--") {
			name, _, _ := strings.Cut(arg, "=")
			return name
		}
	}
	return letter
}

// meantFlag returns the flag of node that was most likely meant, or "".
func meantFlag(name string, node *kong.Node) string {
	var names []string
	for n := node; n != nil; n = n.Parent {
		for _, flag := range n.Flags {
			names = append(names, flag.Name)
		}
	}
	if meant := nearest(name, names); meant != "" {
		return meant
	}
	names = slices.DeleteFunc(names, func(n string) bool { return !strings.HasPrefix(n, strings.ToLower(name)) })
	if len(names) != 1 {
		return ""
	}
	return names[0]
}

// whoseFlag is the hint for a flag that node does not have, but maybe other commands.
func whoseFlag(name string, node *kong.Node) string {
	see := "see " + node.FullPath() + " --help"
	for _, other := range root(node).Children {
		if _, ok := settings(other)[name]; !ok {
			continue
		}
		if node == root(node) {
			return fmt.Sprintf("write flags after the command: %s --%s", other.FullPath(), name)
		}
		return fmt.Sprintf("--%s is a flag of %s; %s", name, other.FullPath(), see)
	}
	return see
}
