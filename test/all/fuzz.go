package main

import (
	"context"
	"os/exec"
	"strings"

	"github.com/culvert-proxy/culvert/test/cache"
	"github.com/culvert-proxy/culvert/test/proc"
)

// fuzzTime is how many inputs each fuzz target gets here: enough to find faults near its seeds. It
// is a count and not a duration, since a run that ends at a deadline can fail on a busy machine
// (https://go.dev/issue/48591). For more, run one target alone:
//
//	go test ./proxy -run=NONE -fuzz=FuzzHostileClient -fuzztime=1h
const fuzzTime = "2000x"

// fuzz runs each fuzz target of the packages briefly. Its seeds run as ordinary tests.
func fuzz(ctx context.Context, results *Results, packages []string) error {
	out, err := proc.Run(ctx, exec.Command("go", append([]string{"test", "-list=^Fuzz"}, packages...)...))
	if err != nil {
		return err
	}
	for _, t := range fuzzTargets(out) {
		cache.Say("fuzz %s", t.name)
		results.Check("fuzz "+t.name, command("go", "test", "-run=NONE", "-fuzz=^"+t.name+"$", "-fuzztime="+fuzzTime, t.pkg)(ctx))
	}
	return nil
}

type fuzzTarget struct{ pkg, name string }

// fuzzTargets parses the output of go test -list: the names of a package, followed by a line with
// the package.
func fuzzTargets(list string) (targets []fuzzTarget) {
	var names []string
	for line := range strings.Lines(list) {
		fields := strings.Fields(line)
		switch {
		case len(fields) == 1 && strings.HasPrefix(fields[0], "Fuzz"):
			names = append(names, fields[0])
		case len(fields) >= 2 && fields[0] == "ok":
			for _, name := range names {
				targets = append(targets, fuzzTarget{fields[1], name})
			}
			names = nil
		}
	}
	return targets
}
