package spcs

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// plainSQL runs plain-sql.sh for a file, with these variables and no others.
func plainSQL(t *testing.T, file string, env ...string) (out, complaint string, err error) {
	t.Helper()
	cmd := exec.Command("./plain-sql.sh", file)
	cmd.Dir, cmd.Env = dir, append([]string{"PATH=" + os.Getenv("PATH")}, env...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	b, err := cmd.Output()
	return string(b), stderr.String(), err
}

// plain-sql.sh must print what Snowflake's CLI would run, also with variables of the shell.
func TestPlainSQLIsWhatTheCLIRuns(t *testing.T) {
	for name, others := range map[string][]string{
		"defaults":        nil,
		"the try-out":     otherValues(t),
		"a fourth broker": fourth,
		"awkward":         {"client_role", "Kafka", "dns_suffix", ".ejmu.svc.spcs.internal", "broker_password", `a&b\n\1"c`},
	} {
		t.Run(name, func(t *testing.T) {
			c := open(t, others...)
			var env []string
			for name := range more {
				env = append(env, name+"="+c.Value(name))
			}
			for i := 0; i < len(others); i += 2 {
				env = append(env, others[i]+"="+others[i+1])
			}
			for _, file := range c.files(t) {
				text, err := c.Text(file)
				if err != nil {
					t.Fatal(err)
				}
				want, err := c.render(text)
				if err != nil {
					t.Fatal(err)
				}
				got, complaint, err := plainSQL(t, file, env...)
				if err != nil {
					t.Fatalf("%s: %v: %s", file, err, complaint)
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("%s: the CLI (-) and plain-sql.sh (+):\n%s", file, diff)
				}
			}
		})
	}
}

func TestPlainSQLRefusesWhatIsMissing(t *testing.T) {
	for file, want := range map[string]string{
		"30-secrets.sql": "there is no value for gateway_token: export gateway_token=...",
		"99-nothing.sql": "there is no 99-nothing.sql in this folder",
		"":               "say which file",
	} {
		if out, complaint, err := plainSQL(t, file); err == nil || !strings.Contains(complaint, want) {
			t.Errorf("%q: %v, %q, want %q\n%s", file, err, complaint, want, out)
		}
	}
}
