package test

import (
	"go/ast"
	"go/parser"
	"go/scanner"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Limits that the code keeps to. imports_test.go has those on imports.
const (
	// maxLines is how many lines of code a file may have, without comments, blank lines and tests.
	// A longer file usually holds more than one thing.
	maxLines = 450

	// maxRootContexts is how often the product may create a context outside of main instead of
	// taking one from its caller. Each has a comment that says why.
	maxRootContexts = 7
)

func TestFilesAreShort(t *testing.T) {
	for file, src := range sources(t) {
		if n := linesOfCode(src); n > maxLines {
			t.Errorf("%s has %d lines of code, want %d at most", file, n, maxLines)
		}
	}
}

func TestContextsComeFromCallers(t *testing.T) {
	total := 0
	for file, src := range sources(t) {
		if strings.HasPrefix(file, "test/") {
			continue
		}
		for _, c := range rootContexts(t, file, src) {
			if total++; !c.explained {
				t.Errorf("%s: no comment, on the line or above, says why the context is not the caller's", c)
			}
			t.Log(c)
		}
	}
	if total > maxRootContexts {
		t.Errorf("%d contexts are not the caller's, want %d at most", total, maxRootContexts)
	}
}

// sources returns the Go files of this module except its tests, by their path in the repository.
func sources(t *testing.T) map[string][]byte {
	t.Helper()
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("go", "list", "-f", `{{$d := .Dir}}{{range .GoFiles}}{{$d}}/{{.}}{{"\n"}}{{end}}{{range .IgnoredGoFiles}}{{$d}}/{{.}}{{"\n"}}{{end}}`, "../...").Output()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]byte{}
	for path := range strings.SplitSeq(strings.TrimSpace(string(out)), "\n") {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			t.Fatal(err)
		}
		if all[filepath.ToSlash(name)], err = os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// linesOfCode counts the lines that hold more than a comment.
func linesOfCode(src []byte) int {
	var s scanner.Scanner
	file := token.NewFileSet().AddFile("", -1, len(src))
	s.Init(file, src, nil, 0) // which leaves out comments
	lines := map[int]bool{}
	for {
		pos, tok, text := s.Scan()
		switch {
		case tok == token.EOF:
			return len(lines)
		case tok == token.SEMICOLON && text == "\n": // inserted: the token before it has been counted
		default:
			first := file.Line(pos)
			for i := range strings.Count(text, "\n") + 1 { // a string can have several
				lines[first+i] = true
			}
		}
	}
}

// rootContext is a call of context.Background or context.TODO.
type rootContext struct {
	token.Position
	explained bool // by a comment on its line or the one above
}

// rootContexts finds the calls in a file. In package main they are expected.
func rootContexts(t *testing.T, name string, src []byte) (all []rootContext) {
	t.Helper()
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, name, src, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	if f.Name.Name == "main" {
		return nil
	}
	var commented []int
	for _, group := range f.Comments {
		for _, c := range group.List {
			commented = append(commented, fset.Position(c.End()).Line)
		}
	}
	ast.Inspect(f, func(n ast.Node) bool {
		s, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if x, ok := s.X.(*ast.Ident); ok && x.Name == "context" && (s.Sel.Name == "Background" || s.Sel.Name == "TODO") {
			at := fset.Position(s.Pos())
			all = append(all, rootContext{at, slices.Contains(commented, at.Line) || slices.Contains(commented, at.Line-1)})
		}
		return true
	})
	return all
}
