package rewrite

import (
	"bytes"
	"encoding/binary"
	"io"
	"runtime"
	"testing"

	"github.com/culvert-proxy/culvert/protocol"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// chunks gives a few bytes at a time.
type chunks struct {
	r io.Reader
	n int
}

func (c chunks) Read(b []byte) (int, error) { return c.r.Read(b[:min(len(b), c.n)]) }

// seedFrames adds what brokers sent, and random responses of each version.
func seedFrames(f *testing.F) {
	for _, file := range goldenFiles(f) {
		g := readGolden(f, file)
		f.Add(uint8(g.key), uint8(g.version), uint8(7), g.broker[4:])
	}
	for _, key := range touched {
		for version := int16(0); version <= key.MaxVersion(); version++ {
			f.Add(uint8(key), uint8(version), uint8(64), smallFrame(key, version)[4:])
		}
	}
}

// FuzzRelay checks, for whatever a broker may send: that an identity mapping changes nothing,
// however the bytes arrive; that rewriting twice is rewriting once; that a frame is as long as it
// says; that nothing of a refused response passes but records, and no host of any; and that memory
// is in proportion.
func FuzzRelay(f *testing.F) {
	seedFrames(f)
	all := openCaps()
	f.Fuzz(func(t *testing.T, k, v, chunk uint8, body []byte) {
		key, version := protocol.APIKey(k), int16(v)
		if !Touches(key, version) || len(body) < 4 || len(body) > 1<<20 {
			return
		}
		frame := append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
		checkIdentity(t, &Rewriter{Directory: identity, Caps: &all, RelayUnknown: true}, key, version, int(chunk)+1, frame)
		checkTwice(t, key, version, frame)
	})
}

func checkIdentity(t *testing.T, w *Rewriter, key protocol.APIKey, version int16, chunk int, frame []byte) {
	if rowOf(key).names == Controllers {
		return // no mapping is asked there
	}
	whole, _, err := relay(w, key, version, frame)
	if err == nil && !bytes.Equal(whole, frame) {
		t.Errorf("identity changes\n%x to\n%x", frame, whole)
	}
	split, _, splitErr := relayFrom(w, key, version, chunks{bytes.NewReader(frame), chunk}, int64(len(frame)))
	if (err == nil) != (splitErr == nil) || err == nil && !bytes.Equal(split, whole) {
		t.Errorf("in chunks of %d: %v\n got %x\nwant %x, %v", chunk, splitErr, split, whole, err)
	}
}

func checkTwice(t *testing.T, key protocol.APIKey, version int16, frame []byte) {
	hosts := 0
	d := directory(func(b Broker) (string, int32) {
		if bytes.Contains([]byte(b.Host), []byte(domain)) {
			hosts++
		}
		return loopback(b)
	})
	w := &Rewriter{Directory: d}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	once, _, err := relay(w, key, version, frame)
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > uint64(1<<20+100*len(frame)) {
		t.Errorf("%d bytes were allocated for a frame of %d", n, len(frame))
	}
	if err != nil && !isStreamed(key) && len(once) > 0 {
		t.Errorf("refused (%v), and passed %x", err, once)
	}
	if n := bytes.Count(frame, []byte(domain)); n == hosts && bytes.Contains(once, []byte(domain)) {
		t.Errorf("an advertised host has been passed: %x", once)
	}
	if err != nil {
		return
	}
	if n := binary.BigEndian.Uint32(once); int(n) != len(once)-4 || isStreamed(key) && len(once) != len(frame) {
		t.Errorf("frame says %d bytes, has %d, had %d", n, len(once)-4, len(frame)-4)
	}
	twice, _, err := relay(w, key, version, once)
	if err != nil || !bytes.Equal(twice, once) {
		t.Errorf("rewritten twice: %v\n got %x\nwant %x", err, twice, once)
	}
}

// FuzzAPIVersions checks that no response offers what nobody has reviewed.
func FuzzAPIVersions(f *testing.F) {
	for version := int16(0); version <= protocol.APIVersions.MaxVersion(); version++ {
		f.Add(uint8(version), smallFrame(protocol.APIVersions, version)[4:])
		f.Add(uint8(version), frameOf(apiVersions(version, 0, offer{1, 4, 19}, offer{52, 0, 2}, offer{300, 0, 1}))[4:])
	}
	caps := Reviewed()
	f.Fuzz(func(t *testing.T, v uint8, body []byte) {
		version := int16(v)
		if len(body) < 4 || version > protocol.APIVersions.MaxVersion() {
			return
		}
		frame := append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
		got, _, err := relay(&Rewriter{}, protocol.APIVersions, version, frame)
		if err != nil {
			return
		}
		if binary.BigEndian.Uint16(got[8:]) == unsupportedVersion {
			version = 0
		}
		resp := kmsg.NewPtrApiVersionsResponse()
		resp.Version = version
		if resp.ReadFrom(got[8:]) != nil {
			return // the features behind the keys, which are not looked into
		}
		for _, o := range offers(resp) {
			if key := protocol.APIKey(o.key); o.max >= 0 && !caps.Allow(key, o.max) {
				t.Errorf("%s is offered up to v%d", key, o.max)
			}
		}
	})
}
