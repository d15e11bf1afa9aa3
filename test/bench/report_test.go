package main

import (
	"encoding/xml"
	"errors"
	"io"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// sample is a report of two rounds, in which the machine became faster.
func sample() *report {
	o := &options{rows: []string{"direct", "bare ws", "culvert ws", "before ws"}, loads: loads[1:2], binaries: binaries{{"before", "./before"}}}
	rounds := func(rates ...float64) (all []figures) {
		for _, r := range rates {
			f := figures{}
			f.set(rate, r*1e6)
			all = append(all, f)
		}
		return all
	}
	return o.report(results{"produce": {
		"direct": rounds(1000, 2000), "bare ws": rounds(400, 600), "culvert ws": rounds(400, 600), "before ws": rounds(200, 400),
	}})
}

// TestRatiosAreOfTheSameRound checks medians, ranges and ratios.
func TestRatiosAreOfTheSameRound(t *testing.T) {
	rep := sample()
	r := rep.Rows[2]
	if r != (reportRow{"culvert ws", "bare ws", "before ws"}) {
		t.Fatalf("row %v", r)
	}
	got := rep.cells("produce", r, throughputColumns[:1])
	// 0.4 and 0.3 of direct; 2 and 1.5 of before
	if want := []string{"500", "400–600", "0.35", "1.00", "1.75"}; !slices.Equal(got, want) {
		t.Errorf("cells %q, want %q", got, want)
	}
	if got := rep.cells("produce", rep.Rows[0], throughputColumns[3:4]); slices.ContainsFunc(got, func(s string) bool { return s != none }) {
		t.Errorf("CPU of no process: %q", got)
	}
}

// TestAddRefusesOtherRows checks that a file has only figures that can be compared.
func TestAddRefusesOtherRows(t *testing.T) {
	file := filepath.Join(t.TempDir(), "results.json")
	if err := sample().save(file, true); err != nil {
		t.Fatal(err)
	}
	if err := sample().save(file, true); err != nil {
		t.Fatal(err)
	}
	if rep, err := readReport(file); err != nil || rep.rounds() != 4 {
		t.Errorf("%d rounds, %v; want 4", rep.rounds(), err)
	}
	for name, change := range map[string]func(*report){
		"rows":    func(r *report) { r.Rows = r.Rows[1:] },
		"network": func(r *report) { r.Link = veth },
		"window":  func(r *report) { r.Seconds = 7 },
		"machine": func(r *report) { r.Machine = "another" },
	} {
		other := sample()
		change(other)
		if err := other.save(file, true); err == nil {
			t.Errorf("added a run with another %s", name)
		}
	}
}

// TestBarsShowTheirValues compares the widths of bars with what they stand for.
func TestBarsShowTheirValues(t *testing.T) {
	text := sample().plot()
	wantXML(t, text)
	var widths []float64
	for _, m := range regexp.MustCompile(`<rect [^>]*width="([0-9.]+)" height="14"`).FindAllStringSubmatch(text, -1) {
		w, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			t.Fatal(err)
		}
		widths = append(widths, w)
	}
	if len(widths) != 4 {
		t.Fatalf("%d bars, want 4\n%s", len(widths), text)
	}
	for i, median := range []float64{1500, 500, 500, 300} {
		if got := widths[i] / widths[0] * 1500; got < median-2 || got > median+2 {
			t.Errorf("bar %d stands for %.0f, want %.0f", i, got, median)
		}
	}
	if n := strings.Count(text, `class="range"`); n != 4 {
		t.Errorf("%d ranges, want 4", n)
	}
}

func wantXML(t *testing.T, text string) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(text))
	for {
		_, err := d.Token()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
	}
}

// TestLabelsStayApart checks the names at the ends of lines.
func TestLabelsStayApart(t *testing.T) {
	labels := []float64{10, 12, 90, 95, 99}
	apart(labels, 100)
	for i, at := range labels {
		if at > 100 || i > 0 && at < labels[i-1]+14 {
			t.Errorf("labels at %v", labels)
		}
	}
}
