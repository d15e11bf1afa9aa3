package rewrite

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"strings"
	"testing"

	"github.com/culvert-proxy/culvert/protocol"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// hinted returns a response with leader hints of these hosts and with these unknown tagged fields.
func hinted(key protocol.APIKey, hosts []string, tags ...uint32) kmsg.Response {
	resp := kmsg.ResponseForKey(int16(key))
	resp.SetVersion(key.MaxVersion())
	var unknown kmsg.Tags
	for _, tag := range tags {
		unknown.Set(tag, []byte("value"))
	}
	switch r := resp.(type) {
	case *kmsg.FetchResponse:
		r.UnknownTags = unknown
		for i, host := range hosts {
			r.Brokers = append(r.Brokers, kmsg.FetchResponseBroker{NodeID: int32(i), Host: host, Port: 9092})
		}
	case *kmsg.ShareFetchResponse:
		r.UnknownTags = unknown
		for i, host := range hosts {
			r.NodeEndpoints = append(r.NodeEndpoints, kmsg.ShareFetchResponseNodeEndpoint{NodeID: int32(i), Host: host, Port: 9092})
		}
	}
	return resp
}

var streamedKeys = []protocol.APIKey{protocol.Fetch, protocol.ShareFetch}

// constant maps all brokers to one host.
func constant(host string) directory {
	return func(Broker) (string, int32) { return host, 19092 }
}

// Each gap is filled, also those of a byte more than a tagged field has: 127 and 16383 zeros are
// followed by a longer size.
func TestAHintOfAnyLengthIsReplacedOrBlanked(t *testing.T) {
	hosts := func(n int) []string { return []string{strings.Repeat("b", n) + domain} }
	for _, key := range streamedKeys {
		for _, tags := range [][]uint32{nil, {126}, {3, 127}, {128}, {1<<31 - 4}} {
			for n := range 450 {
				checkHint(t, constant("h"), hinted(key, hosts(n), tags...))
				checkHint(t, nowhere, hinted(key, hosts(n), tags...))
			}
			checkHint(t, oneShorter, hinted(key, hosts(9), tags...))
			checkHint(t, longNames, hinted(key, hosts(9), tags...))
			for n := 16330; n < 16420; n++ {
				checkHint(t, constant("h"), hinted(key, hosts(n), tags...))
				checkHint(t, nowhere, hinted(key, hosts(n), tags...))
			}
		}
	}
}

func checkHint(t *testing.T, d directory, resp kmsg.Response) Result {
	t.Helper()
	key, version, frame := protocol.APIKey(resp.Key()), resp.GetVersion(), frameOf(resp)
	got, res, err := relay(&Rewriter{Directory: d}, key, version, frame)
	if err != nil {
		t.Fatalf("%v\n%x", err, frame)
	}
	wantNoHost(t, got)
	if len(got) != len(frame) {
		t.Fatalf("length %d became %d", len(frame), len(got))
	}
	again, _, err := relay(&Rewriter{Directory: d}, key, version, got)
	if err != nil || res.Blanked > 0 && !bytes.Equal(again, got) {
		t.Fatalf("rewritten twice: %v\n got %x\nwant %x", err, again, got)
	}
	want := expected(resp, d, res.Blanked > 0)
	if clean := withoutPadding(parse(t, key, version, got), want); !bytes.Equal(encoded(clean), encoded(want)) {
		t.Fatalf("%+v\n got %x\nwant %x\nfrom %x", res, encoded(clean), encoded(want), frame)
	}
	return res
}

// Whether clients get a hint must not depend on luck: with short local names they do, unless an
// advertised host is just one byte longer.
func TestAHintSurvivesWhereItFits(t *testing.T) {
	for _, key := range streamedKeys {
		for host, want := range map[string]Result{
			"123456789" + domain:               {Rewritten: 1},
			strings.Repeat("x", 9):             {Rewritten: 1},
			strings.Repeat("x", 10):            {Blanked: 1},
			strings.Repeat("x", 11):            {Rewritten: 1},
			strings.Repeat("x", 8):             {Blanked: 1},
			strings.Repeat("x", 240) + domain:  {Rewritten: 1},
			strings.Repeat("x", 9+129) + "yyy": {Rewritten: 1},
		} {
			if got := checkHint(t, constant("127.0.0.1"), hinted(key, []string{host})); got != want {
				t.Errorf("%s, host of %d bytes: %+v, want %+v", key, len(host), got, want)
			}
		}
	}
}

