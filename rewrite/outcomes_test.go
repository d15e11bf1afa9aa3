package rewrite

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/culvert-proxy/culvert/protocol"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// someErrors gives the error codes in a response values that brokers send: mostly none.
func someErrors(v reflect.Value, random *rand.Rand) {
	codesIn(v, func(code reflect.Value) {
		code.SetInt(0)
		if random.IntN(3) == 0 {
			code.SetInt(int64(random.IntN(140) - 1))
		}
	})
}

// codesIn calls f for each error code in a response.
func codesIn(v reflect.Value, f func(reflect.Value)) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			codesIn(v.Elem(), f)
		}
	case reflect.Slice:
		for i := range v.Len() {
			codesIn(v.Index(i), f)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if field := v.Type().Field(i); strings.HasSuffix(field.Name, "ErrorCode") {
				f(v.Field(i))
			} else if field.IsExported() && field.Type != tagsType {
				codesIn(v.Field(i), f)
			}
		}
	}
}

// outcomeOf is what kmsg reads in a frame, wherever it is.
func outcomeOf(t *testing.T, key protocol.APIKey, version int16, frame []byte) (o protocol.Outcome) {
	t.Helper()
	r := parse(t, key, version, frame)
	codesIn(reflect.ValueOf(r), func(code reflect.Value) { o.Errors.Add(int16(code.Int())) })
	if f := reflect.ValueOf(r).Elem().FieldByName("ThrottleMillis"); f.IsValid() {
		o.SetThrottle(int32(f.Int()))
	}
	return o
}

