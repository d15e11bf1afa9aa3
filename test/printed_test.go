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

// printedList says of every place where this program writes a log line, a line on a terminal or an
// answer in HTTP why nothing that a stranger said gets there as it came. A line of it is a package,
// a function, what it calls, and the verbs and attribute keys in that; the heading above is the
// reason.
const printedList = "testdata/printed.txt"

// TestEveryLineThatIsPrintedIsAccountedFor fails where a place is new, or gone. Who adds one writes
// the line that the test shows below the reason that fits, after making sure that it does: see
// package printable.
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
			t.Errorf("in no list of what is printed; why is it safe?\n%s", line)
		}
	}
	for _, line := range slices.Sorted(maps.Keys(listed)) {
		if !found[line] {
			t.Errorf("%s lists what is there no more:\n%s", printedList, line)
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
			t.Errorf("%s: below no reason, or there twice: %s", printedList, line)
		default:
			listed[line] = true
		}
	}
	return listed
}

// ourPackage is one that goes into the binary, with its types.
type ourPackage struct {
	name  string // without the module's
	files []*ast.File
	info  types.Info
}

// ourPackages reads the packages that cmd/culvert is made of. Types of what they import come from
// the compiler's cache.
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

// printed are the places of a file.
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

// prints says what n prints, if it does.
func (p *ourPackage) prints(n ast.Node) string {
	switch n := n.(type) {
	case *ast.CompositeLit: // what a doctor has found, or one end of the tunnel tells the other
		for _, name := range []string{"proxy/doctor.Finding", "proxy/tunnel/exchange.Error"} {
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

// printers are the functions that write something for somebody to read, or make what does.
var printers = map[string]bool{
	"fmt.Print": true, "fmt.Printf": true, "fmt.Println": true, "fmt.Fprint": true, "fmt.Fprintf": true, "fmt.Fprintln": true,
	"io.WriteString": true, "print": true, "println": true, "net/http.Error": true,
	"(net/http.ResponseWriter).Write": true, "(*encoding/json.Encoder).Encode": true, "(*os.File).Write": true, "(io.Writer).Write": true, "(*os.File).WriteString": true,
	"log/slog.NewTextHandler": true, "log/slog.NewJSONHandler": true, "log/slog.NewLogLogger": true,
	"(*log/slog.Logger).Debug": true, "(*log/slog.Logger).Info": true, "(*log/slog.Logger).Warn": true, "(*log/slog.Logger).Error": true,
	"(*log/slog.Logger).Log": true, "(*log/slog.Logger).LogAttrs": true, "(*log/slog.Logger).With": true,
	"(*" + module + "proxy.logLimiter).warn": true,
	module + "proxy/doctor.ok":               true, module + "proxy/tunnel.refuse": true, module + "proxy/tunnel/exchange.ProtocolError": true, module + "proxy/status.text": true,
}

// callee is the name of a printer that is called, or of any function of package log, which nobody
// should need.
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
	return strings.NewReplacer(module+"proxy/tunnel/", "", module+"proxy/", "", "log/slog", "slog", "net/http", "http", "encoding/", "", "*", "").Replace(name)
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

// told is what of a text decides who may speak in it: the verbs of a format, and the keys of
// attributes. Wording may change.
var told = regexp.MustCompile(`%[-+#0 *.\d]*[a-zA-Z]|^[a-z][a-z_]*$`)

// texts are those of the string constants among some expressions, as told.
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
