// Command culvert carries Kafka through a door that lets in HTTPS only.
//
// Results go to stdout, all else to stderr. Exit 0: done; 1: failed; 2: wrong
// usage, found before any socket was opened.
package main

import (
	"errors"
	"io"
	"log/slog"
	"os"

	"github.com/alecthomas/kong"
)

func main() {
	sayBuffersOurselves()
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// sayBuffersOurselves keeps quic-go from writing of small UDP buffers past our
// log, which tells of them.
func sayBuffersOurselves() {
	const quiet = "QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING"
	if _, set := os.LookupEnv(quiet); !set {
		os.Setenv(quiet, "true")
	}
}

// cli is the command line. Its flags are also the environment's variables and
// the keys of the configuration file; each command has a file of its own.
type cli struct {
	commonFlags
	Agent   agentCmd   `cmd:"" help:"Give Kafka clients local addresses, and carry their connections to a gateway over HTTPS."`
	Gateway gatewayCmd `cmd:"" help:"Take connections from agents over HTTPS, and carry them to the brokers."`
	Doctor  doctorCmd  `cmd:"" help:"Examine the way to the brokers hop by hop, and say where it ends and what to do."`
	Demo    demoCmd    `cmd:"" help:"Show what culvert is for, on this machine alone: brokers, a door, a client and records."`
	Config  configCmd  `cmd:"" help:"Print the effective settings of a command, and where each came from."`
	Version versionCmd `cmd:"" help:"Print the version."`
}

func (*cli) Help() string {
	return `Try it without a cluster and without a network:
  culvert demo`
}

// app is what commands run with.
type app struct {
	stdout, stderr io.Writer
	json           bool // all that goes to stderr is
	log            *slog.Logger
	sources        *sources
}

// run is the whole program but for the process.
func run(args []string, stdout, stderr io.Writer) int {
	a := &app{stdout: stdout, stderr: stderr, sources: &sources{}}
	return a.report(a.run(args))
}

func (a *app) run(args []string) error {
	var c cli
	parser, err := kong.New(&c, kong.Name("culvert"),
		kong.Description("Kafka through a door that lets in HTTPS only: any client outside, unmodified brokers inside."),
		kong.NoDefaultHelp(), kong.Writers(a.stdout, a.stderr), kong.Bind(a.sources), kong.Resolvers(a.sources))
	if err != nil {
		return err
	}
	if len(args) == 0 {
		printHelp(a.stderr, parser.Model.Node)
		return errShown
	}
	ctx, err := parser.Parse(args)
	a.json = a.allJSON(args, &c.commonFlags)
	if err != nil {
		return a.parseError(err)
	}
	if a.log, err = c.logger(a.stderr); err != nil {
		return err
	}
	logForOthers(a.log)
	a.sources.warnOfUnknown(a.log, parser.Model.Node)
	return ctx.Run(a)
}

// logForOthers makes a record, for those who look closely, of each line that a
// library would write past our log.
func logForOthers(log *slog.Logger) {
	slog.SetLogLoggerLevel(slog.LevelDebug)
	slog.SetDefault(log)
}

// parseError prints help where that was asked for, and makes the rest an error
// of usage.
func (a *app) parseError(err error) error {
	pe, ok := errors.AsType[*kong.ParseError](err)
	if !ok {
		return err
	}
	node := pe.Context.Selected()
	if node == nil {
		node = pe.Context.Model.Node
	}
	if errors.Is(err, errHelp) {
		printHelp(a.stdout, node)
		return nil
	}
	if _, ok := errors.AsType[*usageError](err); ok {
		return err
	}
	return a.sources.explain(wrong("see "+node.FullPath()+" --help", "%w", pe.Unwrap()))
}
