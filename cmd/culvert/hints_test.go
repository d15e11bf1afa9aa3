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
	var source []byte
	for _, file := range []string{"../../proxy/hints/settings.go", "../../proxy/snowflake/settings.go"} {
		more, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		source = append(source, more...)
	}
	settings := regexp.MustCompile(`(?m)^\t\w+ +(?:hints\.)?Setting = "(.*)"$`).FindAllStringSubmatch(string(source), -1)
	if len(settings) < 30 {
		t.Errorf("only %d settings found", len(settings))
	}
	for _, s := range settings {
		if flag := flagOf(hints.Setting(s[1])); !slices.Contains(flags, flag) {
			t.Errorf("the setting %q is no flag %s", s[1], flag)
		}
	}
}
