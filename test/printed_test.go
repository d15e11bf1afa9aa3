package test

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// printedList lists every call in this program that writes a log line, a line on a terminal or an
// HTTP answer. Each entry is a package, a function, its callee, and the verbs and attribute keys.
// The heading above it says why nothing from an untrusted peer is printed raw there.
const printedList = "testdata/printed.txt"

// TestEveryLineThatIsPrintedIsAccountedFor fails when a call is new or gone. To add one, check that
// it prints nothing raw (see package printable), and put the line that the test shows under the
// reason that applies.
func TestEveryLineThatIsPrintedIsAccountedFor(t *testing.T) {
	listed := readPrinted(t)
	found := map[string]bool{}
	for _, p := range ourPackages(t) {
		for _, f := range p.files {
			for _, line := range p.printed(f) {
				found[line] = true
			}
		}
	}
	for _, line := range slices.Sorted(maps.Keys(found)) {
		if !listed[line] {
			t.Errorf("missing in the list of printed lines; why is it safe?\n%s", line)
		}
	}
	for _, line := range slices.Sorted(maps.Keys(listed)) {
		if !found[line] {
			t.Errorf("%s lists a line that is gone:\n%s", printedList, line)
		}
	}
}

func readPrinted(t *testing.T) map[string]bool {
	t.Helper()
	content, err := os.ReadFile(printedList)
	if err != nil {
		t.Fatal(err)
	}
	listed, reason := map[string]bool{}, false
	for line := range strings.Lines(string(content)) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "#"):
			reason = true
		case line == "":
			reason = false
		case !reason || listed[line]:
			t.Errorf("%s: without a reason, or listed twice: %s", printedList, line)
		default:
			listed[line] = true
		}
	}
	return listed
}

// ourPackage is a package of the binary, with its types.
type ourPackage struct {
	name  string // without the module's
	files []*ast.File
	info  types.Info
}

