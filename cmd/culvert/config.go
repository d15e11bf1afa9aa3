package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
	"go.yaml.in/yaml/v3"

	"github.com/culvert-proxy/culvert/proxy/credentials"
)

// configCmd is culvert config. It prints the settings with which a command would run, and then
// checks them.
type configCmd struct {
	Agent   configAgentCmd   `cmd:"" help:"Print the effective settings of culvert agent."`
	Gateway configGatewayCmd `cmd:"" help:"Print the effective settings of culvert gateway."`
}

func (*configCmd) Help() string {
	return `Example:
  culvert config agent --gateway-url https://kafka.example.com > culvert.yaml`
}

// configAgentCmd is culvert config agent. It prints the default --state-file as the path that an
// agent would use.
type configAgentCmd struct{ agentFlags }

// Run prints before it checks: wrong settings are easier to find when one sees where they came
// from.
func (c *configAgentCmd) Run(a *app, s *sources, ctx *kong.Context) error {
	if c.StateFile == stateFileAuto {
		c.StateFile = c.defaultStateFile()
	}
	if err := s.print(a.stdout, ctx); err != nil {
		return err
	}
	_, err := c.check()
	return err
}

func (*configAgentCmd) Help() string {
	return `Example:
  culvert config agent --gateway-url https://kafka.example.com > culvert.yaml`
}

// configGatewayCmd is culvert config gateway.
type configGatewayCmd struct{ gatewayFlags }

// Run prints before it checks, as that of configAgentCmd does.
func (c *configGatewayCmd) Run(a *app, s *sources, ctx *kong.Context) error {
	if err := s.print(a.stdout, ctx); err != nil {
		return err
	}
	_, err := c.check()
	return err
}

func (*configGatewayCmd) Help() string {
	return `Example:
  culvert config gateway --bootstrap kafka-0:9092 --token-file tokens.txt > culvert.yaml`
}

// print writes a configuration file that says in comments where each setting came from. There are
// no secrets in it, for settings only name files that hold secrets; a secret by mistake is
// redacted.
func (s *sources) print(w io.Writer, ctx *kong.Context) error {
	flags := settings(ctx.Selected())
	document := &yaml.Node{Kind: yaml.MappingNode}
	for _, group := range groups(ctx.Selected()) {
		for _, flag := range group.flags {
			if flags[flag.Name] != flag {
				continue
			}
			value := settingNode(flag)
			value.LineComment = s.originOf(ctx, flag)
			document.Content = append(document.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: flag.Name}, value)
		}
	}
	text, err := yaml.Marshal(document)
	if err != nil {
		return err
	}
	_, err = w.Write(text)
	return err
}

// settingNode is a flag's value in YAML.
func settingNode(flag *kong.Flag) *yaml.Node {
	if list, ok := reflect.TypeAssert[[]string](flag.Target); ok {
		node := &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
		for _, item := range list {
			node.Content = append(node.Content, scalar(item))
		}
		return node
	}
	return scalar(fmt.Sprint(flag.Target.Interface()))
}

// scalar is a value that reads back as itself. Unquoted, YAML reads an empty one as null.
func scalar(text string) *yaml.Node {
	node := &yaml.Node{Kind: yaml.ScalarNode, Value: redact(text)}
	if text == "" || strings.ContainsAny(text, ",") {
		node.Style = yaml.DoubleQuotedStyle
	}
	return node
}

// originOf says where a flag's value came from: "flag", the name of a variable, the file or
// "default".
func (s *sources) originOf(ctx *kong.Context, flag *kong.Flag) string {
	for _, p := range ctx.Path {
		if p.Flag == flag && !p.Resolved {
			return "flag"
		}
	}
	if origin, ok := s.origin[flag.Name]; ok {
		return origin
	}
	return "default"
}

// envPrefix begins the names of our environment variables.
const envPrefix = "CULVERT_"

// sources finds the values of flags that are not on the command line: in the environment, then in
// the configuration file. What is set for one start overrides what is set for all: a flag beats a
// variable, which beats the file, which beats the default. Kong has a loader of files, which would
// let the file beat the environment.
type sources struct {
	file   string            // the name of the configuration file; "" if there is none
	keys   map[string]any    // what is in it: a string, or []any of strings
	origin map[string]string // by flag: the variable or the file that its value came from
	last   string            // the flag found last; an error of parsing is about this one

	environ []string // of another process; nil is this one's
	dir     string   // where that process reads files whose names are relative
}

