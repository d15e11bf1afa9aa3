package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/culvert-proxy/culvert/test/netns"
)

// TestMain lets the test binary be the processes that the bench starts from it, and the other
// program of a pair.
func TestMain(m *testing.M) {
	switch {
	case len(os.Args) == 4 && os.Args[1] == "relay":
		relay(os.Args[2], os.Args[3])
		return
	case len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-"):
		main()
		return
	}
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "culvert-bench-test-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	built.dir = dir
	return m.Run()
}

// relay is a program that knows no Kafka.
func relay(from, to string) {
	ln, err := net.Listen("tcp", from)
	if err != nil {
		panic(err)
	}
	acceptAll(ln, func(c net.Conn) error {
		defer c.Close()
		broker, err := net.Dial("tcp", to)
		if err != nil {
			return err
		}
		defer broker.Close()
		return copyBoth(c, broker.(halfCloser))
	})
}

// built is where culvert is built, once.
var built parts

var build = sync.OnceValue(func() error { return built.build() })

// bench runs the bench for a moment with these flags, and returns what it printed.
func bench(t *testing.T, args ...string) string {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("reads CPU time and memory as Linux has them")
	}
	if err := build(); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := run(&out, append([]string{"-short", "-culvert", built.file("culvert")}, args...)); err != nil {
		t.Fatal(err)
	}
	t.Log(out.String())
	return out.String()
}

// TestBenchRuns checks that every load works. It asserts no figure, since those depend on the
// machine.
func TestBenchRuns(t *testing.T) {
	rows := []string{"direct", "bare ws", "culvert ws"}
	table := bench(t, "-loads", strings.Join(loadNames(), ","), "-rows", strings.Join(rows, ","))
	wantFigures(t, table, loadNames(), rows)
}