// ourPackages reads the packages of cmd/culvert. The types of what they import come from the
// compiler's cache.
func ourPackages(t *testing.T) (all []*ourPackage) {
	t.Helper()
	cmd := exec.Command("go", "list", "-export", "-deps", "-json=ImportPath,Dir,GoFiles,Export", "../cmd/culvert")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	type listed struct {
		ImportPath, Dir, Export string
		GoFiles                 []string
	}
	exports := map[string]string{}
	var ours []listed
	for d := json.NewDecoder(bytes.NewReader(out)); d.More(); {
		var p listed
		if err := d.Decode(&p); err != nil {
			t.Fatal(err)
		}
		exports[p.ImportPath] = p.Export
		if strings.HasPrefix(p.ImportPath, module) {
			ours = append(ours, p)
		}
	}
	fset := token.NewFileSet()
	imports := importer.ForCompiler(fset, "gc", func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) })
	for _, l := range ours {
		p := &ourPackage{name: strings.TrimPrefix(l.ImportPath, module), info: types.Info{
			Types: map[ast.Expr]types.TypeAndValue{}, Uses: map[*ast.Ident]types.Object{}, Selections: map[*ast.SelectorExpr]*types.Selection{},
		}}
		for _, name := range l.GoFiles {
			f, err := parser.ParseFile(fset, filepath.Join(l.Dir, name), nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			p.files = append(p.files, f)
		}
		if _, err := (&types.Config{Importer: imports}).Check(l.ImportPath, fset, p.files, &p.info); err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	return all
}

// printed returns the entries of a file.
func (p *ourPackage) printed(f *ast.File) (lines []string) {
	for _, d := range f.Decls {
		where := "var"
		if fn, ok := d.(*ast.FuncDecl); ok {
			where = fn.Name.Name
			if fn.Recv != nil {
				where = types.ExprString(fn.Recv.List[0].Type) + "." + where
			}
		}
		ast.Inspect(d, func(n ast.Node) bool {
			if what := p.prints(n); what != "" {
				lines = append(lines, p.name+" "+where+" "+what)
			}
			return true
		})
	}
	return lines
}

// prints returns what n prints, or "".
func (p *ourPackage) prints(n ast.Node) string {
	switch n := n.(type) {
	case *ast.CompositeLit: // a doctor's finding, or a message through the tunnel
		for _, name := range []string{"proxy/doctor.Finding", "proxy/tunnel/internal/exchange.Error"} {
			if types.Unalias(p.info.Types[n].Type).String() == module+name {
				return name[strings.LastIndex(name, "/")+1:] + p.texts(n.Elts)
			}
		}
	case *ast.CallExpr:
		callee := p.callee(n)
		if callee == "" || ownBuffer(p, n) {
			return ""
		}
		return callee + p.texts(n.Args)
	}
	return ""
}

// printers are the functions that write something for people to read, or format it.
var printers = map[string]bool{
	"fmt.Print": true, "fmt.Printf": true, "fmt.Println": true, "fmt.Fprint": true, "fmt.Fprintf": true, "fmt.Fprintln": true,
	"io.WriteString": true, "print": true, "println": true, "net/http.Error": true,
	"(net/http.ResponseWriter).Write": true, "(*encoding/json.Encoder).Encode": true, "(*os.File).Write": true, "(io.Writer).Write": true, "(*os.File).WriteString": true,
	"log/slog.NewTextHandler": true, "log/slog.NewJSONHandler": true, "log/slog.NewLogLogger": true,
	"(*log/slog.Logger).Debug": true, "(*log/slog.Logger).Info": true, "(*log/slog.Logger).Warn": true, "(*log/slog.Logger).Error": true,
	"(*log/slog.Logger).Log": true, "(*log/slog.Logger).LogAttrs": true, "(*log/slog.Logger).With": true,
	"(*" + module + "proxy.logLimiter).warn": true,
	module + "proxy/doctor.ok":               true, module + "proxy/tunnel.refuse": true, module + "proxy/tunnel/internal/exchange.ProtocolError": true, module + "proxy/status.text": true,
}

// callee returns the name of a printer that is called, or of any function of package log, which
// should be unused.
func (p *ourPackage) callee(call *ast.CallExpr) string {
	var id *ast.Ident
	switch f := call.Fun.(type) {
	case *ast.Ident:
		id = f
	case *ast.SelectorExpr:
		id = f.Sel
	default:
		return ""
	}
	name := id.Name
	if f, ok := p.info.Uses[id].(*types.Func); ok {
		name = f.FullName()
	} else if _, ok := p.info.Uses[id].(*types.Builtin); !ok {
		return ""
	}
	if !printers[name] && !strings.HasPrefix(name, "log.") {
		return ""
	}
	if strings.HasPrefix(name, "(*log/slog.Logger).") || strings.HasSuffix(name, "proxy.logLimiter).warn") {
		return "log"
	}
	return strings.NewReplacer(module+"proxy/tunnel/internal/", "", module+"proxy/internal/", "", module+"proxy/tunnel/", "", module+"proxy/", "", "log/slog", "slog", "net/http", "http", "encoding/", "", "*", "").Replace(name)
}

// ownBuffer reports whether a call writes into memory, or a hash.
func ownBuffer(p *ourPackage, call *ast.CallExpr) bool {
	if len(call.Args) == 0 {
		return false
	}
	switch p.info.Types[call.Args[0]].Type.String() {
	case "*strings.Builder", "*bytes.Buffer", "hash.Hash":
		return true
	}
	return false
}

// told matches the parts of a text that decide which values it contains: the verbs of a format, and
// attribute keys. The other words may change.
var told = regexp.MustCompile(`%[-+#0 *.\d]*[a-zA-Z]|^[a-z][a-z_]*$`)

// texts returns the matches of told in the string constants among some expressions.
func (p *ourPackage) texts(list []ast.Expr) string {
	var b strings.Builder
	for _, e := range list {
		ast.Inspect(e, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				s, _ := strconv.Unquote(lit.Value)
				for _, found := range told.FindAllString(s, -1) {
					b.WriteString(" " + found)
				}
			}
			_, isFunc := n.(*ast.FuncLit)
			return !isFunc
		})
	}
	return b.String()
}
