package rewrite

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/culvert-proxy/culvert/protocol"
)

// seeds is how many random responses of each version are tried.
const seeds = 25

// isRefused reports whether a response is refused because d has no local address: only hints can be
// blanked.
func isRefused(key protocol.APIKey, err error) bool {
	return err != nil && rowOf(key).names != Leaders && !errors.Is(err, ErrUndecodable)
}

func TestAnIdentityMappingChangesNoByte(t *testing.T) {
	all := openCaps()
	w := Rewriter{Directory: identity, Caps: &all, RelayUnknown: true}
	eachVersion(t, func(t *testing.T, key protocol.APIKey, version int16) {
		if NamedBy(key, version) == Controllers {
			return // controllers are hidden, whatever the Directory says
		}
		for seed := range uint64(seeds) {
			frame := frameOf(newFiller(seed).response(key, version))
			got, res, err := relay(&w, key, version, frame)
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			if !bytes.Equal(got, frame) || res.Blanked > 0 {
				t.Fatalf("seed %d: %+v,\n got %x\nwant %x", seed, res, got, frame)
			}
		}
	})
}

func openCaps() Caps {
	var c Caps
	for k := range c {
		c[k] = 1<<15 - 1
	}
	return c
}

func TestOnlyHostsAndPortsChange(t *testing.T) {
	all := openCaps()
	for name, d := range directories {
		w := Rewriter{Directory: d, Caps: &all, RelayUnknown: true}
		t.Run(name, func(t *testing.T) {
			eachVersion(t, func(t *testing.T, key protocol.APIKey, version int16) {
				for seed := range uint64(seeds) {
					checkRewrite(t, &w, d, key, version, newFiller(seed))
				}
			})
		})
	}
}

func checkRewrite(t *testing.T, w *Rewriter, d directory, key protocol.APIKey, version int16, f filler) {
	t.Helper()
	frame := frameOf(f.response(key, version))
	got, res, err := relay(w, key, version, frame)
	wantNoHost(t, got)
	if isRefused(key, err) {
		return
	}
	if err != nil {
		t.Fatalf("%v\n%x", err, frame)
	}
	want := expected(parse(t, key, version, frame), d, res.Blanked > 0)
	resp := parse(t, key, version, got)
	if isStreamed(key) {
		if len(got) != len(frame) {
			t.Fatalf("length %d became %d", len(frame), len(got))
		}
		withoutPadding(resp, want)
	}
	if !bytes.Equal(encoded(resp), encoded(want)) {
		t.Fatalf("%+v\n got %x\nwant %x\nfrom %x", res, encoded(resp), encoded(want), frame)
	}
	again, _, err := relay(w, key, version, got)
	if err != nil && !isRefused(key, err) {
		t.Fatalf("rewrite again: %v", err)
	}
	if err == nil && d.isStable() && !bytes.Equal(again, got) {
		t.Fatalf("rewritten twice\n got %x\nwant %x", again, got)
	}
}

// isStable reports whether d maps local addresses to themselves.
func (d directory) isStable() bool {
	host, port := d(Broker{2, "broker" + domain, 9092})
	again, p := d(Broker{2, host, port})
	return again == host && port == p
}

func TestATruncatedResponseIsAnErrorAndLeaksNothing(t *testing.T) {
	w := Rewriter{Directory: loopback}
	eachVersion(t, func(t *testing.T, key protocol.APIKey, version int16) {
		if !Touches(key, version) {
			return // relayed as it is
		}
		frame := smallFrame(key, version)
		for n := range len(frame) {
			got, _, err := relayFrom(&w, key, version, bytes.NewReader(frame[:n]), int64(len(frame)))
			if !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("source ends behind %d bytes: error %v, want %v", n, err, io.ErrUnexpectedEOF)
			}
			wantNoHost(t, got)
		}
		for n := 8; n < walked(key, version, frame); n++ {
			cut := bytes.Clone(frame[:n])
			binary.BigEndian.PutUint32(cut, uint32(n-4))
			got, _, err := relay(&w, key, version, cut)
			wantUndecodable(t, err)
			wantNoHost(t, got)
		}
	})
}

// walked returns how many bytes of a response are looked at: of Metadata those up to its topics, of
// others all.
func walked(key protocol.APIKey, version int16, frame []byte) int {
	walk, ok := rowOf(key).how.(learnt)
	if !ok {
		return len(frame)
	}
	c, err := open(protocol.NewFlow(bytes.NewReader(frame), io.Discard), key, version, int64(len(frame)))
	if err != nil {
		panic(err)
	}
	c, _ = walk.list(c)
	return c.at
}

// smallFrame returns a random frame that is short enough to try each of its bytes, with addresses.
func smallFrame(key protocol.APIKey, version int16) []byte {
	best := []byte(nil)
	for seed := range uint64(200) {
		frame := frameOf(newFiller(seed).response(key, version))
		if len(frame) > 3000 {
			continue
		}
		if n := bytes.Count(frame, []byte(domain)); best == nil || n > bytes.Count(best, []byte(domain)) {
			best = frame
		}
	}
	return best
}

func TestBytesLeftOverAreAnError(t *testing.T) {
	w := Rewriter{Directory: loopback}
	eachVersion(t, func(t *testing.T, key protocol.APIKey, version int16) {
		frame := smallFrame(key, version)
		if !Touches(key, version) || walked(key, version, frame) < len(frame) {
			return // not walked to its end
		}
		frame = append(frame, 0)
		binary.BigEndian.PutUint32(frame, uint32(len(frame)-4))
		got, _, err := relay(&w, key, version, frame)
		wantUndecodable(t, err)
		wantNoHost(t, got)
	})
}

func TestItDoesNotMatterHowBytesArrive(t *testing.T) {
	w := Rewriter{Directory: loopback}
	eachVersion(t, func(t *testing.T, key protocol.APIKey, version int16) {
		frame := smallFrame(key, version)
		want, wantRes, err := relay(&w, key, version, frame)
		if err != nil {
			t.Fatal(err)
		}
		check := func(name string, n int, src io.Reader) {
			got, res, err := relayFrom(&w, key, version, src, int64(len(frame)))
			if err != nil || res != wantRes || !bytes.Equal(got, want) {
				t.Fatalf("%s %d: %+v, %v\n got %x\nwant %x", name, n, res, err, got, want)
			}
		}
		check("bytes one by one", 1, iotest.OneByteReader(bytes.NewReader(frame)))
		for n := 1; n < len(frame); n++ {
			check("split at", n, io.MultiReader(bytes.NewReader(frame[:n]), bytes.NewReader(frame[n:])))
		}
	})
}
