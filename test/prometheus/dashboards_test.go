package prometheus

import (
	"bytes"
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func dashboards(t *testing.T) []Dashboard {
	t.Helper()
	all, err := ReadDashboards(root)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) == 0 {
		t.Fatal("no dashboards")
	}
	return all
}

// TestDashboardsCanBeImported checks what Grafana needs: an identity, the schema of Grafana 11, and
// no data source of the machine where it was made.
func TestDashboardsCanBeImported(t *testing.T) {
	uids, titles := map[string]bool{}, map[string]bool{}
	for _, d := range dashboards(t) {
		if !strings.HasPrefix(d.UID, "culvert-") || uids[d.UID] || d.Title == "" || titles[d.Title] || d.Description == "" {
			t.Errorf("%s: uid %q, title %q, description %q", d.File, d.UID, d.Title, d.Description)
		}
		uids[d.UID], titles[d.Title] = true, true
		if !strings.HasSuffix(d.File, d.UID+".json") || !slices.Contains(d.Tags, "culvert") || d.SchemaVersion != 39 {
			t.Errorf("%s: uid %s, tags %q, schema %d", d.File, d.UID, d.Tags, d.SchemaVersion)
		}
		var names []string
		for _, v := range d.Templating.List {
			names = append(names, v.Type+" "+v.Name)
			if v.Type == "query" && (!v.IncludeAll || v.AllValue != ".*") {
				t.Errorf("%s: variable %s does not include series without that label", d.File, v.Name)
			}
		}
		if want := []string{"datasource datasource", "query namespace", "query job", "query instance"}; !slices.Equal(names, want) {
			t.Errorf("%s has variables %q, want %q", d.File, names, want)
		}
		content, err := os.ReadFile(d.File)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`"uid": "([^"]*)"`).FindAllSubmatch(content, -1) {
			if uid := string(m[1]); uid != "${datasource}" && uid != "-- Grafana --" && uid != d.UID {
				t.Errorf("%s names the data source %s", d.File, uid)
			}
		}
	}
}

// TestDashboardsAreIndented keeps changes readable: an export from Grafana has two spaces too.
func TestDashboardsAreIndented(t *testing.T) {
	for _, d := range dashboards(t) {
		content, err := os.ReadFile(d.File)
		if err != nil {
			t.Fatal(err)
		}
		var want bytes.Buffer
		if err := json.Indent(&want, content, "", "  "); err != nil {
			t.Fatal(err)
		}
		if strings.TrimSpace(want.String()) != strings.TrimSpace(string(content)) {
			t.Errorf("%s is not indented by two spaces", d.File)
		}
	}
}

// TestPanelsExplainThemselves: each has a unit, says what to do, and is where no other is.
func TestPanelsExplainThemselves(t *testing.T) {
	for _, d := range dashboards(t) {
		ids := map[int]bool{}
		taken := map[[2]int]string{}
		for _, p := range d.Panels {
			where := d.Title + ": " + p.Title
			if p.ID == 0 || ids[p.ID] || p.Title == "" {
				t.Errorf("%s has id %d", where, p.ID)
			}
			ids[p.ID] = true
			for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
				for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
					if other := taken[[2]int{x, y}]; other != "" || x >= 24 {
						t.Fatalf("%s overlaps with %q", where, other)
					}
					taken[[2]int{x, y}] = p.Title
				}
			}
			if p.Type == "row" {
				continue
			}
			if len(p.Description) < 40 || p.FieldConfig.Defaults.Unit == "" || len(p.Targets) == 0 {
				t.Errorf("%s: unit %q, %d queries, description %q", where, p.FieldConfig.Defaults.Unit, len(p.Targets), p.Description)
			}
			if s := p.FieldConfig.Defaults.Thresholds.Steps; len(s) == 0 || s[0].Value != nil {
				t.Errorf("%s: the first threshold has no base", where)
			}
			checkTargets(t, where, p)
		}
	}
}

func checkTargets(t *testing.T, where string, p Panel) {
	refs := map[string]bool{}
	for _, q := range p.Targets {
		if q.RefID == "" || refs[q.RefID] || q.Datasource.UID != "${datasource}" {
			t.Errorf("%s: query %q of data source %q", where, q.RefID, q.Datasource.UID)
		}
		refs[q.RefID] = true
		if strings.Contains(q.Expr, "process_") && !strings.Contains(q.Expr, "culvert_build_info") {
			t.Errorf("%s would show every process that Prometheus knows: %s", where, q.Expr)
		}
		if !strings.Contains(q.Expr, "$instance") && !strings.Contains(q.Expr, "ALERTS") {
			t.Errorf("%s does not depend on the variables: %s", where, q.Expr)
		}
	}
}

// longPolls are the requests that brokers hold on purpose.
var longPolls = []string{"Fetch", "JoinGroup", "SyncGroup", "ShareFetch"}

// TestLongPollsAreApart fails where a panel shows latencies of requests that brokers hold on
// purpose beside those of others, by API key.
func TestLongPollsAreApart(t *testing.T) {
	list := strings.Join(longPolls, "|")
	for _, d := range dashboards(t) {
		for _, p := range d.Panels {
			for _, q := range p.Targets {
				for _, m := range regexp.MustCompile(`culvert_(request_duration_seconds\w*|gateway_request_seconds_total|requests_in_flight)\{([^}]*)\}`).FindAllStringSubmatch(q.Expr, -1) {
					if !strings.Contains(m[2], `api_key!~"`+list+`"`) && !strings.Contains(m[2], `api_key=~"`+list+`"`) && !strings.Contains(m[2], `api_key="`) {
						t.Errorf("%s: %s mixes long polls with others: %s", d.Title, p.Title, m[0])
					}
				}
			}
		}
	}
}
