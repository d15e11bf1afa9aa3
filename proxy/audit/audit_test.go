package audit

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// full is a record with every field, as large and as hostile as a peer can make it.
func full() Record {
	node, hostile := int32(2147483647), strings.Repeat("\"\\\n\x1b[31m\u202e\xff", 4000)
	return Record{
		Time: time.Now(), Event: StreamEnded,
		Peer:    Peer{Identity: hostile, User: hostile, ClientAddr: hostile, ProxyAddr: hostile, ForwardedFor: hostile, Transport: hostile},
		Target:  Target{Kind: Forward, Target: hostile, NodeID: &node, Address: hostile},
		Passage: &Passage{Opened: time.Now(), Duration: Seconds(90061001 * time.Millisecond), FromClient: 1 << 62, ToClient: 1 << 62},
		Cause:   hostile, Error: hostile, Omitted: 1 << 40,
	}
}

func TestALineIsOneBoundedPrintableLineOfJSON(t *testing.T) {
	line := full().line()
	if len(line) > maxLine {
		t.Errorf("a line has %d bytes, more than %d", len(line), maxLine)
	}
	body, ends := bytes.CutSuffix(line, []byte("\n"))
	if !ends || bytes.ContainsAny(body, "\n\r\x1b\u202e") || !utf8.Valid(body) {
		t.Errorf("not one printable line: %q", line)
	}
	var fields map[string]any
	if err := json.Unmarshal(line, &fields); err != nil {
		t.Fatal(err)
	}
	if got := fields["duration_seconds"]; got != 90061.001 {
		t.Errorf("duration_seconds is %v, want 90061.001", got)
	}
}

// The schema in docs/audit.md has each field, and no other, and each event with the fields it has.
func TestFieldsAreDocumented(t *testing.T) {
	content, err := os.ReadFile("../../docs/audit.md")
	if err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| (string|number|integer) \\|")
	documented := map[string]string{}
	for _, m := range row.FindAllStringSubmatch(string(content), -1) {
		documented[m[1]] = m[2]
	}
	fields := map[string]string{}
	var walk func(reflect.Type)
	walk = func(r reflect.Type) {
		for f := range r.Fields() {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			switch typ := f.Type; {
			case f.Anonymous && typ.Kind() == reflect.Pointer:
				walk(typ.Elem())
			case f.Anonymous:
				walk(typ)
			case typ == reflect.TypeFor[Seconds]():
				fields[name] = "number"
			case typ == reflect.TypeFor[time.Time](), typ.Kind() == reflect.String:
				fields[name] = "string"
			default:
				fields[name] = "integer"
			}
		}
	}
	walk(reflect.TypeFor[Record]())
	if !maps.Equal(fields, documented) {
		t.Errorf("docs/audit.md has the fields %v, a record has %v", documented, fields)
	}
	for _, e := range []Event{StreamEnded, StreamRefused, LoginRefused, ConnectionRefused} {
		if !bytes.Contains(content, []byte("| `"+string(e)+"` |")) {
			t.Errorf("docs/audit.md has no row for the event %s", e)
		}
	}
}

// Every example in docs/audit.md is a line that this package could have written.
func TestExamplesAreRecords(t *testing.T) {
	content, err := os.ReadFile("../../docs/audit.md")
	if err != nil {
		t.Fatal(err)
	}
	examples := regexp.MustCompile(`(?m)^\{"time".*\}$`).FindAll(content, -1)
	if len(examples) < 3 {
		t.Fatalf("docs/audit.md has %d examples", len(examples))
	}
	for _, example := range examples {
		var r Record
		if !bytes.Contains(example, []byte(`"duration_seconds"`)) {
			r.Passage = nil
		}
		d := json.NewDecoder(bytes.NewReader(example))
		d.DisallowUnknownFields()
		if err := d.Decode(&r); err != nil {
			t.Errorf("%v in %s", err, example)
		} else if got := bytes.TrimSpace(r.line()); !bytes.Equal(got, example) {
			t.Errorf("the example\n%s\nwould be written as\n%s", example, got)
		}
	}
}

// UnmarshalJSON is only for the examples.
func (s *Seconds) UnmarshalJSON(b []byte) error {
	var f float64
	err := json.Unmarshal(b, &f)
	*s = Seconds(time.Duration(f * float64(time.Second)))
	return err
}

// The bounds of what is cheap to cause are those that docs/audit.md says.
func TestRatesAreDocumented(t *testing.T) {
	content, err := os.ReadFile("../../docs/audit.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, event := range slices.Sorted(maps.Keys(rates)) {
		row := regexp.MustCompile("(?m)^\\| `" + string(event) + "` \\|.*\\| (\\d+) \\|$").FindSubmatch(content)
		if row == nil || string(row[1]) != json.Number(strings.TrimSuffix(jsonOf(rates[event]), ".0")).String() {
			t.Errorf("docs/audit.md does not say that %s is written %v times a second at most: %s", event, rates[event], row)
		}
	}
}

func jsonOf(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}
