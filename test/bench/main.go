// Command bench measures what culvert costs, compared with a tunnel that does not parse Kafka and
// with no tunnel at all:
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
//
// With -wan, load and agents are on one side of a network, and brokers and gateways on the other.
// It is made of network namespaces and a link in this process:
//
//	go run ./test/bench -wan delay=10ms,loss=0.5%
//
// TCP then uses CUBIC, except for culvert's, which chooses by itself.
//
// Each round measures all rows, one after the other. Compare figures only within one run. Bytes are
// those of whole frames; MB and GB are powers of ten.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/culvert-proxy/culvert/test/netns"
)

var rowNames = []string{"direct", "bare ws", "culvert ws", "bare h3", "culvert h3", "bare h2", "culvert h2", "culvert direct"}

func main() {
	if err := run(os.Stdout, os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run runs the bench, or the part of it that the first argument names.
func run(out io.Writer, args []string) error {
	if len(args) > 0 {
		switch args[0] {
		case "broker":
			return runBroker(out, args[1:])
		case "bare-agent":
			return runBareAgent(out, args[1:])
		case "bare-gateway":
			return runBareGateway(out, args[1:])
		}
	}
	o, err := parseOptions(args)
	if err != nil {
		return err
	}
	return o.bench(out, args)
}

// options are the settings of a run.
type options struct {
	rounds  int
	window  time.Duration // of one load in one row
	rows    []string
	loads   []load
	culvert string
	wan     *netns.Link // nil: loopback
}

func parseOptions(args []string) (*options, error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	rounds := flags.Int("rounds", 7, "how often each load is measured in each row")
	seconds := flags.Float64("seconds", 1, "how long each time")
	rows := flags.String("rows", strings.Join(rowNames, ","), "which rows")
	only := flags.String("loads", "", "which loads (default: those that fit; "+strings.Join(names(loads), ",")+")")
	link := flags.String("wan", "", "a network in between, as in delay=25ms,loss=0.5%,rate=12500000,seed=1")
	short := flags.Bool("short", false, "show that the bench works; its figures mean little")
	culvert := flags.String("culvert", "", "binary to measure (default: what is here is built)")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	o := &options{rounds: *rounds, window: time.Duration(*seconds * float64(time.Second)), rows: strings.Split(*rows, ","), culvert: *culvert}
	if *short {
		o.rounds, o.window = 1, 200*time.Millisecond
	}
	if o.rounds < 1 || o.window <= 0 {
		return nil, errors.New("-rounds and -seconds must be more than 0")
	}
	if *link != "" {
		l, err := parseWAN(*link)
		if err != nil {
			return nil, err
		}
		o.wan = &l
	}
	for _, name := range o.loadNames(*only) {
		i := slices.Index(names(loads), name)
		if i < 0 {
			return nil, fmt.Errorf("-loads: no load is called %q; there are %s", name, strings.Join(names(loads), ", "))
		}
		o.loads = append(o.loads, loads[i])
	}
	return o, nil
}

// loadNames returns the loads that were requested, or the default ones.
func (o *options) loadNames(only string) []string {
	switch {
	case only != "":
		return strings.Split(only, ",")
	case o.wan != nil:
		return wanLoads
	}
	return slices.DeleteFunc(names(loads), func(name string) bool { return slices.Contains(onlyWAN, name) })
}

func names(loads []load) (names []string) {
	for _, l := range loads {
		names = append(names, l.name)
	}
	return names
}

// bench starts the parts, measures, and prints the table.
func (o *options) bench(out io.Writer, args []string) error {
	dir, err := os.MkdirTemp("", "culvert-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	p := &parts{dir: dir, culvert: o.culvert}
	if o.wan != nil {
		if p.wan, err = newWAN(*o.wan); err != nil {
			return err
		}
	}
	defer p.wan.close()
	defer p.close()
	rows, err := p.startAll(o.rows)
	if err != nil {
		return err
	}
	res := results{}
	for n := range o.rounds {
		if err := res.measure(n, rows, o.loads, o.window); err != nil {
			return err
		}
	}
	fmt.Fprintf(out, "go run ./test/bench %s\n%d rounds of %v each; %d connections to %d brokers, %d requests in flight on each, records of %d bytes\n%s %s/%s, %d CPUs\n",
		strings.Join(args, " "), o.rounds, o.window, connections, brokerCount, inFlight, recordSize, runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU())
	return res.print(out, rows, o.loads)
}

// startAll starts the brokers and the rows.
func (p *parts) startAll(names []string) (rows []*row, err error) {
	if err := p.writeCertificate(); err != nil {
		return nil, err
	}
	if p.culvert == "" {
		if err := p.build(); err != nil {
			return nil, err
		}
	}
	if p.cluster, p.brokers, err = p.startSelf(p.wan.server(), "broker"); err != nil {
		return nil, err
	}
	for _, name := range names {
		r, err := p.startRow(name)
		if err != nil {
			return nil, err
		}
		r.cluster, r.advertised, r.wan = p.cluster, p.brokers, p.wan
		rows = append(rows, r)
	}
	return rows, nil
}
