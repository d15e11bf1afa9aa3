package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// performance is where the files of the plans are, and the plots that are made from them.
const performance = "docs/performance"

// block is a part of docs/performance.md that is made from the files: tables of some loads of a
// plan, or the summary.
var block = regexp.MustCompile(`(?s)(<!-- bench ([a-z0-9-]+)(?:: ([^>]+))? -->\n).*?(<!-- end -->)`)

// writePage writes the page and the plots again.
func writePage(root string) error {
	files, err := makePage(root)
	if err != nil {
		return err
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// makePage returns docs/performance.md and the plots as they should be, by their paths below root.
func makePage(root string) (files map[string]string, err error) {
	files = map[string]string{}
	reports := map[string]*report{}
	for _, p := range plans {
		rep, err := readReport(filepath.Join(root, performance, p.name+".json"))
		if err != nil {
			return nil, err
		}
		reports[p.name] = rep
		files[filepath.Join(performance, p.name+".svg")] = rep.plot()
	}
	page := performance + ".md"
	text, err := os.ReadFile(filepath.Join(root, page))
	if err != nil {
		return nil, err
	}
	files[page] = block.ReplaceAllStringFunc(string(text), func(s string) string {
		m := block.FindStringSubmatch(s)
		if m[2] == "summary" {
			return m[1] + summarize(reports) + m[4]
		}
		body, e := reports[m[2]].section(m[2], strings.Split(m[3], ", "))
		if e != nil {
			err = fmt.Errorf("%s: %w", m[1], e)
		}
		return m[1] + body + m[4]
	})
	return files, err
}

// section returns tables of some loads, after the command that repeats them.
func (rep *report) section(plan string, names []string) (string, error) {
	if rep == nil {
		return "", fmt.Errorf("no plan is called %q", plan)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\n`go run ./test/bench -plan %s`, on %s\n", plan, rep.Date)
	for _, name := range names {
		i := slices.IndexFunc(loads, func(l load) bool { return l.name == name })
		if i < 0 || rep.Results[name] == nil {
			return "", fmt.Errorf("plan %s has no load %q", plan, name)
		}
		columns := slices.DeleteFunc(slices.Clone(loads[i].columns), func(c column) bool { return c.with&forExperts != 0 })
		heads := rep.heads(columns)
		write := func(cells ...string) { fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | ")) }
		rounds := len(rep.Results[name][rep.Rows[0].Name])
		b.WriteString("\n")
		head := append([]string{name + ", " + count(rounds, "round")}, withoutRanges(heads, heads)...)
		write(head...)
		b.WriteString(strings.Repeat("|---", len(head)) + "|\n")
		for _, r := range rep.Rows {
			write(append([]string{r.Name}, withoutRanges(heads, rep.cells(name, r, columns))...)...)
		}
	}
	return b.String() + "\n", nil
}

// withoutRanges returns cells in which each range stands in the cell before it.
func withoutRanges(heads, cells []string) (merged []string) {
	for i, cell := range cells {
		switch {
		case heads[i] != "range":
			merged = append(merged, cell)
		case cell != "range" && cell != none:
			merged[len(merged)-1] += " (" + cell + ")"
		}
	}
	return merged
}

func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
