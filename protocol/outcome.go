package protocol

import (
	"encoding/binary"
	"reflect"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Outcome is what a response says about its request besides what was asked for.
type Outcome struct {
	Throttle int32 // milliseconds for which the client is asked to wait; see SetThrottle
	Errors   ErrorClasses
}

// maxThrottle bounds a throttle time, in milliseconds: an hour. A broker asks for as long as it takes
// until the client's average is below its quota: 35 minutes after 2 MB where 1 KiB/s is allowed. The
// largest number, 25 days, would hide all others in a sum.
const maxThrottle = 60 * 60 * 1000

// SetThrottle sets Throttle to what a broker sent, between 0 and an hour.
func (o *Outcome) SetThrottle(millis int32) { o.Throttle = min(max(millis, 0), maxThrottle) }

// And returns what both say of one response.
func (o Outcome) And(p Outcome) Outcome {
	return Outcome{max(o.Throttle, p.Throttle), o.Errors | p.Errors}
}

// outcomeAt is where the responses of one version of an API have their throttle time and their error:
// offsets from the beginning of the frame, 0 for what they do not have, or not at a fixed place.
type outcomeAt struct {
	throttle, err uint8
	size          uint8 // of the frame up to and with what is read; 0: nothing is
}

// outcomes holds that of each version of each API, and is indexed by both.
var outcomes = readOutcomes()

// PeekOutcome reads what the next response in f says in its first bytes, and passes nothing. It
// reads at most eight bytes more than [PeekResponse] has. Not all responses have these fields there,
// and those of an API key or version that the schema does not know are not read.
func PeekOutcome(f *Flow, key APIKey, version int16, size int64) (o Outcome, err error) {
	if !key.Known() || version < 0 || int(version) >= len(outcomes[key]) {
		return o, nil
	}
	at := outcomes[key][version]
	if at.size == 0 || int64(at.size) > size {
		return o, nil
	}
	b, err := f.Peek(int(at.size), maxHead)
	if err != nil {
		return o, err
	}
	if key.FlexibleResponseHeader(version) && b[responseBodyAt] != 0 {
		return o, nil // tagged fields in the header, which no broker sends
	}
	if at.throttle > 0 {
		o.SetThrottle(int32(binary.BigEndian.Uint32(b[at.throttle:])))
	}
	if at.err > 0 {
		o.Errors.Add(int16(binary.BigEndian.Uint16(b[at.err:])))
	}
	return o, nil
}

// responseBodyAt is where the body of a response begins, or the count of its header's tagged fields.
const responseBodyAt = responseIDAt + 4

func readOutcomes() (all [MaxKey + 1][]outcomeAt) {
	for k := range all {
		key := APIKey(k)
		for version := range key.MaxVersion() + 1 {
			body := responseBodyAt
			if key.FlexibleResponseHeader(version) {
				body++
			}
			var at outcomeAt
			place := func(field string, value any, size int) uint8 {
				offset, ok := fixedOffset(key, version, field, value)
				if !ok || offset > maxOutcomeOffset {
					return 0
				}
				at.size = max(at.size, uint8(body+offset+size))
				return uint8(body + offset)
			}
			at.throttle = place("ThrottleMillis", int32(0x7f7f7f7f), 4)
			at.err = place("ErrorCode", int16(0x7f7f), 2)
			all[k] = append(all[k], at)
		}
	}
	return all
}

// maxOutcomeOffset bounds where in a body a field is read: behind at most a throttle time and a
// byte, so that nearly nothing has to arrive first.
const maxOutcomeOffset = 5

// fixedOffset returns where the body of a response has a field: at the first byte that changes with
// it. ok is false if this version has none, or if the place depends on the length of other fields.
func fixedOffset(key APIKey, version int16, field string, value any) (offset int, ok bool) {
	r := kmsg.ResponseForKey(int16(key))
	r.SetVersion(version)
	f := reflect.ValueOf(r).Elem().FieldByName(field)
	if !f.IsValid() || f.Type() != reflect.TypeOf(value) {
		return 0, false
	}
	offset = -1
	for _, filled := range []bool{false, true} {
		if filled {
			fill(reflect.ValueOf(r).Elem())
		}
		f.SetZero()
		without := r.AppendTo(nil)
		f.Set(reflect.ValueOf(value))
		at := firstDifference(without, r.AppendTo(nil))
		if at < 0 || filled && at != offset {
			return 0, false
		}
		offset = at
	}
	return offset, true
}

// fill gives a length to each field of a struct that can have one.
func fill(v reflect.Value) {
	for _, f := range v.Fields() {
		switch f.Kind() {
		case reflect.String:
			f.SetString("filled")
		case reflect.Slice:
			f.Set(reflect.MakeSlice(f.Type(), 3, 3))
		case reflect.Pointer:
			f.Set(reflect.New(f.Type().Elem()))
		}
	}
}

// firstDifference returns where a and b begin to differ, or -1.
func firstDifference(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return -1
}
