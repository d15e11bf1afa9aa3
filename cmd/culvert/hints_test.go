package main

import (
	"os"
	"regexp"
	"slices"
	"testing"

	"github.com/alecthomas/kong"

	"github.com/culvert-proxy/culvert/proxy/hints"
)

// Whatever a hint names is a flag that some command has.
func TestEverySettingIsAFlag(t *testing.T) {
	parser, err := kong.New(&cli{}, kong.NoDefaultHelp())
	if err != nil {
		t.Fatal(err)
	}
	var flags []string
	for _, command := range parser.Model.Children {
		for _, flag := range command.Flags {
			flags = append(flags, "--"+flag.Name)
		}
	}
	source, err := os.ReadFile("../../proxy/hints/settings.go")
	if err != nil {
		t.Fatal(err)
	}
	settings := regexp.MustCompile(`(?m)^\t\w+ +Setting = "(.*)"$`).FindAllStringSubmatch(string(source), -1)
	if len(settings) < 20 {
		t.Errorf("only %d settings found", len(settings))
	}
	for _, s := range settings {
		if flag := flagOf(hints.Setting(s[1])); !slices.Contains(flags, flag) {
			t.Errorf("the setting %q is no flag %s", s[1], flag)
		}
	}
}
