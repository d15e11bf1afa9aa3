package main

import (
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/culvert-proxy/culvert/test/netns"
)

// options are the settings of a run.
type options struct {
	rounds   int
	window   time.Duration // of one load in one row
	idle     time.Duration // that idle connections rest
	pause    time.Duration // before new connections, so that an agent can have streams ready again
	few      int           // connections at most; 0: no limit
	files    uint64        // that a process may have open
	rows     []string
	loads    []load
	binaries binaries
	pairs    []pair
	link     string      // as it was given; "": loopback
	wan      *netns.Link // nil: loopback
	json     string      // file
	add      bool        // to that file
}

func parseOptions(args []string) (*options, error) {
	o := &options{pause: time.Second}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.Func("plan", "settings that docs/performance.md uses: "+strings.Join(planNames(), ",")+"; flags after it are stronger", func(name string) error { return setPlan(flags, name) })
	flags.IntVar(&o.rounds, "rounds", 7, "how often each load is measured in each row")
	seconds := flags.Float64("seconds", 1, "how long each time")
	flags.DurationVar(&o.idle, "idle", time.Minute, "how long idle connections rest before their memory is read")
	rows := flags.String("rows", "", "which rows, separated by commas (default: all)")
	only := flags.String("loads", "", "which loads (default: those that fit; "+strings.Join(loadNames(), ",")+")")
	flags.StringVar(&o.link, "wan", "", "a network in between: "+veth+", or as in delay=25ms,loss=0.5%,rate=12500000,seed=1")
	short := flags.Bool("short", false, "show that the bench works; its figures mean little")
	flags.Func("culvert", "binary to measure (default: what is here is built)", func(path string) error { return o.binaries.add(culvertRow + "=" + path) })
	flags.Func("compare", "NAME=BINARY: another culvert, for the rows NAME ws, NAME h3, NAME h2 and NAME direct; may be repeated", o.binaries.add)
	flags.Func("pair", "NAME=FILE: other programs, for the row NAME; pair.go says what is in the file; may be repeated", o.addPair)
	flags.StringVar(&o.json, "json", "", "file to write all figures to")
	flags.BoolVar(&o.add, "add", false, "add to the file of -json what it does not have yet, or more rounds of the same")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	o.window = time.Duration(*seconds * float64(time.Second))
	if *short {
		o.rounds, o.window, o.idle, o.pause, o.few = 1, 50*time.Millisecond, 100*time.Millisecond, 20*time.Millisecond, 8
	}
	if o.rounds < 1 || o.window <= 0 {
		return nil, errors.New("-rounds and -seconds must be more than 0")
	}
	if len(flags.Args()) > 0 {
		return nil, fmt.Errorf("%q is not a flag", flags.Arg(0))
	}
	return o, errors.Join(o.setLink(), o.setLoads(*only), o.setRows(*rows))
}

func (o *options) setLink() error {
	if o.link == "" {
		return nil
	}
	l, err := parseWAN(o.link)
	o.wan = &l
	return err
}

// setLoads takes the loads that were requested, or the default ones.
func (o *options) setLoads(only string) (err error) {
	names := loopbackLoads
	if o.wan != nil {
		names = wanLoads
	}
	if only != "" {
		names = strings.Split(only, ",")
	}
	o.loads, err = findLoads(names)
	return err
}

// setRows takes the rows that were requested, or all.
func (o *options) setRows(only string) error {
	all := o.rowNames()
	o.rows = all
	if only == "" {
		return nil
	}
	o.rows = strings.Split(only, ",")
	for _, name := range o.rows {
		if !slices.Contains(all, name) {
			return fmt.Errorf("-rows: no row is called %q; there are %s", name, strings.Join(all, ", "))
		}
	}
	return nil
}

// files is how many files and connections a process should be allowed to have: an agent has two
// connections for each of 10,000 streams. otherFiles is how many are left for other things.
const (
	files      = 32768
	otherFiles = 100
)

// atMost returns how many connections a load opens that wants n: fewer in a short run, and where a
// process may not have so many files.
func (o *options) atMost(n int) int {
	if o.few > 0 {
		n = min(n, o.few)
	}
	return min(n, int(o.files-otherFiles)/2)
}

// culvertRow begins the names of the rows of the binary that is measured.
const culvertRow = "culvert"

// binaries are culverts, by the name that their rows begin with. The one that is measured may be
// missing: it is then built.
type binaries []named

type named struct{ name, path string }

func (b *binaries) add(arg string) error {
	name, path, ok := strings.Cut(arg, "=")
	if !ok || name == "" || path == "" || strings.Contains(name, " ") {
		return fmt.Errorf("%q is not NAME=BINARY, with a name without spaces", arg)
	}
	if b.path(name) != "" || name == "bare" {
		return fmt.Errorf("two kinds of rows are called %s", name)
	}
	*b = append(*b, named{name, path})
	return nil
}

func (b binaries) path(name string) string {
	for _, one := range b {
		if one.name == name {
			return one.path
		}
	}
	return ""
}

// compared returns the names of the other culverts.
func (b binaries) compared() (names []string) {
	for _, one := range b {
		if one.name != culvertRow {
			names = append(names, one.name)
		}
	}
	return names
}

// rowNames returns the rows that there are.
func (o *options) rowNames() []string {
	kinds := append([]string{culvertRow}, o.binaries.compared()...)
	names := []string{"direct"}
	for _, transport := range transports {
		names = append(names, "bare "+transport)
		for _, kind := range kinds {
			names = append(names, kind+" "+transport)
		}
	}
	for _, kind := range kinds {
		names = append(names, kind+" direct")
	}
	for _, p := range o.pairs {
		names = append(names, p.name)
	}
	return names
}

// addPair reads the commands of -pair.
func (o *options) addPair(arg string) error {
	name, file, ok := strings.Cut(arg, "=")
	if !ok || name == "" || slices.Contains(o.rowNames(), name) {
		return fmt.Errorf("%q is not NAME=FILE, with a new name", arg)
	}
	p, err := readPair(name, file)
	o.pairs = append(o.pairs, p)
	return err
}
