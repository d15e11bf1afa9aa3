package prometheus

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

const root = "../.."

// unitTests are the cases of promtool.
const unitTests = "testdata/alerts.test.yaml"

func rules(t *testing.T) []Rule {
	t.Helper()
	all, err := Rules(root)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) == 0 {
		t.Fatal("no alerts")
	}
	return all
}

func TestAlertsAreValid(t *testing.T) {
	Need(t)
	if out, err := Promtool(t.Context(), root, "check", "rules", Alerts); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestAlertsFire runs the cases: each alert fires when it should, with its text, and is silent
// beside that.
func TestAlertsFire(t *testing.T) {
	Need(t)
	out, err := Promtool(t.Context(), ".", "test", "rules", unitTests)
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// cases is the file of cases, as far as tests look at it.
type cases struct {
	Tests []struct {
		Name        string
		InputSeries []struct{ Series, Values string } `yaml:"input_series"`
		AlertRule   []struct {
			Alert  string      `yaml:"alertname"`
			Alerts []yaml.Node `yaml:"exp_alerts"`
		} `yaml:"alert_rule_test"`
	}
}

func readCases(t *testing.T) (c cases) {
	t.Helper()
	content, err := os.ReadFile(unitTests)
	if err == nil {
		err = yaml.Unmarshal(content, &c)
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestEachAlertHasCases fails where promtool would not notice that an alert is always or never
// silent.
func TestEachAlertHasCases(t *testing.T) {
	fires, silent := map[string]bool{}, map[string]bool{}
	for _, c := range readCases(t).Tests {
		for _, check := range c.AlertRule {
			fires[check.Alert] = fires[check.Alert] || len(check.Alerts) > 0
			silent[check.Alert] = silent[check.Alert] || len(check.Alerts) == 0
		}
	}
	for _, r := range rules(t) {
		if !fires[r.Alert] || !silent[r.Alert] {
			t.Errorf("%s: a case in which it fires: %v, in which it is silent: %v", r.Alert, fires[r.Alert], silent[r.Alert])
		}
	}
}

// metric is a metric in a table of docs/metrics.md: name, type, labels.
var metric = regexp.MustCompile("(?m)^\\| `(\\w+)` \\| (\\w+) \\| ([^|]*) \\|")

// TestCasesUseRealMetrics compares names and labels of the cases with docs/metrics.md, which
// package metrics compares with the code.
func TestCasesUseRealMetrics(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root, "docs/metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	real := map[string]string{"up": ""}
	for _, m := range metric.FindAllStringSubmatch(string(page), -1) {
		names := []string{m[1]}
		if m[2] == "histogram" {
			names = []string{m[1] + "_sum", m[1] + "_count"}
		}
		labels := strings.FieldsFunc(m[3], func(r rune) bool { return strings.ContainsRune("`–, ", r) })
		slices.Sort(labels)
		for _, name := range names {
			real[name] = strings.Join(labels, " ")
		}
	}
	label := regexp.MustCompile(`(\w+)="`)
	for _, c := range readCases(t).Tests {
		for _, s := range c.InputSeries {
			name, matchers, _ := strings.Cut(s.Series, "{")
			var labels []string
			for _, m := range label.FindAllStringSubmatch(matchers, -1) {
				if m[1] != "job" && m[1] != "instance" {
					labels = append(labels, m[1])
				}
			}
			slices.Sort(labels)
			if want, known := real[name]; !known || strings.Join(labels, " ") != want {
				t.Errorf("%s: %s has labels %q, docs/metrics.md has %q", c.Name, s.Series, labels, want)
			}
		}
	}
}

// TestEachAlertHasARunbook checks what an operator sees: what, where, what to do, and a link to the
// chapter of docs/alerts.md.
func TestEachAlertHasARunbook(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root, "docs/alerts.md"))
	if err != nil {
		t.Fatal(err)
	}
	chapters := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^## (Culvert\w+)$`).FindAllStringSubmatch(string(page), -1) {
		chapters[m[1]] = true
	}
	for _, r := range rules(t) {
		if want := "https://github.com/culvert-proxy/culvert/blob/main/docs/alerts.md#" + strings.ToLower(r.Alert); r.Annotations["runbook_url"] != want {
			t.Errorf("%s links to %s, want %s", r.Alert, r.Annotations["runbook_url"], want)
		}
		if !chapters[r.Alert] {
			t.Errorf("docs/alerts.md has no chapter %s", r.Alert)
		}
		delete(chapters, r.Alert)
		if !strings.Contains(r.Annotations["summary"], "$labels.instance") || r.Annotations["description"] == "" {
			t.Errorf("%s: no description, or the summary does not say where: %s", r.Alert, r.Annotations["summary"])
		}
		if !slices.Contains([]string{"critical", "warning", "info"}, r.Labels["severity"]) {
			t.Errorf("%s has severity %q", r.Alert, r.Labels["severity"])
		}
		row := fmt.Sprintf("| [%s](#%s) | %s | %s |", r.Alert, strings.ToLower(r.Alert), r.Labels["severity"], written(r.For))
		if !strings.Contains(string(page), row) {
			t.Errorf("the table of docs/alerts.md lacks %s", row)
		}
	}
	for name := range chapters {
		t.Errorf("docs/alerts.md has a chapter for %s, which does not exist", name)
	}
}

// written is how docs/alerts.md writes for how long an alert waits.
func written(d string) string {
	if v, err := time.ParseDuration(d); err != nil || v == 0 {
		return "at once"
	}
	return d
}