// lookupEnv returns the value of a variable.
func (s *sources) lookupEnv(name string) (value string, set bool) {
	if s.environ == nil {
		return os.LookupEnv(name)
	}
	for _, variable := range s.environ {
		if value, set = strings.CutPrefix(variable, name+"="); set {
			return value, true
		}
	}
	return "", false
}

var _ kong.Resolver = (*sources)(nil)

// Validate does nothing: the file has been checked by read.
func (s *sources) Validate(*kong.Application) error { return nil }

// Resolve returns the value of a flag in the environment or the file, or nil. Kong calls it for
// each flag that is not on the command line; nil leaves the default.
func (s *sources) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	if !isSetting(flag) {
		return nil, nil
	}
	if value, ok := s.lookupEnv(envName(flag.Name)); ok {
		s.found(flag.Name, envName(flag.Name))
		return value, nil
	}
	if value, ok := s.keys[flag.Name]; ok {
		s.found(flag.Name, s.file)
		return value, nil
	}
	return nil, nil
}

// found records where a value came from, for originOf and withOrigin.
func (s *sources) found(flag, origin string) {
	if s.origin == nil {
		s.origin = map[string]string{}
	}
	s.origin[flag], s.last = origin, flag
}

// withOrigin adds to an error of parsing where the value came from. Without it, an error would name
// a flag that is nowhere on the command line.
func (s *sources) withOrigin(err error) error {
	if s.last == "" || !strings.HasPrefix(err.Error(), "--"+s.last+":") {
		return err
	}
	return fmt.Errorf("%w (from %s)", err, s.origin[s.last])
}

// isSetting reports whether a flag may be set in the environment: CULVERT_HELP would make every
// command print help, and CULVERT_VERSION is often set where images are built.
func isSetting(flag *kong.Flag) bool { return flag.Name != "help" && flag.Name != "version" }

// envName is the variable that sets a flag: CULVERT_LOG_LEVEL for log-level.
func envName(flag string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// load reads the configuration file, if --config or CULVERT_CONFIG names one. The command line has
// been parsed before: it says which command's settings the file may hold, and --config beats the
// environment.
func (s *sources) load(ctx *kong.Context) error {
	// ctx.Path has the flags that are on the command line, and no others yet.
	path, _ := s.lookupEnv(envName("config"))
	from := envName("config")
	for _, p := range ctx.Path {
		if p.Flag != nil && p.Flag.Name == "config" {
			path, from = ctx.FlagValue(p.Flag).(string), "--config"
		}
	}
	command := ctx.Selected()
	if path == "" || command == nil || len(command.Flags) == 0 { // culvert version has no settings
		return nil
	}
	if s.dir != "" && !filepath.IsAbs(path) {
		path = filepath.Join(s.dir, path)
	}
	err := s.read(path, command)
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		hint := ""
		if errors.Is(err, fs.ErrNotExist) {
			hint = "correct the path, or create the file"
		}
		return wrong(hint, "read %s %s: %w", from, path, pe.Err)
	}
	return err
}

// read reads the file's keys, each of which must be a flag of command: an unknown key is most
// likely a typo, and ignoring it would leave a default in force unnoticed.
func (s *sources) read(path string, command *kong.Node) error {
	content, err := credentials.ReadFile(path, credentials.MaxFile)
	if err != nil {
		return err
	}
	var document yaml.Node
	if err := yaml.Unmarshal(content, &document); err != nil {
		return wrong(`write one setting per line, such as log-level: debug, and put what YAML reads in another way in quotes, such as audit-log: "-"`, "read %s: %w", path, err)
	}
	s.file, s.keys = path, map[string]any{}
	if len(document.Content) == 0 {
		return nil
	}
	root := document.Content[0]
	if root.Kind != yaml.MappingNode {
		return wrong("write one setting per line, such as log-level: debug", "read %s: line %d is not a setting", path, root.Line)
	}
	flags := settings(command)
	for i := 0; i < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		flag, known := flags[key.Value]
		if !known {
			return wrong(unknownKey(key.Value, command), "%s, line %d: unknown key %q", path, key.Line, key.Value)
		}
		if _, again := s.keys[key.Value]; again {
			return wrong("write repeated values as a list: "+key.Value+": [a, b]", "%s, line %d: duplicate key %q", path, key.Line, key.Value)
		}
		text, err := keyValue(value, flag)
		if err != nil {
			return wrong("", "%s, line %d: %s: %w", path, value.Line, key.Value, err)
		}
		if text != nil {
			s.keys[key.Value] = text
		}
	}
	return nil
}