// TestBenchComparesPrograms checks that every row works, and those of another culvert and of
// another program.
func TestBenchComparesPrograms(t *testing.T) {
	dir := t.TempDir()
	file, results := filepath.Join(dir, "relays.txt"), filepath.Join(dir, "results.json")
	var commands strings.Builder
	fmt.Fprintln(&commands, "# One relay on either side for each broker.")
	for i := range brokerCount {
		fmt.Fprintf(&commands, "server: %[1]s relay {server:%[2]d} {broker%[2]d}\nclient: %[1]s relay {listen%[2]d} {host:server:%[2]d}:{port:server:%[2]d}\n", os.Args[0], i)
	}
	if err := os.WriteFile(file, []byte(commands.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	these := []string{"produce 16 KiB", "idle 1000"}
	args := []string{"-compare", "before=" + built.file("culvert"), "-pair", "two relays=" + file, "-json", results, "-add"}
	table := bench(t, append(args, "-loads", these[0])...)
	table += bench(t, append(args, "-loads", these[1])...)
	bench(t, append(args, "-loads", these[0])...)

	rep, err := readReport(results)
	if err != nil {
		t.Fatal(err)
	}
	if got := rep.heads(throughputColumns); !slices.Contains(got, "of before") {
		t.Errorf("columns %q, want one that compares the versions", got)
	}
	if len(rep.Rows) != 13 || !slices.Contains(rep.Rows, reportRow{"culvert h3", "bare h3", "before h3"}) {
		t.Errorf("rows %v, want 13, and the one of culvert h3 beside bare h3 and before h3", rep.Rows)
	}
	for _, r := range rep.Rows {
		wantCells(t, table, rep, these, r.Name)
		if got := len(rep.Results[these[0]][r.Name]); got != 2 {
			t.Errorf("%s, %s: %d rounds after two runs, want 2", these[0], r.Name, got)
		}
	}
	for _, q := range []quantity{agentCPU, gatewayCPU, agentPeak, gatewayPeak} {
		if values := q.in(rep.Results[these[0]]["two relays"]); !(values.median() > 0) {
			t.Errorf("%s of the pair is %v", q.name, values)
		}
	}
}

// TestBenchRunsOverANetwork is TestBenchRuns over a link with losses, and between veth devices.
func TestBenchRunsOverANetwork(t *testing.T) {
	if err := netns.Available(); err != nil {
		t.Skip(err)
	}
	rows := []string{"direct", "bare h2", "culvert ws", "culvert h3"}
	these := []string{"produce 16 KiB", "one record ×16", "first answer"}
	for _, link := range []string{veth, "delay=2ms,loss=0.1%,rate=100000000,queue=1000000,seed=1"} {
		table := bench(t, "-wan", link, "-loads", strings.Join(these, ","), "-rows", strings.Join(rows, ","))
		wantFigures(t, table, these, rows)
	}
}

// wantFigures fails the test unless the table is complete.
func wantFigures(t *testing.T, table string, names, rows []string) {
	t.Helper()
	for _, r := range rows {
		wantCells(t, table, new(report), names, r)
	}
}

func wantCells(t *testing.T, table string, rep *report, names []string, row string) {
	t.Helper()
	for _, l := range loads {
		if !slices.Contains(names, l.name) {
			continue
		}
		want := len(rep.heads(l.columns))
		got := cellsOf(table, l.name, row)
		if len(got) != want || strings.ContainsAny(strings.Join(got, ""), "∞N") {
			t.Errorf("%s, %s: %q, want %d figures", l.name, row, got, want)
		}
		if row == "culvert ws" && got[0] == none {
			t.Errorf("%s, %s: no figure", l.name, row)
		}
	}
}

// cellsOf returns the cells of one line of the table.
func cellsOf(table, load, row string) []string {
	for line := range strings.Lines(table) {
		var cells []string
		for cell := range strings.SplitSeq(line, "  ") {
			if cell = strings.TrimSpace(cell); cell != "" {
				cells = append(cells, cell)
			}
		}
		if len(cells) > 2 && cells[0] == load && cells[1] == row {
			return cells[2:]
		}
	}
	return nil
}

func TestBenchRefusesUnknownNames(t *testing.T) {
	for _, args := range [][]string{{"-loads", "consume"}, {"-rounds", "0"}, {"-seconds", "0"}, {"-rows", "bare smoke"}, {"-wan", "delay=soon"}, {"-wan", "luck=1"}, {"-wan", "queue=long"}, {"-compare", "before"}, {"-compare", "bare=culvert"}, {"-pair", "x=none"}, {"produce"}} {
		if err := run(new(bytes.Buffer), append(args, "-culvert", "none")); err == nil {
			t.Errorf("bench %s: no error", strings.Join(args, " "))
		}
	}
}

// kmsg must be able to decode the frames, and so any broker and client.
func TestFramesParseAsKafka(t *testing.T) {
	for _, size := range []int{recordSize, 16 << 10, mebibyte, 3 * mebibyte} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			for _, version := range []int16{11, 17} {
				r := readFetch(t, version, fetchResponse(asked(t, version, fetchRequest(version, size))).frame)
				var got int
				for _, p := range r.Topics[0].Partitions {
					got += len(p.RecordBatches)
				}
				if got < size || got > size+size/10+256 {
					t.Errorf("Fetch v%d response of %d bytes of records, want about %d", version, got, size)
				}
			}
		})
	}
}

func readFetch(t *testing.T, version int16, frame []byte) *kmsg.FetchResponse {
	t.Helper()
	r := kmsg.NewPtrFetchResponse()
	r.Version = version
	body := frame[responseHead:]
	if r.IsFlexible() {
		body = body[1:]
	}
	if err := r.ReadFrom(body); err != nil {
		t.Fatalf("Fetch v%d: %v", version, err)
	}
	return r
}

// asked is what a broker reads from a Fetch request.
func asked(t *testing.T, version int16, frame []byte) fetchKind {
	t.Helper()
	r, err := readFetchRequest(version, frame)
	if err != nil {
		t.Fatal(err)
	}
	ps := r.Topics[0].Partitions
	return fetchKind{version, ps[0].Partition, len(ps), ps[0].PartitionMaxBytes}
}

// TestFreeAddressesAreDifferent asks for more ports than the kernel has to choose from without
// repeating itself now and then.
func TestFreeAddressesAreDifferent(t *testing.T) {
	var p parts
	seen := map[string]bool{}
	for range 2000 {
		at, err := p.free(nil)
		if err != nil {
			t.Fatal(err)
		}
		if seen[at] {
			t.Fatalf("%s twice", at)
		}
		seen[at] = true
	}
}
