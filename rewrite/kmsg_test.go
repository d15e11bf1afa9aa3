package rewrite

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/culvert-proxy/culvert/protocol"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// excused are the responses with something like an address in them that name no broker, and why
// they are relayed as they are.
var excused = map[protocol.APIKey]string{
	15: "ClientHost: the address of a client, as the broker saw it",
	29: "Host: the client of an access rule",
	31: "Host: the client of an access rule",
	69: "ClientHost: the address of a client, as the broker saw it",
	77: "ClientHost: the address of a client, as the broker saw it",
	88: "UserEndpoint: the application's own server (KIP-1071)",
	89: "ClientHost, and UserEndpoint: the application's own server (KIP-1071)",
}

// With -v it prints what docs/compatibility.md explains.
func TestEveryResponseWithAnAddressHasARowOrIsExcused(t *testing.T) {
	if kmsg.ResponseForKey(int16(protocol.MaxKey)+1) != nil {
		t.Errorf("kmsg knows API key %d, nobody has reviewed it for addresses", protocol.MaxKey+1)
	}
	caps := Reviewed()
	for key := range protocol.MaxKey + 1 {
		paths := addressFields(reflect.TypeOf(kmsg.ResponseForKey(int16(key))), nil)
		row := rowOf(key)
		reason, ok := excused[key]
		switch {
		case len(paths) == 0 && (row.how != nil || ok):
			t.Errorf("%s is in a list, and has neither host nor port", key)
		case len(paths) > 0 && (row.names != Nobody) == ok:
			t.Errorf("%s has %v: it must either have a row (%t) or be excused (%t)", key, paths, row.names != Nobody, ok)
		case row.names != Nobody && row.how == nil && caps[key] >= 0:
			t.Errorf("%s is offered up to v%d, and is withheld", key, caps[key])
		case len(paths) > 0:
			if row.how != nil {
				reason = fmt.Sprintf("rewritten v%d-%d", row.since, row.newest)
			} else if !ok {
				reason = "withheld: no version is offered or relayed"
			}
			t.Logf("%2d %-24s %-60s %s", key, key, strings.Join(paths, ", "), reason)
		}
	}
}

// addressFields returns the paths to all fields of a response that are named like a host, a port or
// an endpoint.
func addressFields(typ reflect.Type, outer []string) (paths []string) {
	switch typ.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Array:
		return addressFields(typ.Elem(), outer)
	case reflect.Struct:
		for f := range typ.Fields() {
			path := append(slices.Clone(outer), f.Name)
			if strings.Contains(f.Name, "Host") || f.Name == "Port" {
				paths = append(paths, strings.Join(path, "."))
			}
			if f.IsExported() && f.Type != tagsType {
				paths = append(paths, addressFields(f.Type, path)...)
			}
		}
	}
	return paths
}

// A newer kmsg must not let versions through that nobody has looked at.
func TestEachKeyAndVersionThatKmsgKnowsHasBeenReviewed(t *testing.T) {
	for key := range protocol.MaxKey + 1 {
		got := reviewed[key]
		if row := rowOf(key); row.how == nil && row.names != Nobody {
			got = row.newest // and withheld
		}
		if want := key.MaxVersion(); got != want {
			t.Errorf("%s is reviewed up to v%d, kmsg knows v%d: does its response carry addresses?", key, got, want)
		}
	}
	for key := protocol.MaxKey + 1; key < 1000; key++ {
		if kmsg.ResponseForKey(int16(key)) != nil {
			t.Errorf("kmsg knows API key %d (%s), which is above protocol.MaxKey", key, kmsg.NameForKey(int16(key)))
		}
	}
}

// No response that is relayed as it is may hold a host that a broker filled in, at any version: the
// fields that are excused are the clients' own.
func TestResponsesThatAreNotTouchedHoldNoBrokerAddress(t *testing.T) {
	caps := Reviewed()
	for key := range protocol.MaxKey + 1 {
		for version := int16(0); version <= caps[key]; version++ {
			if _, ok := excused[key]; ok || Touches(key, version) {
				continue
			}
			for seed := range uint64(10) {
				frame := frameOf(newFiller(seed).response(key, version))
				if bytes.Contains(frame, []byte(domain)) {
					t.Errorf("%s v%d can hold an address", key, version)
				}
			}
		}
	}
}
