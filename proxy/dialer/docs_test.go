package dialer_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// What docs/go-clients.md shows is part of an example, so that it compiles and works.
func TestTheDocumentShowsTheExamples(t *testing.T) {
	var examples string
	for _, file := range []string{"example_test.go", "../../test/clients/go/inprocess/example_test.go"} {
		examples += unindented(read(t, file))
	}
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(read(t, "../../docs/go-clients.md"), -1)
	if len(blocks) < 4 {
		t.Errorf("the document has %d blocks of Go", len(blocks))
	}
	for _, b := range blocks {
		if !strings.Contains(examples, unindented(b[1])) {
			t.Errorf("no example has these lines:\n%s", b[1])
		}
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// unindented returns lines without what gofmt puts before them.
func unindented(s string) string {
	return regexp.MustCompile(`(?m)^[ \t]+|\r`).ReplaceAllString(s, "")
}
