package prometheus

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// The files that the chart installs, from the root of the repository.
const (
	Alerts     = "charts/culvert/alerts.yaml"
	Dashboards = "charts/culvert/dashboards"
)

// Query is a PromQL expression of the repository.
type Query struct {
	Where string // its dashboard and panel, its alert, or its document
	Expr  string
}

var (
	// native is a histogram as a whole, and classic one of the series of its buckets.
	native  = regexp.MustCompile(`culvert_\w+_(duration|transfer)_seconds\b`)
	classic = regexp.MustCompile(`culvert_\w+_(duration|transfer)_seconds_(bucket|sum|count)\b`)
)

// Fits says whether a query can return data if Prometheus scrapes these histograms. Queries of the
// dashboards fit all kinds. Those that the documents explain, and a part of an alert, may be for one.
func (q Query) Fits(h Histograms) bool {
	isNative, isClassic := native.MatchString(q.Expr), classic.MatchString(q.Expr)
	switch {
	case isNative == isClassic:
		return true
	case isNative:
		return h != Classic
	default:
		return h != Native
	}
}

// Rule is an alert.
type Rule struct {
	Alert       string
	Expr        string
	For         string
	Labels      map[string]string
	Annotations map[string]string
}

// Rules returns the alerts.
func Rules(root string) ([]Rule, error) {
	content, err := os.ReadFile(filepath.Join(root, Alerts))
	if err != nil {
		return nil, err
	}
	var file struct {
		Groups []struct {
			Name  string
			Rules []Rule
		}
	}
	if err := yaml.Unmarshal(content, &file); err != nil {
		return nil, fmt.Errorf("%s: %w", Alerts, err)
	}
	var all []Rule
	for _, g := range file.Groups {
		all = append(all, g.Rules...)
	}
	return all, nil
}

// selector is a metric with its matchers.
var selector = regexp.MustCompile(`\b(?:culvert_\w+|up)\b(?:\{[^}]*\})?`)

// Selectors returns what an alert's expression selects, each once. An alert is silent while all is
// well, but what it looks at must be there.
func (r Rule) Selectors() []Query {
	seen := map[string]bool{}
	var all []Query
	for _, s := range selector.FindAllString(r.Expr, -1) {
		if !seen[s] {
			all = append(all, Query{"alert " + r.Alert, s})
		}
		seen[s] = true
	}
	return all
}

// Dashboard is a dashboard of Grafana, as far as tests look at it.
type Dashboard struct {
	File          string `json:"-"`
	UID           string
	Title         string
	Description   string
	Tags          []string
	SchemaVersion int
	Panels        []Panel
	Annotations   struct{ List []Target }
	Templating    struct{ List []Variable }
}

// Panel is a panel, or the heading of a row.
type Panel struct {
	ID          int
	Type        string
	Title       string
	Description string
	GridPos     struct{ H, W, X, Y int }
	FieldConfig struct {
		Defaults struct {
			Unit       string
			Thresholds struct {
				Steps []struct {
					Color string
					Value *float64
				}
			}
		}
	}
	Targets []Target
}

// Target is a query of a panel, or one that makes annotations.
type Target struct {
	Name       string
	Expr       string
	RefID      string
	Datasource struct{ Type, UID string }
}

// Variable is a variable of a dashboard.
type Variable struct {
	Name, Type, Definition, AllValue string
	IncludeAll                       bool
}

// ReadDashboards returns the dashboards.
func ReadDashboards(root string) ([]Dashboard, error) {
	files, err := filepath.Glob(filepath.Join(root, Dashboards, "*.json"))
	if err != nil {
		return nil, err
	}
	var all []Dashboard
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		d := Dashboard{File: file}
		if err := json.Unmarshal(content, &d); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		all = append(all, d)
	}
	return all, nil
}

// chosen are values of the variables as Grafana has them when all is shown.
var chosen = strings.NewReplacer("$__rate_interval", "30s", "$__interval", "30s", "$namespace", ".*", "$job", ".*", "$instance", ".*")

// Queries returns the queries of the panels.
func (d Dashboard) Queries() (all []Query) {
	for _, p := range d.Panels {
		for _, t := range p.Targets {
			all = append(all, Query{d.Title + ": " + p.Title, chosen.Replace(t.Expr)})
		}
	}
	return all
}

// Marks returns the queries that mark times in the graphs. They return data only when something has
// happened.
func (d Dashboard) Marks() (all []Query) {
	for _, a := range d.Annotations.List {
		if a.Expr != "" {
			all = append(all, Query{d.Title + ": " + a.Name, chosen.Replace(a.Expr)})
		}
	}
	return all
}

var (
	// block is a block of PromQL in a document.
	block = regexp.MustCompile("(?ms)^ *```promql\n(.*?)^ *```$")
	// inline is a call of a function in a line of text.
	inline = regexp.MustCompile("`([a-z_]+\\([^`]*\\bculvert_[^`]*\\)[^`]*)`")
)

// DocumentQueries returns the queries that the documents show.
func DocumentQueries(root string) (all []Query, err error) {
	return all, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && path != root || d.Name() == "node_modules") {
			return filepath.SkipDir
		}
		if d.IsDir() || filepath.Ext(path) != ".md" {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		for _, found := range append(block.FindAllStringSubmatch(string(text), -1), inline.FindAllStringSubmatch(string(text), -1)...) {
			all = append(all, Query{name, strings.TrimSpace(found[1])})
		}
		return nil
	})
}
