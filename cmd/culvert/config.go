package main

import (
	"fmt"
	"strings"

	"github.com/alecthomas/kong"
	"go.yaml.in/yaml/v3"
)

// configCmd prints the settings with which a command would run.
type configCmd struct {
	Agent   configAgentCmd   `cmd:"" help:"Print the effective settings of culvert agent."`
	Gateway configGatewayCmd `cmd:"" help:"Print the effective settings of culvert gateway."`
}

func (*configCmd) Help() string {
	return `Example:
  culvert config agent --gateway-url https://kafka.example.com > culvert.yaml`
}

type configAgentCmd struct{ agentFlags }

func (c *configAgentCmd) Run(a *app, ctx *kong.Context) error {
	if c.StateFile == stateFileAuto {
		c.StateFile = c.defaultStateFile()
	}
	if err := a.printConfig(ctx); err != nil {
		return err
	}
	_, err := c.check()
	return err
}

func (*configAgentCmd) Help() string {
	return `Example:
  culvert config agent --gateway-url https://kafka.example.com > culvert.yaml`
}

type configGatewayCmd struct{ gatewayFlags }

func (c *configGatewayCmd) Run(a *app, ctx *kong.Context) error {
	if err := a.printConfig(ctx); err != nil {
		return err
	}
	_, err := c.check()
	return err
}

func (*configGatewayCmd) Help() string {
	return `Example:
  culvert config gateway --bootstrap kafka-0:9092 --token-file tokens.txt > culvert.yaml`
}

// printConfig prints a configuration file that says in comments where each
// setting came from. Secrets are not in it: settings name only their files.
func (a *app) printConfig(ctx *kong.Context) error {
	flags := settings(ctx.Selected())
	document := &yaml.Node{Kind: yaml.MappingNode}
	for _, group := range groups(ctx.Selected()) {
		for _, flag := range group.flags {
			if flags[flag.Name] != flag {
				continue
			}
			value := settingNode(flag)
			value.LineComment = a.originOf(ctx, flag)
			document.Content = append(document.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: flag.Name}, value)
		}
	}
	text, err := yaml.Marshal(document)
	if err != nil {
		return err
	}
	_, err = a.stdout.Write(text)
	return err
}

func settingNode(flag *kong.Flag) *yaml.Node {
	if list, ok := flag.Target.Interface().([]string); ok {
		node := &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
		for _, item := range list {
			node.Content = append(node.Content, scalar(item))
		}
		return node
	}
	return scalar(fmt.Sprint(flag.Target.Interface()))
}

func scalar(text string) *yaml.Node {
	node := &yaml.Node{Kind: yaml.ScalarNode, Value: redact(text)}
	if text == "" || strings.ContainsAny(text, ",") {
		node.Style = yaml.DoubleQuotedStyle
	}
	return node
}

func (a *app) originOf(ctx *kong.Context, flag *kong.Flag) string {
	for _, p := range ctx.Path {
		if p.Flag == flag && !p.Resolved {
			return "flag"
		}
	}
	if origin, ok := a.sources.origin[flag.Name]; ok {
		return origin
	}
	return "default"
}
