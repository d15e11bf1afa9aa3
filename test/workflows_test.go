package test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// The owner of an action can move a tag to other code, but not a commit.
var (
	atCommit      = regexp.MustCompile(`^[\w.-]+(/[\w.-]+)+@[0-9a-f]{40}$`)
	actionVersion = regexp.MustCompile(`^# v\d+\.\d+\.\d+$`)
)

func TestWorkflowsUseActionsByTheirCommit(t *testing.T) {
	for _, w := range workflows(t) {
		uses := valuesOf(w, "uses")
		if len(uses) == 0 {
			t.Error("a workflow uses no action, not even checkout")
		}
		for _, u := range uses {
			if !atCommit.MatchString(u.Value) || !actionVersion.MatchString(u.LineComment) {
				t.Errorf("line %d: %s %s, want a commit of 40 digits and its version in a comment", u.Line, u.Value, u.LineComment)
			}
		}
	}
}

// mayWrite is what jobs may do beyond reading, by the name of the workflow. All others may read.
var mayWrite = map[string]string{"release": "contents: write packages: write id-token: write"}

func TestWorkflowsMayOnlyRead(t *testing.T) {
	for _, w := range workflows(t) {
		top := valuesOf(&yaml.Node{Kind: yaml.MappingNode, Content: w.Content[0].Content[:topLevelOf(w, "jobs")]}, "permissions")
		if len(top) != 1 || permissions(top[0]) != "contents: read" {
			t.Error("a workflow does not begin with the permission to read, so it has the repository's default ones")
		}
		name := valuesOf(w, "name")[0].Value
		for _, p := range valuesOf(w, "permissions")[1:] {
			if got := permissions(p); got != mayWrite[name] {
				t.Errorf("%s, line %d: permissions are %s, want at most %q", name, p.Line, got, mayWrite[name])
			}
		}
	}
}

// topLevelOf returns how many nodes stand before a key at the top of a document.
func topLevelOf(document *yaml.Node, key string) int {
	for i, n := range document.Content[0].Content {
		if i%2 == 0 && n.Value == key {
			return i
		}
	}
	return 0
}

// permissions are the permissions of a node, as key: value.
func permissions(n *yaml.Node) string {
	var all []string
	for i := 0; i+1 < len(n.Content); i += 2 {
		all = append(all, n.Content[i].Value+": "+n.Content[i+1].Value)
	}
	return strings.Join(all, " ")
}

func TestWorkflowsUseTheGoOfGoMod(t *testing.T) {
	mod, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range workflows(t) {
		for _, v := range valuesOf(w, "go-version") {
			if !strings.Contains(string(mod), "\ngo "+v.Value+".") {
				t.Errorf("line %d: Go %s, which is not go.mod's", v.Line, v.Value)
			}
		}
	}
}

func workflows(t *testing.T) (all []*yaml.Node) {
	t.Helper()
	files, err := filepath.Glob("../.github/workflows/*")
	if err != nil || len(files) == 0 {
		t.Fatalf("find workflows: %d, %v", len(files), err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		n := new(yaml.Node)
		if err := yaml.Unmarshal(text, n); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all = append(all, n)
	}
	return all
}

// valuesOf returns the values of a key, wherever it is in a document.
func valuesOf(n *yaml.Node, key string) (all []*yaml.Node) {
	for i, c := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 1 && n.Content[i-1].Value == key {
			all = append(all, c)
		}
		all = append(all, valuesOf(c, key)...)
	}
	return all
}