// keyValue returns the value's text, or a list of texts, as written: the flag's type decides what
// 0-5 or 12:30 means, not YAML's. Null is nil: not set.
func keyValue(value *yaml.Node, flag *kong.Flag) (any, error) {
	for value.Kind == yaml.AliasNode {
		value = value.Alias
	}
	switch {
	case value.Kind == yaml.ScalarNode && value.Tag == "!!null":
		return nil, nil // as in "token-file:" and "token-file: ~"
	case value.Kind == yaml.ScalarNode:
		return value.Value, nil
	case value.Kind != yaml.SequenceNode:
		return nil, errors.New("a setting is a value or a list of values, not a mapping")
	case !flag.IsSlice():
		return nil, errors.New("this setting takes one value, not a list")
	}
	var list []any
	for _, item := range value.Content {
		if item.Kind != yaml.ScalarNode {
			return nil, errors.New("the items of a list must be plain values")
		}
		list = append(list, item.Value)
	}
	return list, nil
}

// wantsJSON reports whether --log-format json holds, in args, in the environment or in the file.
// Errors of parsing are printed as JSON too, so it cannot ask kong: parsed is empty where kong
// stopped early.
func (s *sources) wantsJSON(args []string, parsed string) bool {
	if parsed != "" {
		return parsed == formatJSON
	}
	for i, arg := range args {
		if value, ok := strings.CutPrefix(arg, "--log-format="); ok {
			return value == formatJSON
		}
		if arg == "--log-format" && i+1 < len(args) {
			return args[i+1] == formatJSON
		}
	}
	if value, set := os.LookupEnv(envName("log-format")); set {
		return value == formatJSON
	}
	return s.keys["log-format"] == formatJSON
}

// settings are the flags that a command's file may hold, by name. A file cannot name another file.
func settings(command *kong.Node) map[string]*kong.Flag {
	flags := map[string]*kong.Flag{}
	for n := command; n != nil; n = n.Parent {
		for _, flag := range n.Flags {
			if isSetting(flag) && flag.Name != "config" {
				flags[flag.Name] = flag
			}
		}
	}
	return flags
}

// unknownKey is the hint for a key that is no flag of command.
func unknownKey(key string, command *kong.Node) string {
	if commands := root(command); key == commands.Name || slices.ContainsFunc(commands.Children, func(n *kong.Node) bool { return n.Name == key }) {
		return "the file has no sections: remove this line and the indentation below it; use one file per command"
	}
	for _, other := range root(command).Children {
		if _, ok := settings(other)[key]; ok {
			return fmt.Sprintf("this is a setting of culvert %s: give each command a file of its own", other.Name)
		}
	}
	if name := nearest(key, slices.Collect(maps.Keys(settings(command)))); name != "" {
		return fmt.Sprintf("did you mean %s?", name)
	}
	return "see " + command.FullPath() + " --help"
}

// root is the application that node belongs to.
func root(node *kong.Node) *kong.Node {
	for node.Parent != nil {
		node = node.Parent
	}
	return node
}

// warnOfUnknown warns of variables that begin like ours and are no setting. They are not errors:
// Kubernetes sets some, such as CULVERT_SERVICE_HOST, for a service called culvert. Only names are
// logged, for a misspelt setting may hold a secret.
func (s *sources) warnOfUnknown(log *slog.Logger, root *kong.Node) {
	known := []string{envName("config")} // a variable, though not a key of the file
	for _, command := range root.Children {
		for name := range settings(command) {
			known = append(known, envName(name))
		}
	}
	var unknown []string
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		if !strings.HasPrefix(name, envPrefix) || slices.Contains(known, name) {
			continue
		}
		if meant := nearest(name, known); meant != "" {
			log.Warn("unknown environment variable ignored", "name", name, "did_you_mean", meant)
			continue
		}
		unknown = append(unknown, name)
	}
	if unknown != nil {
		log.Warn("unknown environment variables ignored", "names", strings.Join(unknown, ","))
	}
}

// nearest returns the name that is the fewest edits away from what was written; "" if that is more
// than a quarter of it.
func nearest(written string, names []string) string {
	best, fewest := "", 1+len(written)/4
	for _, name := range slices.Sorted(slices.Values(names)) {
		if d := distance(strings.ToLower(written), strings.ToLower(name)); d < fewest {
			best, fewest = name, d
		}
	}
	return best
}

// distance is the Levenshtein distance: the least number of bytes to insert, drop or replace. Kong
// has one that it does not export.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replace := diagonal
			if a[i] != b[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(replace, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
