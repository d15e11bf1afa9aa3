package rewrite

import (
	"bytes"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/culvert-proxy/culvert/protocol"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// excused are the responses with something like an address in them that are not
// rewritten, and why.
var excused = map[protocol.APIKey]string{
	15: "ClientHost: the address of a client, as the broker saw it",
	29: "Host: the client of an access rule",
	31: "Host: the client of an access rule",
	52: "controllers among themselves: no version is offered or relayed",
	53: "controllers among themselves: no version is offered or relayed",
	54: "controllers among themselves: no version is offered or relayed",
	59: "controllers among themselves: no version is offered or relayed",
	69: "ClientHost: the address of a client, as the broker saw it",
	77: "ClientHost: the address of a client, as the broker saw it",
	82: "controllers among themselves: no version is offered or relayed",
	88: "UserEndpoint: the application's own server (KIP-1071)",
	89: "ClientHost, and UserEndpoint: the application's own server (KIP-1071)",
}

// With -v it prints what docs/compatibility.md explains.
func TestEveryResponseWithAnAddressIsRewrittenOrExcused(t *testing.T) {
	if kmsg.ResponseForKey(int16(protocol.MaxKey)+1) != nil {
		t.Errorf("kmsg knows API key %d, nobody has reviewed it for addresses", protocol.MaxKey+1)
	}
	caps := Reviewed()
	document, err := os.ReadFile("../docs/compatibility.md")
	if err != nil {
		t.Fatal(err)
	}
	for key := range protocol.MaxKey + 1 {
		paths := addressFields(reflect.TypeOf(kmsg.ResponseForKey(int16(key))), nil)
		rewritten := CarriesAddresses(key, key.MaxVersion())
		reason, ok := excused[key]
		switch {
		case len(paths) == 0 && (rewritten || ok):
			t.Errorf("%s is in a list, and has neither host nor port", key)
		case len(paths) > 0 && rewritten == ok:
			t.Errorf("%s has %v: it must either be rewritten (%t) or excused (%t)", key, paths, rewritten, ok)
		case strings.HasPrefix(reason, "controllers") && caps[key] >= 0:
			t.Errorf("%s is offered up to v%d, and names controllers", key, caps[key])
		case len(paths) > 0:
			if row := fmt.Sprintf("\n| %d %s |", key, key); !bytes.Contains(document, []byte(row)) {
				t.Errorf("%s is missing in docs/compatibility.md", key)
			}
			if rewritten {
				reason = "rewritten " + rewrittenVersions(key)
			}
			t.Logf("%2d %-24s %-60s %s", key, key, strings.Join(paths, ", "), reason)
		}
	}
}

// addressFields returns the paths to all fields of a response that are named
// like a host, a port or an endpoint.
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

func rewrittenVersions(key protocol.APIKey) string {
	v := int16(0)
	for !CarriesAddresses(key, v) {
		v++
	}
	return fmt.Sprintf("v%d-%d", v, reviewed[key])
}

// A newer kmsg must not let versions through that nobody has looked at.
func TestEachKeyAndVersionThatKmsgKnowsHasBeenReviewed(t *testing.T) {
	for key := range protocol.MaxKey + 1 {
		if got, want := reviewed[key], key.MaxVersion(); got != want {
			t.Errorf("%s is reviewed up to v%d, kmsg knows v%d: does its response carry addresses?", key, got, want)
		}
	}
	for key := protocol.MaxKey + 1; key < 1000; key++ {
		if kmsg.ResponseForKey(int16(key)) != nil {
			t.Errorf("kmsg knows API key %d (%s), which is above protocol.MaxKey", key, kmsg.NameForKey(int16(key)))
		}
	}
}

// No response that is relayed as it is may hold a host that a broker filled in,
// at any version: the fields that are excused are the clients' own.
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
