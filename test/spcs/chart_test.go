package spcs

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const dir = "../../charts/spcs"

// more are the values without a default.
var more = map[string]string{
	"node": "1", "gateway_token": "token", "ticket_key": "key",
	"broker_password": "broker-secret", "app_password": "app-secret", "public_key": "MIIB",
}

// open opens the chart with the values, some of them replaced.
func open(t *testing.T, others ...string) *Chart {
	t.Helper()
	values := make(map[string]string)
	maps.Copy(values, more)
	for i := 0; i < len(others); i += 2 {
		values[others[i]] = others[i+1]
	}
	c, err := Open(dir, values)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// otherValues returns the names and values of try-out.env, in turn.
func otherValues(t *testing.T) (all []string) {
	t.Helper()
	others, err := Others(dir + "/try-out.env")
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range others {
		all = append(all, name, value)
	}
	return all
}

// fourth are the values of a fourth broker, which snowflake.yml names.
var fourth = []string{"node", "4", "kafka_roles", "broker", "kafka_listeners", "INTERNAL://:9092"}

func (c *Chart) files(t *testing.T) []string {
	t.Helper()
	files, err := c.Files()
	if err != nil || len(files) < 10 {
		t.Fatalf("found %d files, %v", len(files), err)
	}
	return files
}

func (c *Chart) statements(t *testing.T, file string) []Statement {
	t.Helper()
	statements, err := c.Statements(file)
	if err != nil {
		t.Fatal(err)
	}
	if len(statements) == 0 {
		t.Fatalf("%s has no statement", file)
	}
	return statements
}

// A file's first comment must say what the file creates and what that costs.
func TestEachFileStatesWhatItCreatesAndCosts(t *testing.T) {
	c := open(t)
	for _, file := range c.files(t) {
		text, err := c.Text(file)
		if err != nil {
			t.Fatal(err)
		}
		head, _, _ := strings.Cut(text, "\nUSE ROLE ")
		for _, want := range []string{"-- Makes   ", "\n-- Costs   "} {
			if !strings.Contains(head, want) {
				t.Errorf("%s does not say %q in its first comment", file, strings.TrimSpace(want))
			}
		}
	}
}

// Each specification must have only fields and values that Snowflake documents. That must also hold
// with other values of the chart.
func TestSpecificationsAreDocumented(t *testing.T) {
	specs := 0
	for _, c := range []*Chart{open(t), open(t, otherValues(t)...), open(t, fourth...), open(t, "node", "3", "database", "mine", "dns_suffix", ".ejmu.svc.spcs.internal", "volume_size", "1Gi")} {
		for _, file := range c.files(t) {
			for _, s := range c.statements(t, file) {
				if s.Spec == "" {
					continue
				}
				specs++
				if _, err := Decode(s.Spec); err != nil {
					t.Errorf("%s: %v", file, err)
				}
			}
		}
	}
	if specs != 24 {
		t.Errorf("found %d specifications, want 24", specs)
	}
}

// Decode must refuse these, or the test above proves nothing.
func TestWrongSpecificationsAreRefused(t *testing.T) {
	c := open(t)
	good := c.statements(t, "50-gateway.sql")[2].Spec + c.statements(t, "41-kafka-sasl.sql")[2].Spec
	for _, wrong := range []struct{ from, to string }{
		{"readinessProbe:", "readynessProbe:"},
		{"    public: true", "    public: true\n    protocol: TCP"},
		{"    public: true", "    public: true\n    protocol: UDP"},
		{"/etc/culvert/tokens\n", "/etc/culvert/tokens\n      secretKeyRef: secret_string\n"},
		{"memory: 1Gi", "memory: 1GB"},
		{"  endpoints:\n  - gateway\n", "  endpoints:\n  - other\n"},
		{"images/culvert:1", "images/culvert"},
		{"- name: gateway", "- name: Gateway"},
		{"size: 20Gi", "size: 20G"},
		{"- name: data\n      mountPath", "- name: date\n      mountPath"},
	} {
		if !strings.Contains(good, wrong.from) {
			t.Errorf("no %q in the specifications: the test is out of date", wrong.from)
		}
		for _, file := range []string{"50-gateway.sql", "41-kafka-sasl.sql"} {
			spec := c.statements(t, file)[2].Spec
			if !strings.Contains(spec, wrong.from) {
				continue
			}
			if _, err := Decode(strings.Replace(spec, wrong.from, wrong.to, 1)); err == nil {
				t.Errorf("%q in place of %q is not refused", wrong.to, wrong.from)
			}
		}
	}
}

// An upgrade must have the same specification as the file that created the service.
func TestUpgradesHaveTheSameSpecification(t *testing.T) {
	c := open(t)
	for upgrade, of := range map[string]string{
		"80-upgrade-gateway.sql":         "50-gateway.sql",
		"81-upgrade-kafka-plaintext.sql": "40-kafka-plaintext.sql",
		"82-upgrade-kafka-sasl.sql":      "41-kafka-sasl.sql",
	} {
		if diff := cmp.Diff(c.statements(t, of)[2].Spec, c.statements(t, upgrade)[2].Spec); diff != "" {
			t.Errorf("%s (-) and %s (+) differ:\n%s", of, upgrade, diff)
		}
	}
}

// The values of the try-out and of a fourth broker must be the chart's, and change what they are for.
func TestOtherValuesAreTheCharts(t *testing.T) {
	plain := open(t)
	for i, others := 0, append(otherValues(t), fourth...); i < len(others); i += 2 {
		name, value := others[i], others[i+1]
		if is, ok := plain.values[name]; !ok || is == value {
			t.Errorf("snowflake.yml has %s: %q, and the other value is %q", name, is, value)
		}
		used := ""
		for _, file := range plain.files(t) {
			if text, err := plain.Text(file); err != nil {
				t.Fatal(err)
			} else if strings.Contains(text, "ctx.env."+name+" ") {
				used = file
			}
		}
		if used == "" {
			t.Errorf("no file uses %s", name)
		}
	}
	yml, err := os.ReadFile(dir + "/snowflake.yml")
	if err != nil {
		t.Fatal(err)
	}
	if want := "export node=4 kafka_roles=broker kafka_listeners=INTERNAL://:9092"; !strings.Contains(string(yml), want) {
		t.Errorf("snowflake.yml does not say %q", want)
	}
	nodes := func(c *Chart) (n []string) {
		for _, s := range c.statements(t, "10-pools.sql") {
			n = append(n, regexp.MustCompile(`M(?:IN|AX)_NODES = \d+`).FindAllString(s.SQL, -1)...)
		}
		return n
	}
	if got := strings.Join(nodes(open(t, otherValues(t)...)), ", "); got != "MIN_NODES = 1, MAX_NODES = 1, MIN_NODES = 1, MAX_NODES = 1" {
		t.Errorf("the pools of the try-out have %s", got)
	}
}

// clauses are those of statements in which their order matters.
var clauses = map[string][]string{
	"CREATE SERVICE": {"IN COMPUTE POOL", "FROM SPECIFICATION", "AUTO_SUSPEND_SECS =", "EXTERNAL_ACCESS_INTEGRATIONS =", "AUTO_RESUME =",
		"MIN_INSTANCES =", "MIN_READY_INSTANCES =", "MAX_INSTANCES =", "LOG_LEVEL =", "QUERY_WAREHOUSE =", "TAG (", "COMMENT ="},
	"CREATE COMPUTE POOL": {"MIN_NODES =", "MAX_NODES =", "INSTANCE_FAMILY =", "AUTO_RESUME =", "INITIALLY_SUSPENDED =", "AUTO_SUSPEND_SECS =", "TAG (", "COMMENT =", "PLACEMENT_GROUP ="},
}

func TestClausesAreInOrder(t *testing.T) {
	c := open(t)
	known := regexp.MustCompile(` ([A-Z_]+ =|FROM [A-Z]+|IN COMPUTE POOL)`)
	for _, file := range c.files(t) {
		for _, s := range c.statements(t, file) {
			for kind, order := range clauses {
				if !strings.HasPrefix(s.SQL, kind) {
					continue
				}
				at := -1
				for _, m := range known.FindAllStringSubmatch(s.SQL, -1) {
					i := slices.Index(order, m[1])
					if i <= at {
						t.Errorf("%s: %s is in the wrong position in %s, or not one of its clauses", file, m[1], kind)
					}
					at = i
				}
				if at < 0 {
					t.Errorf("%s: no clause of %q was recognised", file, s.SQL)
				}
			}
		}
	}
}
