package rewrite

import (
	"bytes"
	"encoding/hex"
	"testing"

	"github.com/culvert-proxy/culvert/protocol"
	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// offer is an entry of an ApiVersions response.
type offer struct{ key, min, max int16 }

func apiVersions(version, errorCode int16, offers ...offer) *kmsg.ApiVersionsResponse {
	resp := kmsg.NewPtrApiVersionsResponse()
	resp.Version, resp.ErrorCode, resp.ThrottleMillis = version, errorCode, 11
	for _, o := range offers {
		k := kmsg.NewApiVersionsResponseApiKey()
		k.ApiKey, k.MinVersion, k.MaxVersion = o.key, o.min, o.max
		resp.ApiKeys = append(resp.ApiKeys, k)
	}
	feature := kmsg.NewApiVersionsResponseSupportedFeature()
	feature.Name, feature.MaxVersion = "transaction.version", 2
	resp.SupportedFeatures = append(resp.SupportedFeatures, feature)
	resp.FinalizedFeaturesEpoch = 5
	return resp
}

func offers(resp kmsg.Response) (all []offer) {
	for _, k := range resp.(*kmsg.ApiVersionsResponse).ApiKeys {
		all = append(all, offer{k.ApiKey, k.MinVersion, k.MaxVersion})
	}
	return all
}

func TestAPIVersionsOffersWhatHasBeenReviewed(t *testing.T) {
	const maxKey = int16(protocol.MaxKey)
	offered := []offer{
		{0, 0, 13}, {1, 4, 19}, {3, 14, 15}, {18, 0, 6}, {52, 0, 2}, {58, 0, 0}, {93, 0, 0}, {94, 0, 1},
		{maxKey + 1, 0, 3}, {1000, 0, 0}, {-7, 0, 2},
	}
	reviewed := []offer{{0, 0, 13}, {1, 4, 18}, {18, 0, 5}, {93, 0, 0}, {94, 0, 0}}
	unknown := []offer{{maxKey + 1, 0, 3}, {1000, 0, 0}, {-7, 0, 2}}
	for version := int16(0); version <= protocol.APIVersions.MaxVersion(); version++ {
		for _, relayUnknown := range []bool{false, true} {
			want := reviewed
			if relayUnknown {
				want = append(append([]offer{}, reviewed...), unknown...)
			}
			frame := frameOf(apiVersions(version, 0, offered...))
			got, _, err := relay(&Rewriter{RelayUnknown: relayUnknown}, protocol.APIVersions, version, frame)
			if err != nil {
				t.Fatal(err)
			}
			resp := parse(t, protocol.APIVersions, version, got)
			if diff := cmp.Diff(offers(resp), want, cmp.AllowUnexported(offer{})); diff != "" {
				t.Errorf("v%d, unknown keys relayed: %t: got - want +\n%s", version, relayUnknown, diff)
			}
			rest := apiVersions(version, 0, want...)
			if !bytes.Equal(encoded(resp), encoded(rest)) {
				t.Errorf("v%d: more than the offers has changed\n got %x\nwant %x", version, encoded(resp), encoded(rest))
			}
		}
	}
}

// A key whose newest reviewed version is below the broker's oldest cannot be used at all.
func TestAPIVersionsTakesOutWhatIsCappedBelowItsMinimum(t *testing.T) {
	caps := Reviewed()
	caps[protocol.Fetch] = 3
	frame := frameOf(apiVersions(3, 0, offer{1, 4, 18}, offer{2, 1, 11}))
	got, _, err := relay(&Rewriter{Caps: &caps}, protocol.APIVersions, 3, frame)
	if err != nil {
		t.Fatal(err)
	}
	want := []offer{{2, 1, 11}}
	if diff := cmp.Diff(offers(parse(t, protocol.APIVersions, 3, got)), want, cmp.AllowUnexported(offer{})); diff != "" {
		t.Errorf("got - want +\n%s", diff)
	}
}

// KIP-511: with error 35 the body is of version 0, so that the client can read it.
func TestAPIVersionsErrors(t *testing.T) {
	for _, tt := range []struct {
		name               string
		version            int16
		frame, want        string
		undecodable, cause string
	}{
		{
			name: "error 35 of a broker that knows v6", version: 5,
			frame: "00000010 00000007 0023 00000001 0012 0000 0006",
			want:  "00000010 00000007 0023 00000001 0012 0000 0005",
		},
		{
			name: "error 35 of a broker before 2.4, with no key", version: 3,
			frame: "0000000a 00000007 0023 00000000",
			want:  "0000000a 00000007 0023 00000000",
		},
		{
			name: "error 35 with null for keys", version: 3,
			frame: "0000000a 00000007 0023 ffffffff",
			want:  "0000000a 00000007 0023 ffffffff",
		},
		{
			name: "error 42 in the version asked for", version: 4,
			frame: "0000000c 00000007 002a 01 00000000 00",
			want:  "0000000c 00000007 002a 01 00000000 00",
		},
		{
			name: "error 129 in the version asked for", version: 5,
			frame: "0000000c 00000007 0081 01 00000000 00",
			want:  "0000000c 00000007 0081 01 00000000 00",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, _, err := relay(&Rewriter{}, protocol.APIVersions, tt.version, unhex(t, tt.frame))
			if err != nil || !bytes.Equal(got, unhex(t, tt.want)) {
				t.Errorf("got %x, %v, want %s", got, err, tt.want)
			}
		})
	}
}

func unhex(t testing.TB, s string) []byte {
	b, err := hex.DecodeString(string(bytes.ReplaceAll([]byte(s), []byte(" "), nil)))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestUnsupportedAPIVersions(t *testing.T) {
	got := UnsupportedAPIVersions(7, 5)
	if want := unhex(t, "00000010 00000007 0023 00000001 0012 0000 0005"); !bytes.Equal(got, want) {
		t.Errorf("UnsupportedAPIVersions(7, 5) = %x, want %x", got, want)
	}
}

func TestCapsLower(t *testing.T) {
	mine := Reviewed()
	if got := mine.Lower(mine[:]); got != mine {
		t.Errorf("lowered by itself: %v, want %v", got, mine)
	}
	older := append([]int16{3, 99, -5}, mine[3:79]...)
	got := mine.Lower(older)
	for key, want := range map[protocol.APIKey]int16{0: 3, 1: 18, 2: -1, 3: 13, 78: 2, 79: -1, 94: -1} {
		if got[key] != want {
			t.Errorf("%s: %d, want %d", key, got[key], want)
		}
	}
}

func TestCapsAllow(t *testing.T) {
	caps := Reviewed()
	for _, tt := range []struct {
		key     protocol.APIKey
		version int16
		want    bool
	}{
		{protocol.Fetch, 18, true}, {protocol.Fetch, 19, false}, {protocol.Fetch, -1, false},
		{52, 0, false}, {protocol.MaxKey + 1, 0, false}, {-1, 0, false},
	} {
		if got := caps.Allow(tt.key, tt.version); got != tt.want {
			t.Errorf("Allow(%d, %d) = %t, want %t", tt.key, tt.version, got, tt.want)
		}
	}
}
