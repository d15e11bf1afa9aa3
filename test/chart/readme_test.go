package chart

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/Masterminds/semver/v3"
	"github.com/google/go-cmp/cmp"
	yamlv3 "go.yaml.in/yaml/v3"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write the table of values into charts/culvert/README.md")

// The table of values stands in the chart's README between these lines.
const (
	tableBegins = "<!-- Made from values.yaml by: go -C test/chart test -run README . -update -->\n"
	tableEnds   = "<!-- The end of what is made. -->\n"
)

// TestREADMEListsTheValues compares the tables in the chart's README with values.yaml. With -update
// it writes them.
func TestREADMEListsTheValues(t *testing.T) {
	file := filepath.Join(chartDir, "README.md")
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, begins := strings.Cut(string(content), tableBegins)
	old, after, ends := strings.Cut(rest, tableEnds)
	if !begins || !ends {
		t.Fatalf("%s has no lines %q and %q", file, tableBegins, tableEnds)
	}
	made := valueTables(t)
	if *update {
		if err := os.WriteFile(file, []byte(before+tableBegins+made+tableEnds+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(strings.Split(old, "\n"), strings.Split(made, "\n")); diff != "" {
		t.Errorf("%s is not what values.yaml says (-README +values.yaml). To write it: go -C test/chart test -run README . -update\n%s", file, diff)
	}
}

// valueTables returns a table of all values, and one for each end.
func valueTables(t *testing.T) string {
	t.Helper()
	var root yamlv3.Node
	content, err := os.ReadFile(filepath.Join(chartDir, "values.yaml"))
	if err == nil {
		err = yamlv3.Unmarshal(content, &root)
	}
	if err != nil {
		t.Fatal(err)
	}
	schema := valuesSchema(t)
	sections := map[string]*valueTable{"": {}, "gateway": {}, "agent": {}}
	for key, value := range pairs(root.Content[0]) {
		section := sections[key.Value]
		if section == nil {
			section = sections[""]
		}
		section.add(t, key.Value, key, value, schema.property(t, key.Value))
	}
	var b strings.Builder
	for _, s := range []struct{ title, name string }{{"Of both ends", ""}, {"The gateway", "gateway"}, {"The agent", "agent"}} {
		fmt.Fprintf(&b, "\n### %s\n\n| value | default | what it is |\n|---|---|---|\n%s", s.title, sections[s.name].rows.String())
	}
	return b.String() + "\n"
}

// valueTable is a table of values: each row a key, its default and its comment.
type valueTable struct{ rows strings.Builder }

// add adds a value, or what is in it if the schema knows that. What a comment does not say, the schema
// does.
func (v *valueTable) add(t *testing.T, path string, key, value *yamlv3.Node, schema schemaNode) {
	t.Helper()
	comment := description(key)
	if said, ok := schema.node["description"].(string); comment == "" && ok {
		comment = said
	}
	if schema.isStruct() {
		if comment != "" {
			v.row(path, "", comment)
		}
		for k, inner := range pairs(value) {
			v.add(t, path+"."+k.Value, k, inner, schema.property(t, k.Value))
		}
		return
	}
	if comment == "" {
		t.Errorf("%s has no comment in values.yaml and no description in values.schema.json", path)
	}
	var decoded any
	if err := value.Decode(&decoded); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(decoded); err != nil {
		t.Fatal(err)
	}
	v.row(path, "`"+strings.TrimSpace(b.String())+"`", comment)
}

func (v *valueTable) row(path, value, comment string) {
	fmt.Fprintf(&v.rows, "| `%s` | %s | %s |\n", path, strings.ReplaceAll(value, "|", `\|`), strings.ReplaceAll(comment, "|", `\|`))
}

// line is the beginning and the end of a line of a comment: the end may be drawn out to a rule.
var line = regexp.MustCompile(`(?m)^# ?|( -+)?$`)

// description returns the comment right above a key as one line.
func description(key *yamlv3.Node) string {
	paragraphs := strings.Split(key.HeadComment, "\n\n")
	return strings.Join(strings.Fields(line.ReplaceAllString(paragraphs[len(paragraphs)-1], "")), " ")
}

// pairs yields the keys and values of a mapping.
func pairs(mapping *yamlv3.Node) func(func(key, value *yamlv3.Node) bool) {
	return func(yield func(key, value *yamlv3.Node) bool) {
		for pair := range slices.Chunk(mapping.Content, 2) {
			if !yield(pair[0], pair[1]) {
				return
			}
		}
	}
}

// schemaNode is a part of values.schema.json.
type schemaNode struct {
	node, definitions map[string]any
}

func valuesSchema(t *testing.T) schemaNode {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(chartDir, "values.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	var node map[string]any
	if err := json.Unmarshal(content, &node); err != nil {
		t.Fatal(err)
	}
	return schemaNode{node, node["definitions"].(map[string]any)}
}

// isStruct reports whether the schema names the keys of an object.
func (s schemaNode) isStruct() bool { return s.node["properties"] != nil }

// property returns the schema of a key.
func (s schemaNode) property(t *testing.T, name string) schemaNode {
	t.Helper()
	properties, _ := s.node["properties"].(map[string]any)
	node, ok := properties[name].(map[string]any)
	if !ok {
		t.Fatalf("values.yaml has %s, and the schema does not", name)
	}
	if ref, ok := node["$ref"].(string); ok {
		described := node
		node = maps.Clone(s.definitions[strings.TrimPrefix(ref, "#/definitions/")].(map[string]any))
		maps.Copy(node, described)
	}
	return schemaNode{node, s.definitions}
}

// TestChartSaysWhatItIs checks what Artifact Hub shows of Chart.yaml.
func TestChartSaysWhatItIs(t *testing.T) {
	chart, err := loader.Load(chartDir)
	if err != nil {
		t.Fatal(err)
	}
	m := chart.Metadata
	if m.Home == "" || len(m.Sources) == 0 || len(m.Keywords) == 0 {
		t.Errorf("home %q, sources %q, keywords %q: want all three", m.Home, m.Sources, m.Keywords)
	}
	if _, err := semver.NewConstraint(m.KubeVersion); err != nil {
		t.Errorf("kubeVersion %q: %v", m.KubeVersion, err)
	}
	icon, inRepository := strings.CutPrefix(m.Icon, "https://raw.githubusercontent.com/culvert-proxy/culvert/main/")
	if content, err := os.ReadFile(filepath.Join("../..", icon)); !inRepository || err != nil || !bytes.HasPrefix(content, []byte("<svg ")) {
		t.Errorf("icon %s: %v, want an SVG in this repository", m.Icon, err)
	}
	annotation := func(name string, into any) {
		if err := yaml.UnmarshalStrict([]byte(m.Annotations["artifacthub.io/"+name]), into); err != nil {
			t.Errorf("artifacthub.io/%s: %v", name, err)
		}
	}
	var images []struct {
		Name, Image string
		Platforms   []string
	}
	annotation("images", &images)
	if want := "ghcr.io/culvert-proxy/culvert:" + m.AppVersion; len(images) != 1 || images[0].Image != want || chart.Values["image"].(map[string]any)["repository"] != strings.TrimSuffix(want, ":"+m.AppVersion) {
		t.Errorf("artifacthub.io/images %+v, want %s, which is also in values.yaml", images, want)
	}
	var changes []struct{ Kind, Description string }
	annotation("changes", &changes)
	if len(changes) == 0 {
		t.Error("artifacthub.io/changes is empty")
	}
	for _, c := range changes {
		if !slices.Contains([]string{"added", "changed", "deprecated", "removed", "fixed", "security"}, c.Kind) || c.Description == "" {
			t.Errorf("artifacthub.io/changes: %+v", c)
		}
	}
	var links []struct{ Name, URL string }
	annotation("links", &links)
	for _, l := range links {
		path, inRepository := strings.CutPrefix(l.URL, m.Home+"/blob/main/")
		if _, err := os.Stat(filepath.Join("../..", path)); inRepository && err != nil || !strings.HasPrefix(l.URL, m.Home) {
			t.Errorf("artifacthub.io/links: %s: %v", l.URL, err)
		}
	}
	license, err := os.ReadFile("../../LICENSE")
	if err != nil || m.Annotations["artifacthub.io/license"] != "Apache-2.0" || !bytes.Contains(license, []byte("Apache License\n                           Version 2.0")) {
		t.Errorf("artifacthub.io/license %q: want that of LICENSE", m.Annotations["artifacthub.io/license"])
	}
}
