package spcs

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// object is something that statements create, use and drop.
type object struct{ kind, name string }

func (o object) String() string { return o.kind + " " + o.name }

const kinds = `DATABASE|SCHEMA|ROLE|USER|COMPUTE POOL|IMAGE REPOSITORY|SECRET|SERVICE|NETWORK RULE|NETWORK POLICY`

var (
	made    = regexp.MustCompile(`^CREATE (?:OR ALTER )?(` + kinds + `) (?:IF NOT EXISTS )?(\S+)`)
	dropped = regexp.MustCompile(`^DROP (` + kinds + `) (?:IF EXISTS )?(\S+)`)
	used    = []*regexp.Regexp{
		regexp.MustCompile(`(?:^ALTER|^USE|^DESCRIBE|\bIN|\bON|\bTO|\bFOR) (` + kinds + `) (?:IF EXISTS )?([\w.]+)`),
		regexp.MustCompile(`\bGRANT (ROLE) ([\w.]+)`),
		regexp.MustCompile(`\bDEFAULT_(ROLE) = (\w+)`),
		regexp.MustCompile(`\bSET (NETWORK POLICY|NETWORK_POLICY) = (\w+)`),
		regexp.MustCompile(`\bSERVICE (ROLE) [\w.]+![\w]+ TO ROLE (\w+)`),
		regexp.MustCompile(`^SHOW (COMPUTE POOL)S LIKE '([\w%]+)'`),
	}
	serviceRole = regexp.MustCompile(`\bSERVICE ROLE (\w+)!(\w+)`)
	networkRule = regexp.MustCompile(`ALLOWED_NETWORK_RULE_LIST = \('([\w.]+)'\)`)
	useRole     = regexp.MustCompile(`^USE ROLE (\w+)$`)
)

// ofAccount are the kinds whose names are unique in an account.
var ofAccount = []string{"DATABASE", "ROLE", "USER", "COMPUTE POOL", "NETWORK POLICY"}

// short removes database and schema from a name.
func short(kind, name string) object {
	return object{strings.ReplaceAll(kind, "_", " "), name[strings.LastIndex(name, ".")+1:]}
}

// uses returns the objects that a statement needs.
func (s Statement) uses(t *testing.T) (all []object) {
	t.Helper()
	for _, r := range used {
		for _, m := range r.FindAllStringSubmatch(s.SQL, -1) {
			all = append(all, short(m[1], m[2]))
		}
	}
	for _, m := range serviceRole.FindAllStringSubmatch(s.SQL, -1) {
		all = append(all, object{"SERVICE", m[1]}, object{"SERVICE ROLE", m[1] + "!" + m[2]})
	}
	for _, m := range networkRule.FindAllStringSubmatch(s.SQL, -1) {
		all = append(all, short("NETWORK RULE", m[1]))
	}
	if s.Spec == "" {
		return all
	}
	spec, err := Decode(s.Spec)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range spec.Spec.Containers {
		all = append(all, object{"IMAGE REPOSITORY", strings.Split(c.Image, "/")[3]})
		for _, secret := range c.Secrets {
			all = append(all, short("SECRET", secret.SnowflakeSecret))
		}
	}
	return all
}

// makes returns the objects that a statement creates.
func (s Statement) makes(t *testing.T) (all []object) {
	t.Helper()
	m := made.FindStringSubmatch(s.SQL)
	if m == nil {
		if strings.HasPrefix(s.SQL, "CREATE ") {
			t.Fatalf("creates something that this test does not know: %.60s", s.SQL)
		}
		return nil
	}
	all = append(all, short(m[1], m[2]))
	if s.Spec == "" {
		return all
	}
	spec, err := Decode(s.Spec)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range spec.ServiceRoles {
		all = append(all, object{"SERVICE ROLE", m[2] + "!" + r.Name})
	}
	return all
}

// The files can be run in the order of their names: each uses only what earlier ones create. The
// brokers' files are run once for each node.
func TestEverythingIsCreatedBeforeItIsUsed(t *testing.T) {
	there := map[object]bool{{"ROLE", "ACCOUNTADMIN"}: true, {"ROLE", "SYSADMIN"}: true}
	uses := 0
	for _, file := range open(t).files(t) {
		if strings.HasPrefix(file, "90-") {
			continue
		}
		for _, node := range nodesOf(file) {
			for _, s := range open(t, "node", node).statements(t, file) {
				for _, o := range s.uses(t) {
					uses++
					if !there[o] {
						t.Errorf("%s uses %s before it is created: %.60s", file, o, s.SQL)
					}
				}
				for _, o := range s.makes(t) {
					there[o] = true
				}
			}
		}
	}
	if uses < 60 {
		t.Errorf("recognised %d uses only", uses)
	}
}

