// Package spcs parses charts/spcs as Snowflake's CLI and Snowflake do. It fills in the values,
// splits the statements, and decodes the specifications of services. Of these it knows only the
// fields that Snowflake documents.
package spcs

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Chart is the folder with the SQL files and their values.
type Chart struct {
	dir    string
	values map[string]string
}

// Open reads the values of a chart and adds more.
func Open(dir string, more map[string]string) (*Chart, error) {
	var project struct {
		Version int               `yaml:"definition_version"`
		Env     map[string]string `yaml:"env"`
	}
	b, err := os.ReadFile(filepath.Join(dir, "snowflake.yml"))
	if err != nil {
		return nil, err
	}
	if err := decode(b, &project); err != nil {
		return nil, fmt.Errorf("snowflake.yml: %w", err)
	}
	if project.Version != 2 {
		return nil, fmt.Errorf("snowflake.yml: definition_version %d, want 2", project.Version)
	}
	maps.Copy(project.Env, more)
	return &Chart{dir, project.Env}, nil
}

// Files returns the SQL files, in the order in which they are run.
func (c *Chart) Files() ([]string, error) {
	paths, err := filepath.Glob(filepath.Join(c.dir, "*.sql"))
	for i := range paths {
		paths[i] = filepath.Base(paths[i])
	}
	return paths, err
}

// Others reads a file of variables that take the place of values, such as try-out.env: a line
// NAME=VALUE for each.
func Others(file string) (map[string]string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	others := make(map[string]string)
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		if !ok || strings.ContainsAny(value, " '\"$;&|<>()") {
			return nil, fmt.Errorf("%s: %q is no plain assignment", file, line)
		}
		others[name] = value
	}
	return others, nil
}

// Value returns one of the values.
func (c *Chart) Value(name string) string { return c.values[name] }

// Text returns the raw text of a file.
func (c *Chart) Text(file string) (string, error) {
	b, err := os.ReadFile(filepath.Join(c.dir, file))
	return string(b), err
}

// Statements returns the statements of a file, with the values filled in.
func (c *Chart) Statements(file string) ([]Statement, error) {
	text, err := c.Text(file)
	if err != nil {
		return nil, err
	}
	text, err = c.render(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	statements, err := split(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return statements, nil
}

var placeholder = regexp.MustCompile(`<% *ctx\.env\.(\w+)( *\| *upper)? *%>`)

// render implements the part of the CLI's templates that the chart uses.
func (c *Chart) render(text string) (string, error) {
	var unknown []string
	text = placeholder.ReplaceAllStringFunc(text, func(s string) string {
		m := placeholder.FindStringSubmatch(s)
		value, ok := c.values[m[1]]
		if !ok {
			unknown = append(unknown, m[1])
		}
		if m[2] != "" {
			value = strings.ToUpper(value)
		}
		return value
	})
	if len(unknown) > 0 {
		return "", fmt.Errorf("no values for %s", strings.Join(slices.Compact(unknown), ", "))
	}
	// Other template syntax would go to Snowflake unchanged or, as the CLI's old syntax, be an
	// error.
	for _, mark := range []string{"<%", "%>", "&{", "{{"} {
		if strings.Contains(text, mark) {
			return "", fmt.Errorf("%s is left after the values were put in", mark)
		}
	}
	return text, nil
}

// Statement is one statement of SQL, in one line except for its specification.
type Statement struct {
	SQL  string // without comments, with single spaces, and $$ for the specification
	Spec string // the text between $$ and $$
}

// split splits statements where the CLI does: at semicolons outside of quotes, dollars and
// comments.
func split(text string) (all []Statement, err error) {
	var sql strings.Builder
	var spec string
	for text != "" {
		switch {
		case strings.HasPrefix(text, "--"):
			_, text, _ = strings.Cut(text, "\n")
			sql.WriteByte(' ')
		case strings.HasPrefix(text, "$$"):
			var closed bool
			if spec, text, closed = strings.Cut(text[2:], "$$"); !closed {
				return nil, errors.New("$$ without its second half")
			}
			sql.WriteString("$$")
		case text[0] == '\'':
			quoted, rest, closed := strings.Cut(text[1:], "'")
			if !closed {
				return nil, errors.New("a quote without its second half")
			}
			sql.WriteString("'" + quoted + "'")
			text = rest
		case text[0] == ';':
			all = append(all, Statement{strings.Join(strings.Fields(sql.String()), " "), spec})
			sql.Reset()
			text, spec = text[1:], ""
		default:
			sql.WriteByte(text[0])
			text = text[1:]
		}
	}
	if rest := strings.TrimSpace(sql.String()); rest != "" {
		return nil, fmt.Errorf("%q does not end with a semicolon", rest)
	}
	return all, nil
}

// decode decodes YAML strictly.
func decode(b []byte, to any) error {
	d := yaml.NewDecoder(strings.NewReader(string(b)))
	d.KnownFields(true)
	return d.Decode(to)
}
