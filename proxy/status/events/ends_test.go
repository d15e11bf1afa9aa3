package events

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// noEnds are the lines at level INFO that end nothing. A new one belongs here, or into endings
// together with the warnings that it ends.
var noEnds = map[string]bool{
	"tickets are signed with a random key: several replicas need --ticket-key-file":                                     true,
	"nodes will not be remembered across restarts: no cache directory":                                                  true,
	"PROXY protocol headers are read over TCP (ws, h2): over h3, which is UDP, the client is whoever sends the packets": true,
	"stopped": true,
	"node unknown, a bootstrap broker answers login and metadata requests in its place": true,
	"tunnel transport chosen":                                      true,
	"tunnel transport changed for a cheaper one":                   true,
	"idle connections move to a gateway that was added or is back": true,
	"idle connections have moved":                                  true,
	"connections are spread over this gateway":                     true,
	"gateway is used only while those before it do not answer: its tickets are signed with another key": true,
	"gateway reached through a proxy":                                   true,
	"streams now opened with another method":                            true,
	"UDP buffers are smaller than QUIC needs":                           true,
	"this process was paused: connections that were ready are replaced": true,
}

// noted are the lines of Log.Note.
var noted = map[string]bool{"culvert agent ready": true, "culvert gateway ready": true}

// TestEveryAllClearSaysWhatItEnds reads the code of this program. It fails where a line at level
// INFO is neither in endings nor in noEnds, and where endings has a text that nothing logs.
func TestEveryAllClearSaysWhatItEnds(t *testing.T) {
	const root = "../../.."
	texts, infos := map[string]bool{}, map[string]bool{}
	fset := token.NewFileSet()
	for _, dir := range []string{"cmd", "proxy"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") ||
				strings.Contains(path, "standin") || strings.Contains(path, "status/events") {
				return err
			}
			f, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			ast.Inspect(f, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.BasicLit:
					if text, err := strconv.Unquote(n.Value); err == nil && n.Kind == token.STRING {
						texts[text] = true
					}
				case *ast.CallExpr:
					if s, ok := n.Fun.(*ast.SelectorExpr); ok && s.Sel.Name == "Info" && len(n.Args) > 0 {
						if lit, ok := n.Args[0].(*ast.BasicLit); ok {
							text, _ := strconv.Unquote(lit.Value)
							infos[text] = true
						} else if !strings.HasSuffix(path, "cmd/culvert/app.go") { // the line of say, which is no event
							t.Errorf("%s: a line at level INFO whose text is no constant", fset.Position(n.Pos()))
						}
					}
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	ends := map[string]bool{}
	for _, e := range endings {
		ends[e.line] = true
		if !texts[e.line] {
			t.Errorf("endings: nothing logs %q", e.line)
		}
		for _, f := range e.failures {
			if !texts[f.line] {
				t.Errorf("endings: nothing logs %q", f.line)
			}
		}
	}
	for text := range infos {
		if !ends[text] && !noEnds[text] {
			t.Errorf("a line at level INFO that ends nothing, or nobody says what: %q", text)
		}
	}
	for text := range noEnds {
		if !infos[text] {
			t.Errorf("noEnds: nothing logs %q", text)
		}
	}
	for text := range noted {
		if !ends[text] {
			t.Errorf("%q ends nothing", text)
		}
	}
}

// Each failure must end when its line comes.
func TestEveryEndingEnds(t *testing.T) {
	attrs := map[string]string{"outage": "true", "node_id": "2", "target": "b:9092", "gateway": "g:443", "file": "f", "name": "n", "address": "a",
		"from": "h3", "to": "ws"}
	back := map[string]string{"node_id": "2", "target": "b:9092", "gateway": "g:443", "file": "f", "name": "n", "address": "a", "from": "ws", "to": "h3"}
	for _, end := range endings {
		for _, f := range end.failures {
			var l Log
			l.record(line{at: time.Now(), level: "warn", text: f.line, attrs: attrs})
			if !l.Events()[0].Open() {
				t.Errorf("%q does not last", f.line)
			}
			l.record(line{at: time.Now(), text: end.line, attrs: back})
			if l.Events()[0].Open() {
				t.Errorf("%q does not end %q", end.line, f.line)
			}
		}
	}
}
