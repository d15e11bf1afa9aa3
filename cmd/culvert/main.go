// Command culvert carries Kafka through an ingress that lets in HTTPS only.
//
// Results go to stdout, everything else to stderr. Exit code 0: done; 1: failed; 2: wrong usage,
// found before any socket was opened.
//
// Each command has a file. The files use each other in one direction, from the first to the last:
//
//	main.go                              the command line
//	config.go                            where settings come from, and the command that prints them
//	agent.go gateway.go doctor.go        a command each
//	status.go top.go
//	demo.go demo_*.go
//	parts.go plan.go                     the parts of an agent, made from its flags; these flags, checked
//	completion.go man.go                 what shells ask for while a line is typed; manual pages
//	version.go                           the version, and the command that prints it
//	providers.go                         which providers of an ingress there are
//	snowflake.go brokers.go admin.go     flags that belong together, and what is made from them
//	readstatus.go screen*.go             what culvert status and culvert top read; the screen of the latter
//	ingress.go                           what an agent asks of a provider
//	app.go log.go stderr.go progress.go  what every command runs with
//	notify.go                            what systemd is told of an agent or a gateway
//	help.go unknown.go                   help, and what was meant
//	address.go memory.go flags.go        forms of values
//	cgroup.go                            memory that the process may use
//	hints.go text.go                     errors and their hints; text for a terminal
package main

import (
	"cmp"
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"regexp"
	"syscall"

	"github.com/alecthomas/kong"
)

func main() {
	silenceQUICWarning()
	// Go's runtime ends a process whose stdout or stderr nobody reads any more. The log may be
	// lost, connections may not.
	signal.Ignore(syscall.SIGPIPE)
	limitHeap()
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// silenceQUICWarning keeps quic-go from printing its warning of small UDP buffers to stderr: our
// log has one of its own, with a hint. Whoever sets the variable decides.
func silenceQUICWarning() {
	const quiet = "QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING"
	if _, set := os.LookupEnv(quiet); !set {
		os.Setenv(quiet, "true")
	}
}

// cli is the command line. Its flags are also the environment variables and the keys of the
// configuration file; each command has a file of its own here.
type cli struct {
	commonFlags
	Agent      agentCmd      `cmd:"" help:"Give Kafka clients local addresses, and carry their connections to a gateway over HTTPS."`
	Gateway    gatewayCmd    `cmd:"" help:"Accept connections from agents over HTTPS, and carry them to the brokers."`
	Doctor     doctorCmd     `cmd:"" help:"Check the path to the brokers hop by hop, and say which hop fails and what to do about it."`
	Status     statusCmd     `cmd:"" help:"Show what a running agent or gateway does: whether it is ready, the path to the brokers, latencies, the last failure."`
	Top        topCmd        `cmd:"" help:"Watch a running agent or gateway: each Kafka API with its rate and where its time is spent, every second."`
	Demo       demoCmd       `cmd:"" help:"Show what culvert does, all on this machine: brokers, a gateway, an agent, a client and records."`
	Config     configCmd     `cmd:"" help:"Print the effective settings of a command, and where each came from."`
	Completion completionCmd `cmd:"" help:"Print the script that completes command lines in a shell."`
	Man        manCmd        `cmd:"" hidden:"" help:"Write the manual pages."`
	Version    versionCmd    `cmd:"" help:"Print the version."`

	VersionFlag versionFlag `name:"version" group:"Common" help:"Print the version."`
}

// Help is printed below the list of commands.
func (*cli) Help() string {
	return `What a command does, and its flags: culvert help COMMAND

Try it without a cluster and without a network:
  culvert demo`
}

// BeforeResolve is called by kong when it has read the command line and not yet looked for the
// other settings.
func (*cli) BeforeResolve(ctx *kong.Context, s *sources) error { return s.load(ctx) }

// run is the whole program except for the process: tests call it. It returns the exit code.
func run(args []string, stdout, stderr io.Writer) int {
	a := &app{stdout: stdout, stderr: &queuedWriter{w: stderr}}
	defer a.stderr.flush()
	return a.report(parseAndRun(context.Background(), a, args))
}

// parseAndRun finds the command and its settings, prepares what every command runs with, and runs
// it.
func parseAndRun(ctx context.Context, a *app, args []string) error {
	var c cli
	s := &sources{}
	parser, err := kong.New(&c, kong.Name("culvert"),
		kong.Description("Kafka through an HTTPS-only ingress: any client outside, unmodified brokers inside."),
		kong.NoDefaultHelp(), kong.Writers(a.stdout, a.stderr), kong.Resolvers(s),
		kong.Bind(a, s), kong.BindTo(ctx, (*context.Context)(nil))) // what the Run methods of commands may ask for
	if err != nil {
		return err
	}
	if len(args) == 0 {
		printHelp(a.stderr, parser.Model.Node)
		return errHelpShown
	}
	if args[0] == completeArg {
		return complete(a.stdout, parser.Model.Node, args[1:])
	}
	args = helpCommand(args)
	command, err := parser.Parse(args)
	a.json = s.wantsJSON(args, c.LogFormat) // before err is looked at, which is to be JSON too
	if err != nil {
		return parseError(a, s, args, err)
	}
	if a.log, err = c.logTo(a.stderr); err != nil {
		return err
	}
	catchOtherLogs(a.log)
	s.warnOfUnknown(a.log, parser.Model.Node)
	return command.Run()
}

// bareNumber is how package time refuses a duration without a unit.
var bareNumber = regexp.MustCompile(`missing unit in duration "([0-9.]+)"`)

// parseError prints help or the version if that was asked for, and turns the rest into a
// usageError.
func parseError(a *app, s *sources, args []string, err error) error {
	pe, ok := errors.AsType[*kong.ParseError](err)
	if !ok {
		return err
	}
	node := cmp.Or(pe.Context.Selected(), pe.Context.Model.Node)
	if errors.Is(err, errHelp) {
		printHelp(a.stdout, node)
		return nil
	}
	if errors.Is(err, errVersion) {
		return versionCmd{}.Run(a)
	}
	if _, ok := errors.AsType[usageError](err); ok {
		return err
	}
	if unknown := unknownFlag(pe.Unwrap(), args, node); unknown != nil {
		return unknown
	}
	if pe.Error() == `expected "<shell>"` { // kong's words for an argument that is missing
		return wrong("use bash, zsh or fish: culvert completion bash", "SHELL is missing")
	}
	hint := "see " + node.FullPath() + " --help"
	if found := bareNumber.FindStringSubmatch(pe.Error()); found != nil {
		hint = "write it with its unit: " + found[1] + "s"
	}
	return s.withOrigin(wrong(hint, "%w", pe.Unwrap()))
}
