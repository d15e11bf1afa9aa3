// Command bench measures what culvert costs, compared with a tunnel that does not parse Kafka, with
// no tunnel at all, with other versions of culvert, and with other programs:
//
//	go run ./test/bench
//
// Brokers, agents and gateways are separate processes; this process is the load. To measure neither
// of them, brokers are stand-ins that discard records, and the load sends prepared frames. Only kgo
// uses a real client, franz-go, with records of 1 KiB. The rows are
//
//	direct              from the load to the brokers
//	bare ws, h3, h2     through the same tunnel as culvert, with a loop around Read and Write at each end
//	culvert ws, h3, h2  through culvert agent and culvert gateway
//	culvert direct      through culvert agent alone
//	NAME ws, …          the same with the binary of -compare NAME=BINARY
//	NAME                through the programs that -pair NAME=FILE starts, see pair.go
//
// With -wan, load and agents are on one side of a network, and brokers and gateways on the other.
// It is made of network namespaces, and of veth devices or a link in this process:
//
//	go run ./test/bench -wan veth
//	go run ./test/bench -wan delay=10ms,loss=0.5%
//
// TCP then uses CUBIC, except for culvert's, which chooses by itself.
//
// docs/performance.md shows the figures of plans. A plan is run with -plan NAME, all of them with
// all, and the page is then made with page:
//
//	go run ./test/bench all
//	go run ./test/bench page
//
// Each round measures all rows, one after the other. Compare figures only within one run: ratios
// are medians of the rounds' ratios. Bytes are those of whole frames; MB and GB are powers of ten.
// CPU and peak memory are those of all processes of a row on one side, agent or gateway.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
)

func main() {
	if err := run(os.Stdout, os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run runs the bench, all plans, or the part of it that the first argument names.
func run(out io.Writer, args []string) error {
	if len(args) > 0 {
		switch args[0] {
		case "broker":
			return runBroker(out, args[1:])
		case "bare-agent":
			return runBareAgent(out, args[1:])
		case "bare-gateway":
			return runBareGateway(out, args[1:])
		case "all":
			return runAll(out, args[1:])
		case "page":
			return writePage(".")
		}
	}
	o, err := parseOptions(args)
	if err != nil {
		return err
	}
	return o.bench(out, args)
}

// bench measures, prints the tables, and writes the file.
func (o *options) bench(out io.Writer, args []string) error {
	o.files = allowFiles(files)
	rep, err := o.measure()
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "go run ./test/bench", quoted(args))
	if err := rep.print(out); err != nil || o.json == "" {
		return err
	}
	return rep.save(o.json, o.add)
}

// quoted returns arguments as a shell takes them.
func quoted(args []string) string {
	var all []string
	for _, a := range args {
		if strings.ContainsAny(a, " *") {
			a = `"` + a + `"`
		}
		all = append(all, a)
	}
	return strings.Join(all, " ")
}
