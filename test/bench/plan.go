package main

import (
	"flag"
	"fmt"
	"io"
	"path/filepath"
	"strings"
)

// plan is the settings of a run whose figures docs/performance.md shows.
type plan struct {
	name     string
	settings map[string]string // flags
}

// The emulated links. Without a rate, a link would measure the CPU. The queue of a fast one holds
// what it carries in a round trip: CUBIC does not fill the link with less, and direct would be
// slow.
const (
	link100  = "delay=25ms,rate=12500000,queue=625000" // 50 ms, 100 Mbit/s
	link400  = "delay=25ms,rate=50000000,queue=2500000"
	lossy    = "delay=10ms,loss=0.5%,seed=1"
	slowLink = "delay=25ms,rate=250000" // 2 Mbit/s

	wanRows = "direct,culvert ws,culvert h3,culvert h2"
)

var plans = []plan{
	{"throughput", map[string]string{"loads": "produce,fetch v17,produce 16 KiB,kgo produce,kgo consume"}},
	{"small", map[string]string{"loads": "produce 100 B,one record,first byte"}},
	{"busy", map[string]string{"loads": "busy 1,busy 10,busy 100,busy 1000"}},
	{"connections", map[string]string{"loads": "opening,20 at once"}},
	{"idle", map[string]string{"loads": "idle 1000", "rounds": "3"}},
	{"idle-10000", map[string]string{"loads": "idle 10000", "rounds": "1", "rows": "culvert ws,culvert h3,culvert h2,culvert direct"}},
	{"veth", map[string]string{"wan": veth, "loads": "produce,fetch v17,63 stalled"}},
	{"50ms-100mbit", map[string]string{"wan": link100, "rows": wanRows, "loads": "produce,fetch v17,first answer,20 at once", "seconds": "5"}},
	{"50ms-400mbit", map[string]string{"wan": link400, "rows": wanRows, "loads": "produce,fetch v17", "seconds": "5"}},
	{"20ms-loss", map[string]string{"wan": lossy, "rows": wanRows, "loads": "produce,one record ×16", "seconds": "5"}},
	{"2mbit", map[string]string{"wan": slowLink, "rows": wanRows, "loads": "produce 16 KiB,one record ×16", "seconds": "5"}},
}

func planNames() (names []string) {
	for _, p := range plans {
		names = append(names, p.name)
	}
	return names
}

// setPlan sets the flags of a plan. Those that come later on the command line are stronger.
func setPlan(flags *flag.FlagSet, name string) error {
	for _, p := range plans {
		if p.name != name {
			continue
		}
		for setting, value := range p.settings {
			if err := flags.Set(setting, value); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("no plan is called %q; there are %s", name, strings.Join(planNames(), ", "))
}

// runAll runs all plans one after the other, with more flags, and writes a file for each.
func runAll(out io.Writer, args []string) error {
	for _, name := range planNames() {
		file := filepath.Join(performance, name+".json")
		if err := run(out, append([]string{"-plan", name, "-json", file}, args...)); err != nil {
			return fmt.Errorf("plan %s: %w", name, err)
		}
	}
	return nil
}
