package proxy

import (
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/culvert-proxy/culvert/proxy/internal/testca"
)

func mustNames(t testing.TB, template string) BrokerNames {
	t.Helper()
	n, err := ParseBrokerNames(template)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestTemplatesOfBrokerNames(t *testing.T) {
	long := strings.Repeat("x", 53)
	for _, test := range []struct{ template, wrong string }{
		{"broker-{id}.kafka.example.com", ""},
		{"{id}.k", ""},
		{"b10{id}0.Kafka.Example.com", ""},
		{"kafka.{id}.example.com", ""},
		{long + "{id}.kafka", ""},
		{"", "does not contain {id} once"},
		{"broker.kafka.example.com", "does not contain {id} once"},
		{"broker-{id}.{id}.example.com", "does not contain {id} once"},
		{"broker-{ID}.kafka.example.com", "does not contain {id} once"},
		{"broker-{id}", "has no dot"},
		{"broker-{id}.kafka.example.com:9092", "is not a DNS name"},
		{"broker-{id}.kafka.example.com.", "is not a DNS name"},
		{"broker_{id}.kafka.example.com", "is not a DNS name"},
		{"*.{id}.example.com", "is not a DNS name"},
		{"{id}-.example.com", "is not a DNS name"},
		{"-{id}.example.com", "is not a DNS name"},
		{"b{id}..example.com", "is not a DNS name"},
		{"b{id}.münchen.example", "is not a DNS name"},
		{"b {id}.example.com", "is not a DNS name"},
		{"x" + long + "{id}.kafka", "is not a DNS name"},
		{"10.0.0.{id}", "ends in a number"},
		{"{id}." + strings.Repeat("kafka.", 41) + "com", "and a DNS name has 253 at most"},
	} {
		_, err := ParseBrokerNames(test.template)
		if test.wrong == "" && err != nil || test.wrong != "" && (err == nil || !strings.Contains(err.Error(), test.wrong)) {
			t.Errorf("ParseBrokerNames(%q): %v, want %q", test.template, err, test.wrong)
		}
	}
}

func TestNodeOfAName(t *testing.T) {
	n := mustNames(t, "Broker-{id}.kafka.example.com")
	for name, want := range map[string]int32{
		"broker-0.kafka.example.com": 0, "BROKER-17.Kafka.example.com": 17, n.Of(math.MaxInt32): math.MaxInt32,
		"broker-.kafka.example.com": -1, "broker-07.kafka.example.com": -1, "broker-+7.kafka.example.com": -1, "broker--7.kafka.example.com": -1,
		"broker-2147483648.kafka.example.com": -1, "broker-x.kafka.example.com": -1, "broker-7.kafka.example.org": -1,
		"xbroker-7.kafka.example.com": -1, "broker-7.kafka.example.com.": -1, "broker-7.x.kafka.example.com": -1, "": -1,
	} {
		if id, ok := n.NodeID(name); ok != (want >= 0) || ok && id != want {
			t.Errorf("NodeID(%q) = %d, %v, want %d", name, id, ok, want)
		}
	}
	if id, ok := (BrokerNames{}).NodeID("7"); ok {
		t.Errorf("without a template, a name is that of node %d", id)
	}
}

func TestBootstrapNames(t *testing.T) {
	n, ca := mustNames(t, "b{id}.example.com"), testca.New(t, "CA")
	for _, test := range []struct {
		listens      []Listen
		certificate  []string
		want         []string
		uncovered    string // without ids
		uncoveredFor string // for 1 and 12
	}{
		{[]Listen{{Bind: "0.0.0.0:9092", Host: "Kafka.example.com"}}, []string{"*.example.com"}, []string{"kafka.example.com"}, "", ""},
		{[]Listen{{Bind: "0.0.0.0:9092"}}, []string{"*.example.com"}, nil, "", ""},
		{[]Listen{{Bind: "127.0.0.1:9092"}, {Bind: "localhost:9093"}}, []string{"b1.example.com", "k.example.com", "K.example.com"}, []string{"k.example.com", "localhost"}, "", "b12.example.com"},
		{[]Listen{{Bind: ":9092", Host: "192.0.2.1"}}, nil, nil, "b0.example.com: it is for no DNS name", "b1.example.com"},
		{[]Listen{{Bind: ":9092"}}, []string{"example.com", "*.x.example.com"}, []string{"example.com"}, "b0.example.com: it is for example.com, *.x.example.com", "b1.example.com"},
	} {
		certificate := ca.Server(t, test.certificate...).Leaf
		if got := n.Bootstrap(test.listens, certificate); !slices.Equal(got, test.want) {
			t.Errorf("listens %v, a certificate for %v: bootstrap names %q, want %q", test.listens, test.certificate, got, test.want)
		}
		for _, check := range []struct {
			ids  []int32
			want string
		}{{nil, test.uncovered}, {[]int32{1, 12}, test.uncoveredFor}} {
			if err := n.Uncovered(certificate, check.ids); (err != nil) != (check.want != "") || err != nil && !strings.Contains(err.Error(), check.want) {
				t.Errorf("a certificate for %v, nodes %v: %v, want %q", test.certificate, check.ids, err, check.want)
			}
		}
	}
}

// Each template that is taken gives each node a name of its own, which a client can send, and no
// other name is that of a node.
func FuzzBrokerNames(f *testing.F) {
	f.Add("broker-{id}.kafka.example.com", "broker-7.kafka.example.com", int32(7))
	f.Add("1{id}0.1", "100.1", int32(0))
	f.Add("{id}.K", "-1.k", int32(math.MaxInt32))
	f.Fuzz(func(t *testing.T, template, name string, id int32) {
		n, err := ParseBrokerNames(template)
		if err != nil {
			return
		}
		if id = max(id, 0); id < 0 {
			return
		}
		own := n.Of(id)
		if got, ok := n.NodeID(own); !ok || got != id || len(own) > maxDNSName {
			t.Errorf("%q: node %d is %q, which is node %d, %v", template, id, own, got, ok)
		}
		if got, ok := n.NodeID(name); ok && n.Of(got) != strings.ToLower(name) {
			t.Errorf("%q: %q is taken for node %d", template, name, got)
		}
		if again, err := ParseBrokerNames(n.String()); err != nil || again != n {
			t.Errorf("%q reads as %q, %v", n, again, err)
		}
	})
}