// peek is what is read at the beginning of a frame.
func peek(t *testing.T, key protocol.APIKey, version int16, frame []byte) protocol.Outcome {
	t.Helper()
	o, err := protocol.PeekOutcome(protocol.NewFlow(bytes.NewReader(frame), io.Discard), key, version, int64(len(frame)))
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// pass runs a frame through Pass.
func pass(key protocol.APIKey, version int16, from io.Reader, size int64) ([]byte, protocol.Outcome, error) {
	var out bytes.Buffer
	f := protocol.NewFlow(from, &out)
	o, err := Pass(f, key, version, size)
	f.Flush()
	return out.Bytes(), o, err
}

// TestErrorsAreReadAsKmsgReadsThem compares what is read of random responses, at both ends of a
// tunnel and however the bytes arrive, with what kmsg reads.
func TestErrorsAreReadAsKmsgReadsThem(t *testing.T) {
	read := 0
	for key := range protocol.MaxKey + 1 {
		for version := range key.MaxVersion() + 1 {
			touched := Touches(key, version) && rowOf(key).names != Controllers
			if errorWalks[key] == nil && !touched {
				continue
			}
			for seed := range uint64(60) {
				r := newFiller(seed).response(key, version)
				someErrors(reflect.ValueOf(r), rand.New(rand.NewPCG(seed, 2)))
				r.SetVersion(version)
				frame := frameOf(r)
				want := outcomeOf(t, key, version, frame)
				check := func(how string, o protocol.Outcome) {
					t.Helper()
					first := peek(t, key, version, frame)
					if o.Errors |= first.Errors; o.Errors != want.Errors || max(o.Throttle, first.Throttle) != want.Throttle {
						t.Fatalf("%s v%d, %s: %+v behind %+v, kmsg reads %+v in\n%x", key, version, how, o, first, want, frame)
					}
					if want.Errors != 0 {
						read++
					}
				}
				if len(frame) > maxRead {
					continue
				}
				if errorWalks[key] != nil {
					got, o, err := pass(key, version, bytes.NewReader(frame), int64(len(frame)))
					if err != nil || !bytes.Equal(got, frame) {
						t.Fatalf("%s v%d: %v, passed\n%x, want\n%x", key, version, err, got, frame)
					}
					check("passed", o)
					got, o, err = pass(key, version, iotest.OneByteReader(bytes.NewReader(frame)), int64(len(frame)))
					if err != nil || !bytes.Equal(got, frame) {
						t.Fatalf("%s v%d, byte by byte: %v, passed\n%x, want\n%x", key, version, err, got, frame)
					}
					check("passed byte by byte", o)
				}
				if all := openCaps(); touched {
					if cluster, is := r.(*kmsg.DescribeClusterResponse); is && cluster.EndpointType == controllerEndpoints {
						continue
					}
					_, result, err := relay(&Rewriter{Directory: loopback, Caps: &all, RelayUnknown: true}, key, version, frame)
					if err != nil {
						t.Fatalf("%s v%d: %v", key, version, err)
					}
					check("rewritten", result.Outcome)
				}
			}
		}
	}
	if read < 1000 {
		t.Errorf("%d responses had errors: the test tests little", read)
	}
}

// TestPageListsWhoseErrorsAreRead compares docs/metrics.md with what kmsg knows and we read.
func TestPageListsWhoseErrorsAreRead(t *testing.T) {
	page, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	var not []string
	for key := range protocol.MaxKey + 1 {
		version := key.MaxVersion()
		r := kmsg.ResponseForKey(int16(key))
		r.SetVersion(version)
		top := reflect.ValueOf(r).Elem().FieldByName("ErrorCode").IsValid()
		if !top && errorWalks[key] == nil && Reviewed()[key] >= 0 {
			not = append(not, key.String())
		}
	}
	text := strings.Join(strings.Fields(string(page)), " ")
	if want := "not read: " + strings.Join(not, ", ") + "."; !strings.Contains(text, want) {
		t.Errorf("docs/metrics.md lacks\n%s", want)
	}
}

// A Fetch response of many megabytes is read as far as its first records.
func TestLargeResponsesAreNotReadToTheirEnd(t *testing.T) {
	for _, version := range []int16{4, 11, 15, 17} {
		r := kmsg.NewPtrFetchResponse()
		r.Version = version
		topic := kmsg.NewFetchResponseTopic()
		for i := range 40 {
			p := kmsg.NewFetchResponseTopicPartition()
			p.RecordBatches = make([]byte, 1<<20)
			if i == 0 {
				p.ErrorCode = 29
			} else if i > 10 {
				p.ErrorCode = 3
			}
			topic.Partitions = append(topic.Partitions, p)
		}
		r.Topics = append(r.Topics, topic)
		frame := frameOf(r)
		got, o, err := pass(protocol.Fetch, version, bytes.NewReader(frame), int64(len(frame)))
		if err != nil || !bytes.Equal(got, frame) {
			t.Fatalf("v%d: %v, %d bytes passed of %d", version, err, len(got), len(frame))
		}
		if o.Errors != 1<<protocol.ClassAuthorization {
			t.Errorf("v%d: errors %b, want that of the first partition alone", version, o.Errors)
		}
	}
}

// What a gateway or an agent reads of a response never holds back a byte that a client could use:
// all but what the next field lacks has been passed when it waits.
func TestReadingErrorsHoldsNothingBack(t *testing.T) {
	r := kmsg.NewPtrMetadataResponse()
	r.Version = 12
	topic := kmsg.NewMetadataResponseTopic()
	topic.Topic = new(strings.Repeat("t", 200))
	r.Topics = []kmsg.MetadataResponseTopic{topic, topic}
	r.Brokers = []kmsg.MetadataResponseBroker{{NodeID: 1, Host: strings.Repeat("h", 200), Port: 9092}}
	frame := frameOf(r)
	for cut := range len(frame) {
		waits := &waiting{Reader: bytes.NewReader(frame[:cut])}
		var out bytes.Buffer
		f := protocol.NewFlow(waits, &out)
		waits.atEnd = func() {
			if held := cut - out.Len(); held > 30 {
				t.Errorf("%d bytes are held while the one behind %d is waited for", held, cut)
			}
		}
		Pass(f, protocol.Metadata, 12, int64(len(frame)))
		if waits.atEnd != nil {
			t.Fatalf("cut at %d, nothing was waited for", cut)
		}
	}
}

// waiting calls atEnd when all has been read.
type waiting struct {
	*bytes.Reader
	atEnd func()
}

func (w *waiting) Read(b []byte) (int, error) {
	if w.Len() == 0 && w.atEnd != nil {
		w.atEnd()
		w.atEnd = nil
	}
	return w.Reader.Read(b)
}

// FuzzPass checks that whatever a broker sends is passed as it is, however it arrives; that what is
// read of it is within its bounds and costs memory in proportion; and that nothing of the next
// response is taken.
func FuzzPass(f *testing.F) {
	for key := range protocol.MaxKey + 1 {
		for version := range key.MaxVersion() + 1 {
			if errorWalks[key] == nil {
				continue
			}
			r := newFiller(uint64(version)).response(key, version)
			someErrors(reflect.ValueOf(r), rand.New(rand.NewPCG(uint64(key), 2)))
			if frame := frameOf(r); len(frame) < 4<<10 {
				f.Add(uint8(key), uint8(version), uint8(5), frame[4:])
			}
		}
	}
	f.Fuzz(func(t *testing.T, k, v, chunk uint8, body []byte) {
		if len(body) < 4 || len(body) > 1<<20 {
			return
		}
		key, version := protocol.APIKey(k), int16(v)
		frame := append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
		next := []byte("the next response")
		for _, from := range []io.Reader{
			bytes.NewReader(slices.Concat(frame, next)), chunks{bytes.NewReader(slices.Concat(frame, next)), int(chunk) + 1},
		} {
			var out bytes.Buffer
			flow := protocol.NewFlow(from, &out)
			o, err := Pass(flow, key, version, int64(len(frame)))
			if flow.Flush(); err != nil || !bytes.Equal(out.Bytes(), frame) {
				t.Fatalf("%v, %x was passed, want %x", err, out.Bytes(), frame)
			}
			if o.Throttle < 0 || o.Throttle > 3_600_000 || o.Errors >= 1<<protocol.NumErrorClasses {
				t.Errorf("%+v", o)
			}
			if b, err := flow.Peek(len(next), len(next)); err != nil || !bytes.Equal(b, next) {
				t.Errorf("%q, %v behind the response, want %q", b, err, next)
			}
		}
		if n := testing.AllocsPerRun(1, func() { pass(key, version, bytes.NewReader(frame), int64(len(frame))) }); n > 40 {
			t.Errorf("%v allocations", n)
		}
	})
}

func ExamplePass() {
	r := kmsg.NewPtrProduceResponse()
	r.Version, r.ThrottleMillis = 9, 250
	p := kmsg.NewProduceResponseTopicPartition()
	p.ErrorCode = 29 // TOPIC_AUTHORIZATION_FAILED
	r.Topics = []kmsg.ProduceResponseTopic{{Topic: "orders", Partitions: []kmsg.ProduceResponseTopicPartition{p}}}
	frame := frameOf(r)
	o, err := Pass(protocol.NewFlow(bytes.NewReader(frame), io.Discard), protocol.Produce, 9, int64(len(frame)))
	fmt.Println(o.Throttle, o.Errors.Has(protocol.ClassAuthorization), err)
	// Output: 250 true <nil>
}
