package proxy

import (
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/culvert-proxy/culvert/protocol"
	"github.com/culvert-proxy/culvert/proxy/tunnel"
	"github.com/culvert-proxy/culvert/rewrite"
)

// documented is an API that docs/compatibility.md lists as rewritten.
type documented struct {
	key         protocol.APIKey
	since, last int16
	names       string
}

// documentedAPIs reads docs/compatibility.md, so that no list of ours decides both what is done and
// what is tested.
func documentedAPIs(t *testing.T) (apis []documented) {
	t.Helper()
	b, err := os.ReadFile("../docs/compatibility.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(b), "### Rewritten\n")
	table, _, _ = strings.Cut(table, "\n### ")
	for _, m := range regexp.MustCompile(`(?m)^\| (\d+) \w+ \| (\d+)(?:–(\d+))? \| ([^|]+) \|`).FindAllStringSubmatch(table, -1) {
		key, _ := strconv.Atoi(m[1])
		since, _ := strconv.Atoi(m[2])
		last, err := strconv.Atoi(m[3])
		if err != nil {
			last = since
		}
		apis = append(apis, documented{protocol.APIKey(key), int16(since), int16(last), m[4]})
	}
	if len(apis) < 8 {
		t.Fatalf("docs/compatibility.md lists %d rewritten responses", len(apis))
	}
	return apis
}

// nodes reports whether the response names nodes to connect to, and not leaders as a hint, or
// controllers.
func (d documented) nodes() bool {
	return strings.HasPrefix(d.names, "all brokers") || strings.HasPrefix(d.names, "some brokers")
}

// namingResponse is a broker's answer that names node 1 at the host wherever the schema has room
// for a node.
func namingResponse(key protocol.APIKey, version int16, id int32, host string) []byte {
	r := kmsg.ResponseForKey(int16(key))
	fillNames(reflect.ValueOf(r).Elem(), host)
	r.SetVersion(version)
	b := binary.BigEndian.AppendUint32(nil, uint32(id))
	if key.FlexibleResponseHeader(version) {
		b = append(b, 0)
	}
	return r.AppendTo(b)
}

// fillNames gives each array of structs one element, each host and port a value, and the cluster
// its id.
func fillNames(v reflect.Value, host string) {
	for i := range v.NumField() {
		f, name := v.Field(i), v.Type().Field(i).Name
		switch {
		case name == "ClusterID" && f.Kind() == reflect.String:
			f.SetString("c")
		case name == "ClusterID":
			f.Set(reflect.ValueOf(new("c")))
		case name == "NodeID":
			f.SetInt(1)
		case name == "Host":
			f.SetString(host)
		case name == "Port" && f.CanInt():
			f.SetInt(9092)
		case f.Kind() == reflect.Slice && f.Type().Elem().Kind() == reflect.Struct:
			f.Set(reflect.MakeSlice(f.Type(), 1, 1))
			fillNames(f.Index(0), host)
		}
	}
}

// answeredRequest is a request that a broker answers.
func answeredRequest(key protocol.APIKey, version int16) []byte {
	r := kmsg.RequestForKey(int16(key))
	if p, ok := r.(*kmsg.ProduceRequest); ok {
		p.Acks = 1
	}
	return requestFrame(r, version, 1)
}

// remembered are the nodes that a gateway is to know behind the response, if it knew node 7 before:
// a response with all brokers takes the place of that.
func (d documented) remembered() []int32 {
	switch {
	case strings.HasPrefix(d.names, "all brokers"):
		return []int32{1}
	case d.nodes():
		return []int32{1, 7}
	}
	return []int32{7}
}

// The agent can dial only what it has a ticket for: each response by which a client is told of a
// node must bring one, at each version. Hints and controllers bring none.
func TestTheGatewayGivesATicketForEachNodeThatAResponseNames(t *testing.T) {
	for _, api := range documentedAPIs(t) {
		t.Run(api.key.String(), func(t *testing.T) {
			host := func(n int) string { return fmt.Sprintf("broker-%d.example", n) } // another one in each answer
			answers := 0
			broker := fakeBroker(t, answering(func(key, version int16, id int32) []byte {
				answers++
				return namingResponse(protocol.APIKey(key), version, id, host(answers))
			}))
			var gateway *Gateway
			g := startGateway(t, []string{broker}, func(g *Gateway) { gateway = g })
			up := tunnelTo(t, g.address, "ws")
			defer up.close()
			tickets := map[string]int32{} // written to while the test reads
			c, err := Open(t.Context(), up, "", nil, func(tk tunnel.Ticket) { tickets[tk.Address] = tk.NodeID })
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			ask := func(key protocol.APIKey, version int16) {
				t.Helper()
				clear(tickets)
				c.Write(answeredRequest(key, version))
				if _, err := readFrame(c); err != nil {
					t.Fatalf("%s v%d: %v", key, version, err)
				}
			}
			ask(protocol.Metadata, 12) // which cluster it is
			for version := api.since; version <= api.last; version++ {
				gateway.tickets.relayed.update("c", []rewrite.Broker{{NodeID: 7, Host: "other.example", Port: 9092}}, true)
				ask(api.key, version)
				want := map[string]int32{}
				if api.nodes() {
					want[host(2+int(version-api.since))+":9092"] = 1
				}
				if !maps.Equal(tickets, want) {
					t.Errorf("v%d: tickets %v, want %v", version, tickets, want)
				}
				gateway.tickets.relayed.mu.Lock()
				if got := sorted(gateway.tickets.relayed.nodes); !slices.Equal(got, api.remembered()) {
					t.Errorf("v%d: the gateway remembers nodes %v, want %v", version, got, api.remembered())
				}
				gateway.tickets.relayed.mu.Unlock()
			}
		})
	}
}
