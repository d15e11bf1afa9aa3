package protocol

import (
	"math"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
)

// TestEveryErrorOfKafkaHasAClass compares the table with the codes that franz-go knows. Whoever
// updates franz-go then chooses the class of each new code.
func TestEveryErrorOfKafkaHasAClass(t *testing.T) {
	source, err := os.ReadFile("errorclass.go")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[int16]string{}
	for _, row := range regexp.MustCompile(`(?m)^\t(\d+): +Class\w+, +// (\w+)$`).FindAllStringSubmatch(string(source), -1) {
		code, _ := strconv.Atoi(row[1])
		listed[int16(code)] = row[2]
	}
	for code := range int16(math.MaxInt16) {
		known := kerr.TypedErrorForCode(code + 1)
		if known != nil && known.Code == code+1 && listed[code+1] != known.Message {
			t.Errorf("error %d is %s, and listed as %q", code+1, known.Message, listed[code+1])
		}
	}
	if len(listed) != len(errorClasses)-1 {
		t.Errorf("%d errors are listed, and the highest is %d", len(listed), len(errorClasses)-1)
	}
}

func TestClassesOfErrors(t *testing.T) {
	for code, want := range map[int16]string{
		-1: "broker", 6: "metadata", 3: "topic", 29: "authorization", 58: "authentication", 89: "quota", 27: "group", 90: "transaction",
		10: "record", 1: "offset", 16: "coordinator", 35: "version", 42: "request", 7: "broker",
		-2: "other", math.MinInt16: "other", math.MaxInt16: "other", int16(len(errorClasses)): "other",
	} {
		if got := classOf(code).String(); got != want {
			t.Errorf("error %d: %s, want %s", code, got, want)
		}
	}
	for code := range int16(200) {
		if e := kerr.TypedErrorForCode(code); e != nil && strings.HasSuffix(e.Message, "AUTHORIZATION_FAILED") && classOf(code) != ClassAuthorization {
			t.Errorf("%s is of class %s", e.Message, classOf(code))
		}
	}
}

func TestAResponseHasEachClassOnce(t *testing.T) {
	var s ErrorClasses
	for _, code := range []int16{0, 6, 0, 74, 29, 29} {
		s.Add(code)
	}
	for c := range NumErrorClasses {
		if want := c == ClassMetadata || c == ClassAuthorization; s.Has(c) != want {
			t.Errorf("has %s: %v", c, !want)
		}
	}
	s = 0
	s.Add(0)
	s.Add(memberIDRequired)
	if s != 0 {
		t.Errorf("without an error: %b", s)
	}
}

func TestClassesFitIntoTheirSet(t *testing.T) {
	if NumErrorClasses > 14 {
		t.Errorf("%d classes: an operator wants to see 14 at most, and a set holds 16", NumErrorClasses)
	}
}
