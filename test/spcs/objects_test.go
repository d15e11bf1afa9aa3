package spcs

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// object is something that statements make, use and drop.
type object struct{ kind, name string }

func (o object) String() string { return o.kind + " " + o.name }

const kinds = `DATABASE|SCHEMA|ROLE|USER|COMPUTE POOL|IMAGE REPOSITORY|SECRET|SERVICE|NETWORK RULE|NETWORK POLICY`

var (
	made    = regexp.MustCompile(`^CREATE (?:OR ALTER )?(` + kinds + `) (?:IF NOT EXISTS )?(\S+)`)
	dropped = regexp.MustCompile(`^DROP (` + kinds + `) (?:IF EXISTS )?(\S+)`)
	used    = []*regexp.Regexp{
		regexp.MustCompile(`(?:^ALTER|^USE|^DESCRIBE|\bIN|\bON|\bTO) (` + kinds + `) (?:IF EXISTS )?([\w.]+)`),
		regexp.MustCompile(`\bGRANT (ROLE) ([\w.]+)`),
		regexp.MustCompile(`\bDEFAULT_(ROLE) = (\w+)`),
		regexp.MustCompile(`\bSET (NETWORK POLICY|NETWORK_POLICY) = (\w+)`),
		regexp.MustCompile(`\bSERVICE (ROLE) [\w.]+![\w]+ TO ROLE (\w+)`),
	}
	serviceRole = regexp.MustCompile(`\bSERVICE ROLE (\w+)!(\w+)`)
	networkRule = regexp.MustCompile(`ALLOWED_NETWORK_RULE_LIST = \('([\w.]+)'\)`)
)

// short takes database and schema off a name.
func short(kind, name string) object {
	return object{strings.ReplaceAll(kind, "_", " "), name[strings.LastIndex(name, ".")+1:]}
}

// uses lists what a statement needs to be there.
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

// makes lists what is there after a statement.
func (s Statement) makes(t *testing.T) (all []object) {
	t.Helper()
	m := made.FindStringSubmatch(s.SQL)
	if m == nil {
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

// The files can be run in the order of their names: each finds what it uses. The
// brokers' files are run once for each node.
func TestEverythingIsMadeBeforeItIsUsed(t *testing.T) {
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
						t.Errorf("%s uses %s before it is made: %.60s", file, o, s.SQL)
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

// nodesOf are the nodes that a file is run for.
func nodesOf(file string) []string {
	if strings.Contains(file, "-kafka-") {
		return []string{"1", "2", "3"}
	}
	return []string{"1"}
}

// What was made is dropped, and what others stand on comes after them.
func TestTeardownDropsEverything(t *testing.T) {
	var order []object
	for _, s := range open(t).statements(t, "90-teardown.sql") {
		if m := dropped.FindStringSubmatch(s.SQL); m != nil {
			order = append(order, short(m[1], m[2]))
			if isKafka := strings.Contains(m[2], "kafka_") && !strings.Contains(m[2], "gateway") && m[1] == "SERVICE"; isKafka != strings.HasSuffix(s.SQL, " FORCE") {
				t.Errorf("%s: a service with a block volume is dropped by force, and no other", s.SQL)
			}
		}
	}
	for _, file := range open(t).files(t) {
		for _, node := range nodesOf(file) {
			for _, s := range open(t, "node", node).statements(t, file) {
				for _, o := range s.makes(t) {
					if o.kind != "SERVICE ROLE" && !slices.Contains(order, o) {
						t.Errorf("%s makes %s, which the teardown leaves", file, o)
					}
				}
			}
		}
	}
	before := func(a, b string) {
		i := slices.IndexFunc(order, func(o object) bool { return strings.HasPrefix(fmt.Sprint(o), a) })
		j := slices.IndexFunc(order, func(o object) bool { return strings.HasPrefix(fmt.Sprint(o), b) })
		if i < 0 || j < 0 || i > j {
			t.Errorf("%s must be dropped before %s", a, b)
		}
	}
	before("SERVICE", "COMPUTE POOL")
	before("SERVICE", "SECRET")
	before("NETWORK POLICY", "NETWORK RULE")
	before("SECRET", "SCHEMA")
	before("DATABASE", "ROLE culvert_owner")
}
