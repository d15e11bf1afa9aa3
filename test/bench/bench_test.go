package main

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/culvert-proxy/culvert/test/netns"
)

// TestMain lets the test binary be the processes that the bench starts from it.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-") {
		main()
		return
	}
	os.Exit(m.Run())
}

// TestBenchRuns checks that the bench works. It asserts no figure, since those depend on the
// machine.
func TestBenchRuns(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("reads CPU time and memory from /proc")
	}
	var out bytes.Buffer
	if err := run(&out, []string{"-rounds", "1", "-seconds", "0.05"}); err != nil {
		t.Fatal(err)
	}
	wantFigures(t, out.String(), new(options).loadNames(""), rowNames)
}

// TestBenchRunsOverANetwork is TestBenchRuns over a network.
func TestBenchRunsOverANetwork(t *testing.T) {
	if err := netns.Available(); err != nil {
		t.Skip(err)
	}
	var out bytes.Buffer
	rows := []string{"direct", "bare h2", "culvert ws", "culvert h3"}
	these := []string{"produce 16 KiB", "one record ×16", "first answer"} // the others take too long
	if err := run(&out, []string{"-wan", "delay=2ms,loss=0.1%,seed=1", "-rounds", "1", "-seconds", "0.05", "-loads", strings.Join(these, ","), "-rows", strings.Join(rows, ",")}); err != nil {
		t.Fatal(err)
	}
	wantFigures(t, out.String(), these, rows)
}

// wantFigures fails the test unless the table is complete.
func wantFigures(t *testing.T, table string, names, rows []string) {
	t.Helper()
	t.Log(table)
	for _, l := range loads {
		if !slices.Contains(names, l.name) {
			continue
		}
		for _, r := range rows {
			if got := line(table, l.name, r); len(got) != len(l.table.head) || strings.ContainsAny(strings.Join(got, ""), "∞N") {
				t.Errorf("%s, %s: %q, want %d figures", l.name, r, got, len(l.table.head))
			}
		}
	}
}

// line returns the cells of one line of the table.
func line(table, load, row string) []string {
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
	for _, args := range [][]string{{"-loads", "consume"}, {"-rounds", "0"}, {"-seconds", "0"}, {"-rows", "bare smoke"}, {"-wan", "delay=soon"}, {"-wan", "luck=1"}} {
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