// nodesOf returns the nodes that a file is run for.
func nodesOf(file string) []string {
	if strings.Contains(file, "-kafka-") {
		return []string{"1", "2", "3", "4"}
	}
	return []string{"1"}
}

// makers returns the objects that the files create, and the role that creates each.
func (c *Chart) makers(t *testing.T) map[object]string {
	t.Helper()
	makers := make(map[object]string)
	for _, file := range c.files(t) {
		for _, node := range nodesOf(file) {
			c.values["node"] = node
			role := ""
			for _, s := range c.statements(t, file) {
				if m := useRole.FindStringSubmatch(s.SQL); m != nil {
					role = m[1]
				}
				for _, o := range s.makes(t) {
					if o.kind != "SERVICE ROLE" {
						makers[o] = role
					}
				}
			}
		}
	}
	return makers
}

// Everything that was created must be dropped, by the role that created it, and after the objects
// that depend on it. Nothing else may be: the schema and the database may have existed before.
func TestTeardownDropsOnlyWhatWasCreated(t *testing.T) {
	c := open(t, "database", "prod", "schema", "public")
	makers := c.makers(t)
	for _, o := range []object{{"SCHEMA", "public"}, {"DATABASE", "prod"}} {
		if makers[o] == "" {
			t.Errorf("%s is not created: the test is out of date", o)
		}
		delete(makers, o)
	}
	var order []object
	role := ""
	for _, s := range c.statements(t, "90-teardown.sql") {
		if m := useRole.FindStringSubmatch(s.SQL); m != nil {
			role = m[1]
		}
		m := dropped.FindStringSubmatch(s.SQL)
		if m == nil {
			if !strings.HasPrefix(s.SQL, "USE ") && s.SQL != "ALTER USER IF EXISTS culvert_agent UNSET NETWORK_POLICY" {
				t.Errorf("the teardown does something that this test does not know: %s", s.SQL)
			}
			continue
		}
		o := short(m[1], m[2])
		order = append(order, o)
		if maker, ok := makers[o]; !ok {
			t.Errorf("%s: no file creates it for this chart only", s.SQL)
		} else if maker != role {
			t.Errorf("%s as %s, but %s created it", s.SQL, role, maker)
		}
		if broker := strings.HasPrefix(o.name, "kafka_") && o.name != "kafka_gateway" && o.kind == "SERVICE"; broker != strings.HasSuffix(s.SQL, " FORCE") {
			t.Errorf("%s: a service with a block volume is dropped by force, and no other", s.SQL)
		}
	}
	for o := range makers {
		if !slices.Contains(order, o) {
			t.Errorf("the teardown leaves %s", o)
		}
	}
	before := func(a, b string) {
		last, first := -1, len(order)
		for i, o := range order {
			if strings.HasPrefix(o.String(), a) {
				last = i
			}
			if strings.HasPrefix(o.String(), b) {
				first = min(first, i)
			}
		}
		if last < 0 || first == len(order) || last > first {
			t.Errorf("%s must be dropped before %s", a, b)
		}
	}
	before("SERVICE", "COMPUTE POOL")
	before("SERVICE", "SECRET")
	before("SERVICE", "IMAGE REPOSITORY")
	before("USER", "NETWORK POLICY")
	before("NETWORK POLICY", "NETWORK RULE")
	before("SECRET", "ROLE")
	before("NETWORK RULE", "ROLE")
}

// A second deployment with other names must not touch the first.
func TestNamesOfTheAccountCanBeChanged(t *testing.T) {
	first := open(t)
	var others []string
	for _, name := range []string{"database", "owner_role", "client_role", "client_user", "network_policy", "kafka_pool", "gateway_pool"} {
		others = append(others, name, first.Value(name)+"_2")
	}
	second := open(t, others...)
	found := make(map[string]bool)
	for _, file := range second.files(t) {
		for _, s := range second.statements(t, file) {
			objects := slices.Concat(s.uses(t), s.makes(t))
			if m := dropped.FindStringSubmatch(s.SQL); m != nil {
				objects = append(objects, short(m[1], m[2]))
			}
			for _, o := range objects {
				if !slices.Contains(ofAccount, o.kind) || o.name == "ACCOUNTADMIN" || o.name == "SYSADMIN" {
					continue
				}
				found[o.kind] = true
				if !strings.HasSuffix(o.name, "_2") {
					t.Errorf("%s: the name of %s cannot be changed in snowflake.yml: %.60s", file, o, s.SQL)
				}
			}
		}
	}
	if len(found) != len(ofAccount) {
		t.Errorf("found only %v", found)
	}
}
