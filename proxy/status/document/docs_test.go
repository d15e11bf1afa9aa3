package document_test

import (
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/culvert-proxy/culvert/proxy/status/document"
)

// page is docs/status.md.
func page(t *testing.T) string {
	t.Helper()
	content, err := os.ReadFile("../../../docs/status.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

var (
	heading = regexp.MustCompile("(?m)^##+ (.*)$")
	row     = regexp.MustCompile("(?m)^\\| `(\\w+)` \\| ([^|]*) \\| ([^|]*) \\| ([^|]+) \\|$")
)

// documented returns the rows of the page's tables, by heading: field, type, and whether it may be
// missing.
func documented(t *testing.T) map[string][]string {
	t.Helper()
	text, found := page(t), map[string][]string{}
	at := heading.FindAllStringSubmatchIndex(text, -1)
	for i, h := range at {
		end := len(text)
		if i+1 < len(at) {
			end = at[i+1][0]
		}
		for _, r := range row.FindAllStringSubmatch(text[h[1]:end], -1) {
			name := text[h[2]:h[3]]
			found[name] = append(found[name], strings.Join([]string{r[1], r[2], r[3]}, ", "))
		}
	}
	return found
}

// schema adds the rows that the page should have for a type, and for those in it.
func schema(of reflect.Type, title string, rows map[string][]string) {
	rows[title] = nil
	for f := range of.Fields() {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		missing := ""
		if options != "" {
			missing = "may be missing"
		}
		text, inner := typeOf(f.Type, name)
		rows[title] = append(rows[title], strings.Join([]string{name, text, missing}, ", "))
		if inner == nil {
			continue
		}
		if _, done := rows[strings.ToLower(inner.Name())]; !done {
			schema(inner, strings.ToLower(inner.Name()), rows)
		}
	}
}

// typeOf returns how the page writes a type, and the struct in it.
func typeOf(of reflect.Type, name string) (text string, inner reflect.Type) {
	switch {
	case of == reflect.TypeFor[time.Time]():
		return "time", nil
	case of.Kind() == reflect.Slice:
		text, inner = typeOf(of.Elem(), name)
		return "list of " + text, inner
	case of.Kind() == reflect.Pointer:
		return typeOf(of.Elem(), name)
	case of.Kind() == reflect.Struct:
		link := strings.ToLower(of.Name())
		return fmt.Sprintf("[%s](#%[1]s)", link), of
	case of.Kind() == reflect.Float64 && strings.HasSuffix(name, "_seconds"):
		return "seconds", nil
	}
	return map[reflect.Kind]string{
		reflect.String: "text", reflect.Bool: "boolean", reflect.Float64: "number",
		reflect.Int: "integer", reflect.Int32: "integer", reflect.Uint64: "integer",
	}[of.Kind()], nil
}

func TestThePageDescribesEveryField(t *testing.T) {
	want := map[string][]string{}
	schema(reflect.TypeFor[document.Document](), "The document", want)
	if diff := cmp.Diff(want, documented(t)); diff != "" {
		t.Errorf("docs/status.md and package document differ (-package +page):\n%s", diff)
	}
}

// The bounds of lists are on the page.
func TestThePageSaysWhatIsBounded(t *testing.T) {
	for field, bound := range map[string]int{"nodes": document.MaxNodes, "events": document.MaxEvents, "history": document.MaxHistory} {
		line := regexp.MustCompile("(?m)^\\| `" + field + "` .*up to " + fmt.Sprint(bound) + "\\.").FindString(page(t))
		if line == "" {
			t.Errorf("docs/status.md does not say that %s has up to %d", field, bound)
		}
	}
	if !strings.Contains(page(t), fmt.Sprintf("at most %d MiB", document.MaxBytes>>20)) {
		t.Error("docs/status.md does not say how large a document may be")
	}
}

func TestTheExamplesAreDocuments(t *testing.T) {
	ends := map[string]bool{}
	for _, example := range regexp.MustCompile("(?s)```json\n(\\{\n  \"version\".*?)\n```").FindAllStringSubmatch(page(t), -1) {
		dec := json.NewDecoder(strings.NewReader(example[1]))
		dec.DisallowUnknownFields()
		var d document.Document
		if err := dec.Decode(&d); err != nil || d.Version != document.Version {
			t.Errorf("an example of version %d: %v", d.Version, err)
		}
		ends[d.End] = true
	}
	if !ends[document.Agent] || !ends[document.Gateway] {
		t.Errorf("examples of %v, want one of each end", ends)
	}
}
