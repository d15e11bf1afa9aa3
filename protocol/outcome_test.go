package protocol

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"reflect"
	"slices"
	"testing"
	"testing/iotest"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// outcomeFrame is a response to a request with correlation id 7, with a throttle time and an error
// where this version has them, and what it has of each of its fields.
func outcomeFrame(key APIKey, version int16, throttle int32, code int16, filled bool) []byte {
	r := kmsg.ResponseForKey(int16(key))
	r.SetVersion(version)
	v := reflect.ValueOf(r).Elem()
	if filled {
		fill(v)
	}
	if f := v.FieldByName("ThrottleMillis"); f.IsValid() {
		f.SetInt(int64(throttle))
	}
	if f := v.FieldByName("ErrorCode"); f.IsValid() {
		f.SetInt(int64(code))
	}
	b := []byte{0, 0, 0, 0, 0, 0, 0, 7}
	if key.FlexibleResponseHeader(version) {
		b = append(b, 0)
	}
	b = r.AppendTo(b)
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return b
}

// decoded is what kmsg reads at a frame's top level.
func decoded(t *testing.T, key APIKey, version int16, frame []byte) (throttle int32, code int16) {
	t.Helper()
	r := kmsg.ResponseForKey(int16(key))
	r.SetVersion(version)
	body := frame[8:]
	if key.FlexibleResponseHeader(version) {
		body = body[1:]
	}
	if err := r.ReadFrom(body); err != nil {
		t.Fatalf("kmsg reads %s v%d: %v", key, version, err)
	}
	v := reflect.ValueOf(r).Elem()
	if f := v.FieldByName("ThrottleMillis"); f.IsValid() {
		throttle = int32(f.Int())
	}
	if f := v.FieldByName("ErrorCode"); f.IsValid() {
		code = int16(f.Int())
	}
	return throttle, code
}

// TestOutcomesAreReadAsKmsgReadsThem lists what kmsg reads and we do not: what is not at the
// beginning of a response. Package rewrite reads some of it.
func TestOutcomesAreReadAsKmsgReadsThem(t *testing.T) {
	var throttles, errors []string
	missing := func(list *[]string, key APIKey, version int16) {
		if name := fmt.Sprintf("%s v%d", key, version); !slices.Contains(*list, name) {
			*list = append(*list, name)
		}
	}
	for key := range MaxKey + 1 {
		for version := range key.MaxVersion() + 1 {
			for _, filled := range []bool{false, true} {
				frame := outcomeFrame(key, version, 1234, 29, filled)
				throttle, code := decoded(t, key, version, frame)
				o, err := PeekOutcome(NewFlow(bytes.NewReader(frame), io.Discard), key, version, int64(len(frame)))
				if err != nil {
					t.Fatal(err)
				}
				switch {
				case o.Throttle == throttle:
				case o.Throttle == 0:
					missing(&throttles, key, version)
				default:
					t.Errorf("%s v%d: throttle time %d, kmsg reads %d", key, version, o.Throttle, throttle)
				}
				switch authorization := ErrorClasses(1 << ClassAuthorization); {
				case o.Errors == authorization && code == 29, o.Errors == 0 && code == 0:
				case o.Errors == 0:
					missing(&errors, key, version)
				default:
					t.Errorf("%s v%d: errors %b, kmsg reads %d", key, version, o.Errors, code)
				}
			}
		}
	}
	of := func(key string, from, to int) (all []string) {
		for v := from; v <= to; v++ {
			all = append(all, fmt.Sprintf("%s v%d", key, v))
		}
		return all
	}
	wantThrottles := slices.Concat(of("Produce", 1, 13), of("ApiVersions", 1, 5), of("CreateDelegationToken", 0, 3), of("RenewDelegationToken", 0, 2),
		of("ExpireDelegationToken", 0, 2), of("DescribeDelegationToken", 0, 3))
	if !slices.Equal(throttles, wantThrottles) {
		t.Errorf("throttle times are not read of %v, want %v", throttles, wantThrottles)
	}
	if want := slices.Concat(of("Metadata", 13, 13), of("OffsetFetch", 2, 7), of("Envelope", 0, 0)); !slices.Equal(errors, want) {
		t.Errorf("errors are not read of %v, want %v", errors, want)
	}
}

