package metrics_test

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	dto "github.com/prometheus/client_model/go"

	"github.com/culvert-proxy/culvert/proxy/metrics"
)

// described is what docs/metrics.md and the registry both say of a metric.
type described struct{ Type, Labels string }

// row is a metric in a table of docs/metrics.md: name, type, labels, unit, and what it answers.
var row = regexp.MustCompile("(?m)^\\| `(\\w+)` \\| (\\w+) \\| ([^|]*) \\| ([^|]+) \\| ([^|]+) \\|$")

func documented(t *testing.T) map[string]described {
	t.Helper()
	page, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	metrics := make(map[string]described)
	for _, r := range row.FindAllStringSubmatch(string(page), -1) {
		labels := strings.Split(strings.Trim(strings.ReplaceAll(r[3], "`", ""), "–"), ", ")
		slices.Sort(labels)
		metrics[r[1]] = described{r[2], strings.Join(labels, ",")}
	}
	return metrics
}

func registered(t *testing.T) map[string]described {
	t.Helper()
	reg, _ := used(t, metrics.Agent)
	metrics := make(map[string]described)
	for name, f := range gather(t, reg) {
		var labels []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, l.GetName())
		}
		metrics[name] = described{strings.ToLower(dto.MetricType_name[int32(f.GetType())]), strings.Join(labels, ",")}
	}
	return metrics
}

func TestPageAndRegistryListTheSameMetrics(t *testing.T) {
	page, registry := documented(t), registered(t)
	if runtime.GOOS != "linux" { // other systems tell less of a process
		isProcess := func(name string, _ described) bool { return strings.HasPrefix(name, "process_") }
		maps.DeleteFunc(page, isProcess)
		maps.DeleteFunc(registry, isProcess)
	}
	if diff := cmp.Diff(page, registry); diff != "" {
		t.Errorf("docs/metrics.md and the registry differ (-page +registry):\n%s", diff)
	}
}

// TestPageListsEveryLabelValue keeps the page's lists of label values whole.
func TestPageListsEveryLabelValue(t *testing.T) {
	page, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, end := range []metrics.End{metrics.Agent, metrics.Gateway} {
		reg, _ := used(t, end)
		for name, f := range gather(t, reg) {
			if name == "culvert_build_info" {
				continue
			}
			for _, s := range f.GetMetric() {
				for _, l := range s.GetLabel() {
					if l.GetName() != "api_key" && l.GetName() != "node_id" && l.GetName() != "forward" && !strings.Contains(string(page), "`"+l.GetValue()+"`") {
						t.Errorf("docs/metrics.md does not explain %s=%q of %s", l.GetName(), l.GetValue(), name)
					}
				}
			}
		}
	}
}

// TestEveryReasonIsCounted fails where a label value is documented that nothing
// counts.
func TestEveryReasonIsCounted(t *testing.T) {
	reasons, err := os.ReadFile("reasons.go")
	if err != nil {
		t.Fatal(err)
	}
	var counting strings.Builder
	files, _ := filepath.Glob("../*.go")
	for _, file := range files {
		if content, err := os.ReadFile(file); err == nil && !strings.HasSuffix(file, "_test.go") {
			counting.Write(content)
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^\t((?:Refused|Close|Ticket)[A-Z]\w*) .*// `).FindAllStringSubmatch(string(reasons), -1) {
		if !strings.Contains(counting.String(), "metrics."+m[1]) {
			t.Errorf("nothing counts %s", m[1])
		}
	}
}
