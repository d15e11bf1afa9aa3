package rewrite

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/culvert-proxy/culvert/protocol"
	"github.com/google/go-cmp/cmp"
)

// documentedAs returns the versions, and the beginning of what it names, that docs/compatibility.md
// has to say of a row.
func documentedAs(row api) string {
	versions := fmt.Sprintf("%d–%d", row.since, row.newest)
	if row.since == row.newest {
		versions = fmt.Sprint(row.since)
	}
	return versions + " | " + map[Named]string{
		EveryNode: "all brokers", SomeNodes: "some brokers", Leaders: "the leaders", Controllers: "the **controllers**",
	}[row.names]
}

// section is the part of a document from a heading to the next of its level.
func section(document, heading string) string {
	_, rest, _ := strings.Cut(document, "\n"+heading+"\n")
	part, _, _ := strings.Cut(rest, "\n### ")
	return part
}

func TestTheDocumentListsEachRowAndNoOther(t *testing.T) {
	document, err := os.ReadFile("../docs/compatibility.md")
	if err != nil {
		t.Fatal(err)
	}
	got, want := map[string]string{}, map[string]string{}
	line := regexp.MustCompile(`(?m)^\| (\d+ \w+) \| ([^|]+ \| [^|]+) \|`)
	for _, m := range line.FindAllStringSubmatch(section(string(document), "### Rewritten"), -1) {
		got[m[1]] = m[2]
	}
	line = regexp.MustCompile(`(?m)^\| (\d+ \w+) \| [^|]+ \| ([^|]+) \|`)
	for _, m := range line.FindAllStringSubmatch(section(string(document), "### With a host, a port or an endpoint, and not rewritten"), -1) {
		got[m[1]] = m[2]
	}
	for key := range protocol.MaxKey + 1 {
		name := fmt.Sprintf("%d %s", key, key)
		row, reason := rowOf(key), excused[key]
		switch {
		case row.how != nil:
			want[name] = documentedAs(row)
			if strings.HasPrefix(got[name], want[name]) {
				got[name] = want[name] // behind it are its own words
			}
		case row.names != Nobody:
			want[name] = "not relayed"
		case reason != "":
			want[name] = "passed"
		}
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("docs/compatibility.md - rows +\n%s", diff)
	}
}

func TestEachRowHasAGoldenFrame(t *testing.T) {
	rewritten := map[protocol.APIKey]int{}
	for _, file := range goldenFiles(t) {
		g := readGolden(t, file)
		if NamedBy(g.key, g.version) == Nobody {
			t.Errorf("%s: %s v%d has no row", file, g.key, g.version)
		}
		_, res, err := relay(&Rewriter{Directory: g.directory()}, g.key, g.version, g.broker)
		if err != nil {
			t.Fatal(err)
		}
		rewritten[g.key] += res.Rewritten
	}
	for key, row := range apis {
		if row.how != nil && rewritten[protocol.APIKey(key)] == 0 {
			t.Errorf("no golden frame of %s has an address that is rewritten", protocol.APIKey(key))
		}
	}
}

// A gateway gives tickets by what a row names, and reads the response by its walk.
func TestEachRowIsRelayedByWhatItNames(t *testing.T) {
	for key, row := range apis {
		want := ""
		switch {
		case row.how == nil:
		case row.names.Nodes():
			want = "rewrite.learnt"
		case row.names == Leaders:
			want = "rewrite.held"
			if isStreamed(protocol.APIKey(key)) {
				want = "rewrite.streamed"
			}
		case row.names == Controllers:
			want = "rewrite.hidden"
		default:
			t.Errorf("%s is relayed, and names nobody", protocol.APIKey(key))
			continue
		}
		if got := strings.TrimPrefix(fmt.Sprintf("%T", row.how), "<nil>"); got != want {
			t.Errorf("%s is relayed as %s, want %q", protocol.APIKey(key), got, want)
		}
	}
}

// Below the version from which on a response names anybody it passes as it is.
func TestNamedBy(t *testing.T) {
	for _, tt := range []struct {
		key     protocol.APIKey
		version int16
		want    Named
		touched bool
	}{
		{protocol.Produce, 9, Nobody, false}, {protocol.Produce, 10, Leaders, true}, {protocol.Produce, -1, Leaders, true},
		{protocol.Metadata, 0, EveryNode, true}, {protocol.Metadata, 99, EveryNode, true}, {protocol.Metadata, -1, EveryNode, true},
		{protocol.FindCoordinator, 6, SomeNodes, true},
		{protocol.DescribeQuorum, 1, Nobody, false}, {protocol.DescribeQuorum, 2, Controllers, true},
		{52, 0, Nobody, false}, {52, 1, Controllers, false},
		{protocol.APIVersions, 0, Nobody, true}, {12, 0, Nobody, false}, {protocol.MaxKey + 1, 0, Nobody, false}, {-1, 0, Nobody, false},
	} {
		if got, is := NamedBy(tt.key, tt.version), Touches(tt.key, tt.version); got != tt.want || is != tt.touched {
			t.Errorf("%s v%d names %d, touched %t, want %d, %t", tt.key, tt.version, got, is, tt.want, tt.touched)
		}
	}
}