// The layout of a few responses, as Kafka's message definitions have them.
func TestOutcomesOfKnownBytes(t *testing.T) {
	for name, tt := range map[string]struct {
		key     APIKey
		version int16
		body    string
		want    Outcome
	}{
		"Heartbeat v0: error":                     {12, 0, "\x00\x19", Outcome{0, 1 << ClassGroup}},
		"Heartbeat v3: throttle, error":           {12, 3, "\x00\x00\x01\x00\x00\x1b", Outcome{256, 1 << ClassGroup}},
		"Heartbeat v4: tags, throttle, error":     {12, 4, "\x00\x00\x00\x01\x00\x00\x1b\x00", Outcome{256, 1 << ClassGroup}},
		"Heartbeat v4 with tags in its header":    {12, 4, "\x01\x05\x00\x00\x00\x01\x00\x00\x1b\x00", Outcome{}},
		"SaslAuthenticate v1: error":              {36, 1, "\x00\x3a\x00\x03bad\x00\x00\x00\x00", Outcome{0, 1 << ClassAuthentication}},
		"ApiVersions v4, as of v0":                {18, 4, "\x00\x23\x00\x00\x00\x00", Outcome{0, 1 << ClassVersion}},
		"OffsetDelete v0: error before throttle":  {47, 0, "\x00\x44\x00\x00\x00\x05\x00\x00\x00\x00", Outcome{5, 1 << ClassGroup}},
		"Fetch v1: throttle":                      {1, 1, "\x00\x00\x00\x09\x00\x00\x00\x00", Outcome{Throttle: 9}},
		"a throttle time below zero":              {1, 7, "\xff\xff\xff\xff\x00\x00\x00\x00\x00\x00", Outcome{}},
		"the least throttle time":                 {1, 7, "\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00", Outcome{}},
		"the largest throttle time":               {1, 7, "\x7f\xff\xff\xff\x7f\xff\x00\x00\x00\x00", Outcome{3_600_000, 1 << ClassOther}},
		"a response that ends before its error":   {12, 3, "\x00\x00\x01\x00\x00", Outcome{}},
		"a response without a body":               {12, 3, "", Outcome{}},
		"a version that is newer than the schema": {12, 99, "\x00\x00\x01\x00\x00\x1b", Outcome{}},
		"a version below zero":                    {12, -1, "\x00\x00\x01\x00\x00\x1b", Outcome{}},
		"an unknown key":                          {MaxKey + 1, 0, "\x00\x00\x01\x00\x00\x1b", Outcome{}},
		"a key below zero":                        {-1, 0, "\x00\x00\x01\x00\x00\x1b", Outcome{}},
	} {
		frame := append(binary.BigEndian.AppendUint32(nil, uint32(4+len(tt.body))), "\x00\x00\x00\x07"+tt.body...)
		next := "the next response is none of its business"
		f := NewFlow(iotest.OneByteReader(bytes.NewReader(append(frame, next...))), io.Discard)
		if got, err := PeekOutcome(f, tt.key, tt.version, int64(len(frame))); got != tt.want || err != nil {
			t.Errorf("%s: %+v, %v, want %+v", name, got, err, tt.want)
		}
	}
}

func FuzzPeekOutcome(f *testing.F) {
	for key := range MaxKey + 1 {
		f.Add(int16(key), key.MaxVersion(), outcomeFrame(key, key.MaxVersion(), math.MaxInt32, -1, false)[4:])
		f.Add(int16(key), int16(0), outcomeFrame(key, 0, -1, math.MinInt16, true)[4:])
	}
	f.Add(int16(-1), int16(-1), []byte("\x00\x00\x00\x07\x00"))
	f.Fuzz(func(t *testing.T, key, version int16, b []byte) {
		if len(b) < 4 || len(b) > 1<<10 {
			return
		}
		frame := append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
		var passed bytes.Buffer
		flow := NewFlow(bytes.NewReader(frame), &passed)
		size, _, err := PeekResponse(flow)
		if err != nil {
			return
		}
		o, err := PeekOutcome(flow, APIKey(key), version, size)
		if err != nil {
			t.Fatalf("%v, of a response that has arrived", err)
		}
		if o.Throttle < 0 || o.Throttle > maxThrottle || o.Errors >= 1<<NumErrorClasses {
			t.Errorf("%+v", o)
		}
		cut := NewFlow(iotest.OneByteReader(bytes.NewReader(frame)), io.Discard)
		if o2, err := PeekOutcome(cut, APIKey(key), version, size); o2 != o || err != nil || cut.Buffered() > 16 {
			t.Errorf("%+v, %v after %d bytes, want %+v after 16 at most", o2, err, cut.Buffered(), o)
		}
		if flow.PassThrough(size) != nil || flow.Flush() != nil || !bytes.Equal(passed.Bytes(), frame) {
			t.Errorf("%x was passed, want %x", passed.Bytes(), frame)
		}
	})
}

// BenchmarkPeekOutcome is what one response costs.
func BenchmarkPeekOutcome(b *testing.B) {
	frame := outcomeFrame(1, 17, 0, 0, false)
	f := NewFlow(bytes.NewReader(frame), io.Discard)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := PeekOutcome(f, 1, 17, int64(len(frame))); err != nil {
			b.Fatal(err)
		}
	}
}
