package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/alecthomas/kong"
)

// errHelp ends parsing when help was asked for.
var errHelp = errors.New("help was asked for")

// helpFlag ends parsing before the environment and the file are read, so that help is printed even
// if they are wrong.
type helpFlag bool

// BeforeReset is the first hook that kong calls.
func (helpFlag) BeforeReset() error { return errHelp }

// settingsHelp says in which three places a setting may stand, and which of them wins: see sources.
const settingsHelp = "Each flag is also an environment variable and a key of the file: --log-level is CULVERT_LOG_LEVEL and log-level:. " +
	"A flag overrides the environment, which overrides the file. Separate repeated values by commas; in the file, a list works too."

// printHelp opens with one sentence, lists the main settings first, and ends with an example to
// paste.
func printHelp(w io.Writer, node *kong.Node) {
	fmt.Fprintf(w, "%s\nUsage: %s\n", wrap(node.Help, ""), usageLine(node))
	printCommands(w, node)
	for _, group := range groups(node) {
		fmt.Fprintf(w, "\n%s:\n", group.title)
		for _, flag := range group.flags {
			printFlag(w, flag)
		}
	}
	if node.Type == kong.CommandNode && len(node.Flags) > 0 {
		fmt.Fprint(w, "\n", wrap(settingsHelp, ""))
	}
	if node.Detail != "" {
		fmt.Fprintf(w, "\n%s\n", node.Detail)
	}
}

func usageLine(node *kong.Node) string {
	path := node.FullPath()
	if len(node.Children) > 0 {
		return path + " COMMAND [flags]"
	}
	for _, argument := range node.Positional {
		path += " " + strings.ToUpper(argument.Name)
	}
	return path + " [flags]"
}

// printCommands lists the commands below node, if there are any.
func printCommands(w io.Writer, node *kong.Node) {
	if len(node.Children) == 0 {
		return
	}
	fmt.Fprint(w, "\nCommands:\n")
	for _, child := range node.Children {
		if !child.Hidden {
			fmt.Fprintf(w, "  %s\n%s", child.Name, wrap(child.Help, "      "))
		}
	}
}

// flagGroup is a heading of help and the flags below it.
type flagGroup struct {
	title string
	flags []*kong.Flag
}

// groups are the groups of node's flags and then of its parents' flags, in the order of
// declaration. Neighbours with the same title are one group.
func groups(node *kong.Node) []flagGroup {
	var all []flagGroup
	for n := node; n != nil; n = n.Parent {
		for _, flag := range n.Flags {
			if i := len(all) - 1; i >= 0 && all[i].title == flag.Group.Title {
				all[i].flags = append(all[i].flags, flag)
				continue
			}
			all = append(all, flagGroup{flag.Group.Title, []*kong.Flag{flag}})
		}
	}
	return all
}

// printFlag prints the flag on a line and its help below, where there is room for sentences.
func printFlag(w io.Writer, flag *kong.Flag) {
	fmt.Fprintf(w, "  %s\n%s", flagForm(flag), wrap(flagMeaning(flag), "      "))
}

// flagForm is how a flag is written: -h, --help or --listen ADDRESS.
func flagForm(flag *kong.Flag) string {
	name := "--" + flag.Name
	if flag.Short != 0 {
		name = fmt.Sprintf("-%c, %s", flag.Short, name)
	}
	if !flag.IsBool() {
		name += " " + flag.PlaceHolder
	}
	return name
}

// flagMeaning is a flag's help, with its default.
func flagMeaning(flag *kong.Flag) string {
	if flag.Default == "" {
		return flag.Help
	}
	return flag.Help + " (default " + flag.Default + ")"
}
