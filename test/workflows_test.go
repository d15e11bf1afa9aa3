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

func TestWorkflowsMayOnlyRead(t *testing.T) {
	for _, w := range workflows(t) {
		all := valuesOf(w, "permissions")
		if len(all) == 0 {
			t.Error("a workflow sets no permissions, so it has the repository's default ones")
		}
		for _, p := range all {
			text, err := yaml.Marshal(p)
			if err != nil || string(text) != "contents: read\n" {
				t.Errorf("line %d: permissions are %s, %v", p.Line, text, err)
			}
		}
	}
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
