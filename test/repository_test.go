package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// maxFile is the size limit of a file in the repository. Everybody who installs the module
// downloads all files.
const maxFile = 256 << 10

// TestNoUnwantedFilesAreCommitted finds files that a test has left behind: large ones, and names
// from a wrong format string.
func TestNoUnwantedFilesAreCommitted(t *testing.T) {
	out, err := exec.Command("git", "ls-files", "-z", "--full-name", ":/").Output()
	if err != nil {
		t.Skipf("not a checkout: git ls-files: %v", err)
	}
	root, err := exec.Command("git", "rev-parse", "--show-toplevel").Output()
	if err != nil {
		t.Fatal(err)
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		if strings.Contains(name, "%!") {
			t.Errorf("%s: bad file name", name)
		}
		info, err := os.Stat(filepath.Join(strings.TrimSpace(string(root)), name))
		if err == nil && info.Size() > maxFile {
			t.Errorf("%s has %d bytes, want %d at most", name, info.Size(), maxFile)
		}
	}
}

// TestArchitectureListsEveryTestFile compares docs/architecture.md with the files and folders of
// test/.
func TestArchitectureListsEveryTestFile(t *testing.T) {
	page, err := os.ReadFile("../docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	part := section(string(page), "## The tests")
	listed := map[string]bool{}
	for _, m := range regexp.MustCompile("`([a-z_0-9]+(_test\\.go)?)`").FindAllStringSubmatch(part, -1) {
		listed[m[1]] = true
	}
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	for _, e := range entries {
		there[e.Name()] = true
		if !listed[e.Name()] && e.Name() != "testdata" {
			t.Errorf("docs/architecture.md does not say what test/%s is for", e.Name())
		}
	}
	for name := range listed {
		if strings.HasSuffix(name, "_test.go") && !there[name] {
			t.Errorf("docs/architecture.md names test/%s, which does not exist", name)
		}
	}
}

// mappedFiles are the packages whose files docs/architecture.md lists one by one.
var mappedFiles = []string{
	"cmd/culvert", "protocol", "rewrite", "proxy",
	"proxy/tunnel", "proxy/tunnel/internal/exchange", "proxy/tunnel/internal/race",
}

// TestArchitectureListsEveryPackage compares docs/architecture.md with the packages and the files
// of those in mappedFiles.
func TestArchitectureListsEveryPackage(t *testing.T) {
	page, err := os.ReadFile("../docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	overview, lists, _ := strings.Cut(section(string(page), "## Packages"), "\n### ")
	out, err := exec.Command("go", "list", "../...").Output()
	if err != nil {
		t.Fatal(err)
	}
	for path := range strings.FieldsSeq(string(out)) {
		name := strings.TrimPrefix(path, module)
		if !strings.HasPrefix(name, "test/") && !strings.Contains(overview, "`"+name+"`") {
			t.Errorf("docs/architecture.md does not say what package %s is for", name)
		}
	}
	for _, name := range mappedFiles {
		_, list, _ := strings.Cut("\n### "+lists, "\n### `"+name+"`\n")
		list, _, _ = strings.Cut(list, "\n### ")
		listed := filesOfRows(list)
		there, err := filepath.Glob(filepath.Join("..", name, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range there {
			base := filepath.Base(file)
			if !strings.HasSuffix(base, "_test.go") && !listed[base] {
				t.Errorf("docs/architecture.md does not say what is in %s/%s", name, base)
			}
			delete(listed, base)
		}
		for base := range listed {
			t.Errorf("docs/architecture.md names %s/%s, which does not exist", name, base)
		}
	}
}

// filesOfRows returns the Go files in the first column of a table.
func filesOfRows(table string) map[string]bool {
	files := map[string]bool{}
	for line := range strings.Lines(table) {
		if first, _, _ := strings.Cut(strings.TrimPrefix(line, "|"), "|"); strings.HasPrefix(line, "|") {
			for _, m := range regexp.MustCompile("`([a-z0-9_]+\\.go)`").FindAllStringSubmatch(first, -1) {
				files[m[1]] = true
			}
		}
	}
	return files
}

// fileInText is a Go file that a document names by its path.
var fileInText = regexp.MustCompile("`((?:cmd|docs|protocol|proxy|rewrite|test)/[a-z0-9_/]+\\.go)`")

// TestFilesThatDocumentsNameExist looks for the files that the documents name.
func TestFilesThatDocumentsNameExist(t *testing.T) {
	out, err := exec.Command("git", "ls-files", "-z", "--", "../*.md").Output()
	if err != nil {
		t.Skipf("not a checkout: git ls-files: %v", err)
	}
	for page := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range fileInText.FindAllStringSubmatch(string(text), -1) {
			if _, err := os.Stat(filepath.Join("..", m[1])); err != nil {
				t.Errorf("%s names %s, which does not exist", page, m[1])
			}
		}
	}
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s:#]*)(?:#([^)\s]+))?\)`) // within the repository: without a scheme
	heading = regexp.MustCompile("(?m)^#+ (.+)$")
	notSlug = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// TestLinksResolve checks that the documents' links to files and headings exist.
func TestLinksResolve(t *testing.T) {
	out, err := exec.Command("git", "ls-files", "-z", "--", "../*.md").Output()
	if err != nil {
		t.Skipf("not a checkout: git ls-files: %v", err)
	}
	for file := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			to := file
			if m[1] != "" {
				to = filepath.Join(filepath.Dir(file), m[1])
			}
			if _, err := os.Stat(to); err != nil {
				t.Errorf("%s links to %s, which does not exist", file, m[1])
			} else if m[2] != "" && !hasHeading(t, to, m[2]) {
				t.Errorf("%s links to %s#%s, and there is no such heading", file, m[1], m[2])
			}
		}
	}
}

// hasHeading reports whether a document has a heading with this anchor, by the rules of GitHub.
func hasHeading(t *testing.T, file, anchor string) bool {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range heading.FindAllStringSubmatch(string(text), -1) {
		slug := strings.ReplaceAll(notSlug.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-")
		if slug == anchor {
			return true
		}
	}
	return false
}
