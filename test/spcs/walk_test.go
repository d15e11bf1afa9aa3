package spcs

import (
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const walk = "../../docs/snowflake.md"

func readWalk(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(walk)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// The page and the folder must have the same files, in the same order.
func TestWalkUsesEachFile(t *testing.T) {
	page := readWalk(t)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var there []string
	for _, e := range entries {
		if name := e.Name(); name != ".dockerignore" && !slices.ContainsFunc(patterns(t, "../../.gitignore"), func(p string) bool { return matches(p, name) }) {
			there = append(there, name)
		}
	}
	named := regexp.MustCompile(`[0-9]{2}-[a-z-]+\.(?:sql|sh)`).FindAllString(page, -1)
	for _, file := range named {
		if !slices.Contains(there, file) {
			t.Errorf("the page names %s, which does not exist", file)
		}
	}
	for _, file := range there {
		number, _, _ := strings.Cut(file, "-")
		if !strings.Contains(page, file) && !strings.Contains(page, "`"+number+"-…`") {
			t.Errorf("the page does not say what %s is for", file)
		}
	}
	var run []string
	steps, _, found := strings.Cut(page, "\n## A try-out\n")
	if !found {
		t.Fatal("the page has no heading behind its steps: the test is out of date")
	}
	for _, m := range regexp.MustCompile(`(?m)snow sql -f (\S+?)[;\s]`).FindAllStringSubmatch(steps, -1) {
		run = append(run, m[1])
	}
	run = slices.DeleteFunc(run, func(f string) bool { return f > "7" })
	if len(run) < 8 || !slices.IsSorted(run) {
		t.Errorf("the page runs %v", run)
	}
}

// What the page adds to a volume, to begin with a snapshot, must fit into the brokers' files.
func TestWalkRestoresFromASnapshot(t *testing.T) {
	page := readWalk(t)
	_, snippet, found := strings.Cut(page, "```yaml\n    blockConfig:")
	snippet, _, closed := strings.Cut(snippet, "```")
	if !found || !closed {
		t.Fatal("the page does not say how to begin with a snapshot: the test is out of date")
	}
	for _, file := range []string{"40-kafka-plaintext.sql", "41-kafka-sasl.sql"} {
		spec, err := Decode(open(t).statements(t, file)[2].Spec + "    blockConfig:" + snippet)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		v := spec.Spec.Volumes
		if len(v) != 1 || v[0].BlockConfig == nil || v[0].BlockConfig.InitialContents.FromSnapshot == "" {
			t.Errorf("%s: volumes %+v", file, v)
		}
		if !strings.Contains(page, `VOLUME "`+v[0].Name+`" INSTANCE 0;`) || !strings.Contains(page, `RESTORE VOLUME "`+v[0].Name+`" INSTANCES 0 FROM SNAPSHOT`) {
			t.Errorf("the page does not name the volume %s", v[0].Name)
		}
	}
}

// patterns returns the patterns of an ignore file.
func patterns(t *testing.T, file string) (all []string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			all = append(all, line)
		}
	}
	return all
}

func matches(pattern, name string) bool {
	ok, err := path.Match(pattern, name)
	return ok && err == nil
}

// The secrets that the walk writes beside the files must not get into the repository or to Docker.
func TestWalkKeepsItsSecretsLocal(t *testing.T) {
	text := readWalk(t)
	c := open(t)
	for _, file := range c.files(t) {
		head, err := c.Text(file)
		if err != nil {
			t.Fatal(err)
		}
		text += head
	}
	ignored := patterns(t, "../../.gitignore")
	written := map[string]bool{}
	for _, m := range regexp.MustCompile(`\(umask 077;[^)\n]* (?:>|-out) ([\w.-]+)\)`).FindAllStringSubmatch(text, -1) {
		written[m[1]] = true
		if !slices.ContainsFunc(ignored, func(p string) bool { return matches(p, m[1]) }) {
			t.Errorf("git does not ignore %s", m[1])
		}
	}
	for _, want := range []string{"culvert.token", "snowflake.pat", "snowflake.p8"} {
		if !written[want] {
			t.Errorf("found %v and no %s: the test is out of date, or the file can be read by everybody", written, want)
		}
	}
	if got := patterns(t, filepath.Join(dir, ".dockerignore")); !slices.Equal(got, []string{"*"}) {
		t.Errorf("Docker gets the files of charts/spcs that %q does not exclude, want none", got)
	}
	allowed := []string{"!go.mod", "!go.sum", "!cmd", "!protocol", "!proxy", "!rewrite"}
	for i, p := range patterns(t, "../../.dockerignore") {
		if i == 0 && p != "*" || p[0] == '!' && !slices.Contains(allowed, p) {
			t.Errorf(".dockerignore has %s: does Docker get charts/spcs?", p)
		}
	}
}

// The flags on the page must be culvert's.
func TestWalkUsesExistingFlags(t *testing.T) {
	page := readWalk(t)
	help := ""
	for _, command := range []string{"agent", "doctor", "gateway"} {
		cmd := exec.Command("go", "run", "./cmd/culvert", command, "--help")
		cmd.Dir = "../.."
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		help += string(out)
	}
	found := 0
	for _, m := range regexp.MustCompile(`culvert (agent|doctor)[^`+"`"+`]*`).FindAllString(page, -1) {
		m, _, _ = strings.Cut(m, "\n\n")
		for _, flag := range regexp.MustCompile(`--[a-z0-9-]+`).FindAllString(m, -1) {
			found++
			if !strings.Contains(help, "  "+flag+" ") && !strings.Contains(help, "  "+flag+"\n") {
				t.Errorf("the page has %s, which is not a flag", flag)
			}
		}
	}
	if found < 12 {
		t.Errorf("found only %d flags", found)
	}
}

// The messages that the page quotes must be in culvert's code.
func TestWalkQuotesCulvertsMessages(t *testing.T) {
	_, table, found := strings.Cut(readWalk(t), "| sentence | step |")
	if !found {
		t.Fatal("the page has no table of messages")
	}
	table, _, _ = strings.Cut(table, "\n\n")
	code := source(t)
	notOurs := []string{"lookup", "no such host", "dial broker at kafka-1:9092:"}
	sentences := 0
	for row := range strings.Lines(table) {
		for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(strings.Split(row+"||", "|")[1], -1) {
			for part := range strings.SplitSeq(strings.TrimPrefix(m[1], "the Snowflake ingress "), "…") {
				part = strings.TrimSpace(part)
				// One message is composed of two.
				for half := range strings.SplitSeq(part, " the programmatic access token") {
					if half = strings.TrimSpace(half); half == "" || slices.Contains(notOurs, half) {
						continue
					}
					sentences++
					if !strings.Contains(code, half) {
						t.Errorf("the page quotes %q, which is not in the code", half)
					}
				}
			}
		}
	}
	if sentences < 9 {
		t.Errorf("found only %d messages", sentences)
	}
}

// joint matches the join of a string that continues in the next line.
var joint = regexp.MustCompile(`" \+\n\s*"`)

// source returns the product's code.
func source(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, root := range []string{"../../proxy", "../../cmd"} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
				return err
			}
			b, err := os.ReadFile(path)
			all.Write(b)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return joint.ReplaceAllString(all.String(), "")
}