func TestATailThatIsTooLongIsBlankedAsItStreams(t *testing.T) {
	hosts := make([]string, 2000)
	for i := range hosts {
		hosts[i] = fmt.Sprintf("broker-%d%s", i, domain)
	}
	for _, key := range streamedKeys {
		resp := hinted(key, hosts)
		frame := frameOf(resp)
		src := io.MultiReader(bytes.NewReader(frame[:len(frame)-1000]), bytes.NewReader(frame[len(frame)-1000:]))
		got, res, err := relayFrom(&Rewriter{Directory: loopback}, key, resp.GetVersion(), src, int64(len(frame)))
		if err != nil || res.Blanked == 0 || len(got) != len(frame) {
			t.Fatalf("%s: %d bytes of %d, %+v, %v", key, len(got), len(frame), res, err)
		}
		wantNoHost(t, got)
		if got := parse(t, key, resp.GetVersion(), got); endpoints(got).Len() > 0 {
			t.Errorf("%s: %d endpoints are left", key, endpoints(got).Len())
		}
		got, _, err = relayFrom(&Rewriter{Directory: loopback}, key, resp.GetVersion(), bytes.NewReader(frame[:len(frame)-1]), int64(len(frame)))
		wantNoHost(t, got)
		if err != io.ErrUnexpectedEOF {
			t.Errorf("%s cut short: %v, want %v", key, err, io.ErrUnexpectedEOF)
		}
	}
}

// With a tagged field of the last number there is no room for another behind it.
func TestAHintBeforeTheLastTaggedFieldIsBlanked(t *testing.T) {
	for _, key := range streamedKeys {
		resp := hinted(key, []string{"broker" + domain}, math.MaxInt32)
		frame := frameOf(resp)
		got, res, err := relay(&Rewriter{Directory: loopback}, key, resp.GetVersion(), frame)
		if err != nil || res.Blanked != 1 || len(got) != len(frame) {
			t.Errorf("%s: %d bytes of %d, %+v, %v", key, len(got), len(frame), res, err)
		}
		wantNoHost(t, got)
		parse(t, key, resp.GetVersion(), got)
	}
}

// Java and librdkafka read a tagged field that they know in place, others take its size for true:
// one that lies shows an address to either.
func TestATaggedFieldThatLiesIsRefused(t *testing.T) {
	fetch := "00000000 0000 00000000 01"
	endpoint := "02 00000001 02 62 00002384 00 00" // 13 bytes
	for name, tail := range map[string]string{
		"size too large":     "01 00 0e" + endpoint + "00",
		"size too small":     "01 00 0c" + endpoint,
		"size beyond frame":  "01 00 7f" + endpoint,
		"count beyond frame": "01 00 0d 7f" + endpoint[2:],
		"two of them":        "02 00 0d" + endpoint + "00 0d" + endpoint,
		"a varint too long":  "01 00 8d8080808000" + endpoint,
		"a varint too large": "01 ffffffff0f 00",
		"bytes behind":       "01 00 0d" + endpoint + "00",
	} {
		t.Run(name, func(t *testing.T) {
			frame := append(unhex(t, "00000000 00000007 00"), unhex(t, fetch+tail)...)
			binary.BigEndian.PutUint32(frame, uint32(len(frame)-4))
			got, _, err := relay(&Rewriter{Directory: identity}, protocol.Fetch, 18, frame)
			wantUndecodable(t, err)
			if len(got) > 4+4+1+11 {
				t.Errorf("the tail has been passed: %x", got)
			}
		})
	}
}

// fetchOf returns a healthy Fetch response with records of so many bytes in each partition.
func fetchOf(partitions, size int) []byte {
	resp := kmsg.NewPtrFetchResponse()
	resp.Version = 18
	topic := kmsg.NewFetchResponseTopic()
	for i := range partitions {
		p := kmsg.NewFetchResponseTopicPartition()
		p.Partition, p.RecordBatches = int32(i), make([]byte, size)
		topic.Partitions = append(topic.Partitions, p)
	}
	resp.Topics = append(resp.Topics, topic)
	return frameOf(resp)
}

