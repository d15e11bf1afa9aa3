package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// report is all that a run has measured. It is what -json writes, and what tables and plots are
// made from.
type report struct {
	Date    string      `json:"date"`
	Machine string      `json:"machine"`
	Seconds float64     `json:"seconds"` // of one load in one row
	Idle    string      `json:"idle"`    // how long idle connections rested
	Link    string      `json:"link"`    // "": loopback
	Rows    []reportRow `json:"rows"`
	Loads   []string    `json:"loads"`
	Results results     `json:"results"`
}

// reportRow is a row, and those that its figures are compared with, if any.
type reportRow struct {
	Name   string `json:"name"`
	Bare   string `json:"bare,omitzero"`
	Before string `json:"before,omitzero"`
}

// results are the figures of all rounds so far, by load and row.
type results map[string]map[string][]figures

// measure measures every load in every row once. Each round starts with another row, so that
// disturbances affect all rows alike.
func (res results) measure(round int, rows []*row, o *options) error {
	for _, l := range o.loads {
		measured := make([]figures, len(rows))
		var g errgroup.Group
		if !l.together {
			g.SetLimit(1)
		}
		for i := range rows {
			i := (i + round) % len(rows)
			g.Go(func() (err error) {
				if measured[i], err = l.run(rows[i], o); err != nil {
					return fmt.Errorf("%s, %s: %w%s", rows[i].name, l.name, err, rows[i].said())
				}
				return nil
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
		if res[l.name] == nil {
			res[l.name] = map[string][]figures{}
		}
		for i, r := range rows {
			res[l.name][r.name] = append(res[l.name][r.name], measured[i])
		}
	}
	return nil
}

// measure starts all processes and runs all rounds.
func (o *options) measure() (*report, error) {
	dir, err := os.MkdirTemp("", "culvert-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	p, rows, err := o.startAll(dir)
	defer p.stop(rows)
	if err != nil {
		return nil, err
	}
	res := results{}
	for n := range o.rounds {
		if err := res.measure(n, rows, o); err != nil {
			return nil, err
		}
	}
	return o.report(res), nil
}

func (o *options) report(res results) *report {
	rep := &report{
		Date:    time.Now().Format(time.DateOnly),
		Machine: fmt.Sprintf("%s, %s %s/%s, %d CPUs", cpuModel(), runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU()),
		Seconds: o.window.Seconds(), Idle: o.idle.String(), Link: o.link, Results: res,
	}
	before := ""
	if all := o.binaries.compared(); len(all) > 0 {
		before = all[0]
	}
	for _, name := range o.rows {
		bare, old := compared(name, before)
		r := reportRow{Name: name}
		if slices.Contains(o.rows, bare) {
			r.Bare = bare
		}
		if slices.Contains(o.rows, old) {
			r.Before = old
		}
		rep.Rows = append(rep.Rows, r)
	}
	for _, l := range o.loads {
		rep.Loads = append(rep.Loads, l.name)
	}
	return rep
}

// cpuModel is empty where the system does not say.
func cpuModel() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	_, model, _ := strings.Cut(string(text), "model name\t: ")
	model, _, _ = strings.Cut(model, "\n")
	return model
}

// save writes the report to a file. With add it first takes what the file has.
func (rep *report) save(file string, add bool) error {
	if add {
		old, err := readReport(file)
		if err == nil {
			err = old.add(rep)
		}
		if err == nil {
			rep = old
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	text, err := json.MarshalIndent(rep, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}

func readReport(file string) (*report, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	rep := new(report)
	if err := json.Unmarshal(text, rep); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return rep, nil
}

// add takes the loads of another run, and more rounds of those that both have. The rows must be the
// same, since figures are compared only within a round.
func (rep *report) add(more *report) error {
	if !slices.Equal(rep.Rows, more.Rows) || rep.Link != more.Link || rep.Seconds != more.Seconds || rep.Idle != more.Idle || rep.Machine != more.Machine {
		return errors.New("-add: the file has other rows, another network, other durations, or is from another machine")
	}
	for _, name := range more.Loads {
		if rep.Results[name] == nil {
			rep.Loads = append(rep.Loads, name)
			rep.Results[name] = map[string][]figures{}
		}
		for row, rounds := range more.Results[name] {
			rep.Results[name][row] = append(rep.Results[name][row], rounds...)
		}
	}
	rep.Date = more.Date
	return nil
}

// rounds returns the most rounds of any load.
func (rep *report) rounds() (most int) {
	for _, rows := range rep.Results {
		for _, rounds := range rows {
			most = max(most, len(rounds))
		}
	}
	return most
}
