package test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/culvert-proxy/culvert/"

// mayImport is the table of docs/architecture.md: which of our packages each package may import,
// and which of the dependencies that shape a package. Everything else is forbidden. Test files are
// exempt.
var mayImport = map[string]struct {
	ours   []string
	others []string // prefixes, beyond the standard library
	never  []string // of the standard library
}{
	"protocol":                       {others: []string{"github.com/twmb/franz-go/pkg/kmsg"}, never: []string{"net", "os", "sync/atomic", "time", "log", "context"}},
	"rewrite":                        {ours: []string{"protocol"}, never: []string{"net", "os", "sync", "time", "log", "context"}},
	"proxy/internal/backoff":         {never: []string{"net", "os", "log", "context"}},
	"proxy/hints":                    {never: []string{"net", "os", "sync", "time", "log", "context"}},
	"proxy/remedies":                 {never: []string{"log", "sync"}},
	"proxy/printable":                {never: []string{"net", "os", "sync", "time", "log", "context"}},
	"proxy/tunnel/internal/exchange": {others: []string{"github.com/quic-go/", "github.com/gobwas/ws", "golang.org/x/"}},
	"proxy/tunnel/internal/race":     {ours: []string{"proxy/tunnel/internal/exchange"}, others: []string{"github.com/quic-go/"}},
	"proxy/internal/happyeyeballs":   {never: []string{"net", "os"}},
	"proxy/tunnel":                   {ours: []string{"proxy/internal/happyeyeballs", "proxy/tunnel/internal/exchange", "proxy/tunnel/internal/race"}, others: []string{"github.com/quic-go/", "github.com/gobwas/ws", "github.com/pires/go-proxyproto", "golang.org/x/"}},
	"proxy/credentials":              {ours: []string{"proxy/tunnel"}},
	"proxy/audit":                    {ours: []string{"proxy/credentials"}},
	"proxy/metrics":                  {ours: []string{"protocol", "proxy/tunnel", "proxy/status/document"}, others: []string{"github.com/prometheus/"}},
	"proxy/status/document":          {never: []string{"net", "os", "sync", "log", "context"}},
	"proxy/status/events":            {ours: []string{"proxy/status/document"}, never: []string{"net", "os"}},
	"proxy/status/terminal":          {ours: []string{"proxy/status/document"}, others: []string{"golang.org/x/text/width"}, never: []string{"net", "os", "sync", "log", "context"}},
	"proxy/status":                   {ours: []string{"proxy/status/document"}, others: []string{"github.com/prometheus/", "golang.org/x/net/"}},
	"proxy/clientconfig":             {ours: []string{"proxy/credentials"}, others: []string{"github.com/twmb/franz-go/pkg/sasl", "software.sslmate.com/src/go-pkcs12"}},
	"proxy/doctor":                   {ours: []string{"proxy", "proxy/clientconfig", "proxy/tunnel"}, others: []string{"github.com/twmb/franz-go/pkg/kmsg", "github.com/twmb/franz-go/pkg/kerr", "github.com/twmb/franz-go/pkg/kgo"}},
	"proxy/dialer":                   {ours: []string{"proxy", "proxy/credentials", "proxy/snowflake", "proxy/tunnel"}},
	"proxy/fakekafka":                {others: []string{"github.com/twmb/franz-go/pkg/kfake"}},
	"proxy/internal/memnet":          {},
	"proxy/internal/testca":          {},
	"proxy/internal/testlog":         {},
	"proxy/snowflake":                {ours: []string{"proxy/credentials", "proxy/tunnel"}, others: []string{"github.com/golang-jwt/jwt/v5"}},
	"proxy/snowflake/standin":        {others: []string{"github.com/golang-jwt/jwt/v5"}},
	"proxy": {
		ours:   []string{"protocol", "rewrite", "proxy/audit", "proxy/credentials", "proxy/internal/happyeyeballs", "proxy/tunnel", "proxy/metrics", "proxy/status/document"},
		others: []string{"github.com/twmb/franz-go/pkg/kmsg", "golang.org/x/"},
	},
}

// leaves are packages that import none of ours but each other, and that every package in proxy may
// import.
var leaves = []string{"proxy/internal/backoff", "proxy/hints", "proxy/printable", "proxy/remedies"}

func TestImportsPointOneWay(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}}:{{join .Imports " "}}`, "../...").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		path, imports, _ := strings.Cut(strings.TrimSpace(line), ":")
		name := strings.TrimPrefix(path, module)
		if strings.HasPrefix(name, "cmd/") || strings.HasPrefix(name, "test") {
			continue // may import everything, and nothing imports them: see below
		}
		table, listed := mayImport[name]
		if !listed {
			t.Errorf("package %s is missing in the table of allowed imports", name)
			continue
		}
		for imp := range strings.FieldsSeq(imports) {
			ours, isOurs := strings.CutPrefix(imp, module)
			switch {
			case isOurs && strings.HasPrefix(name, "proxy") && slices.Contains(leaves, ours):
			case isOurs && !slices.Contains(table.ours, ours):
				t.Errorf("%s imports %s", name, ours)
			case !isOurs && strings.Contains(imp, ".") && !slices.ContainsFunc(table.others, func(p string) bool { return strings.HasPrefix(imp, p) }):
				t.Errorf("%s imports %s", name, imp)
			case slices.Contains(table.never, imp):
				t.Errorf("%s imports %s", name, imp)
			}
		}
	}
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", "{{.Dir}}\t{{join .GoFiles \" \"}}", "../...").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		dir, files, _ := strings.Cut(strings.TrimSpace(line), "\t")
		documented := files == ""
		for file := range strings.FieldsSeq(files) {
			f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(dir, file), nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			documented = documented || f.Doc != nil
		}
		if !documented {
			t.Errorf("package %s has no comment", filepath.Base(dir))
		}
	}
}

// A program that embeds these packages has no flags. Only cmd knows how a user writes a setting.
func TestOnlyCmdNamesFlags(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", "{{.ImportPath}}\t{{.Dir}}\t{{join .GoFiles \" \"}}", "../...").Output()
	if err != nil {
		t.Fatal(err)
	}
	flag := regexp.MustCompile(`(?:^|[^-\w])--[a-z]`)
	for line := range strings.Lines(string(out)) {
		fields := strings.Split(strings.TrimSpace(line), "\t")
		name := strings.TrimPrefix(fields[0], module)
		if strings.HasPrefix(name, "cmd/") || strings.HasPrefix(name, "test") || len(fields) < 3 {
			continue
		}
		for file := range strings.FieldsSeq(fields[2]) {
			f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(fields[1], file), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(f, func(n ast.Node) bool {
				if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING && flag.MatchString(lit.Value) {
					t.Errorf("%s, %s names a flag: %s", name, file, lit.Value)
				}
				return true
			})
		}
	}
}