// heldBytes gives its bytes in chunks and notes, at each read, how many of those before have not
// been passed.
type heldBytes struct {
	b     []byte
	chunk int
	given int
	out   *bytes.Buffer
	most  int // held back
}

func (c *heldBytes) Read(b []byte) (int, error) {
	c.most = max(c.most, c.given-c.out.Len())
	n := copy(b[:min(len(b), c.chunk)], c.b[c.given:])
	c.given += n
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func TestNothingOfAFetchWaitsForWhatHasNotArrived(t *testing.T) {
	frame := fetchOf(20, 100_000)
	var out bytes.Buffer
	src := &heldBytes{b: frame, chunk: 1000, out: &out}
	f := protocol.NewFlow(src, &out)
	if _, err := (&Rewriter{Directory: loopback}).Relay(f, protocol.Fetch, 18, int64(len(frame))); err != nil {
		t.Fatal(err)
	}
	if err := f.Flush(); err != nil || !bytes.Equal(out.Bytes(), frame) {
		t.Errorf("the frame has changed, %v", err)
	}
	if src.most > 48 {
		t.Errorf("%d bytes were held back while it waited, want no more than one field", src.most)
	}
}

// repeat gives a frame again and again.
type repeat struct {
	b  []byte
	at int
}

func (r *repeat) Read(b []byte) (int, error) {
	n := copy(b, r.b[r.at:])
	r.at = (r.at + n) % len(r.b)
	return n, nil
}

func TestAHealthyResponseIsRelayedWithoutAllocating(t *testing.T) {
	produce := kmsg.NewPtrProduceResponse()
	produce.Version = 12
	share := hinted(protocol.ShareFetch, nil)
	for name, tt := range map[string]struct {
		key     protocol.APIKey
		version int16
		frame   []byte
	}{
		"Fetch of 2000 partitions":  {protocol.Fetch, 18, fetchOf(2000, 20)},
		"Fetch of a large batch":    {protocol.Fetch, 18, fetchOf(1, 1<<20)},
		"ShareFetch":                {protocol.ShareFetch, 2, frameOf(share)},
		"Produce":                   {protocol.Produce, 12, frameOf(produce)},
		"Heartbeat":                 {12, 4, frameOf(kmsg.NewPtrHeartbeatResponse())},
		"Fetch that had a hint cut": {protocol.Fetch, 18, frameOf(hinted(protocol.Fetch, nil, 127))},
	} {
		t.Run(name, func(t *testing.T) {
			f := protocol.NewFlow(&repeat{b: tt.frame}, io.Discard)
			w := &Rewriter{Directory: loopback}
			n := testing.AllocsPerRun(100, func() {
				if _, err := w.Relay(f, tt.key, tt.version, int64(len(tt.frame))); err != nil {
					t.Fatal(err)
				}
			})
			if n > 0 {
				t.Errorf("%g allocations for each response, want 0", n)
			}
		})
	}
}

func TestALargeFetchTakesNoMemory(t *testing.T) {
	frame := fetchOf(4, 10<<20)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f := protocol.NewFlow(bytes.NewReader(frame), io.Discard)
	if _, err := (&Rewriter{Directory: loopback}).Relay(f, protocol.Fetch, 17, int64(len(frame))); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 256<<10 {
		t.Errorf("%d KiB were allocated, want no more than the buffer of 64", n>>10)
	}
}

// A count that a broker claims must neither take memory nor time before the bytes are there.
func TestACountAloneCostsNothing(t *testing.T) {
	for key, body := range map[protocol.APIKey]string{
		protocol.Fetch:      "00 00000000 0000 00000000 80ffff9f04",
		protocol.ShareFetch: "00 00000000 0000 00 00000000 80ffff9f04",
		protocol.Metadata:   "00 00000000 80ffff9f04",
	} {
		head := unhex(t, "7ffffff0 00000007"+body)
		got, _, err := relayFrom(&Rewriter{Directory: loopback}, key, key.MaxVersion(), bytes.NewReader(head), 0x7ffffff4)
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: %v, want %v", key, err, io.ErrUnexpectedEOF)
		}
		wantNoHost(t, got)
	}
}
