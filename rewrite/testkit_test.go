package rewrite

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/culvert-proxy/culvert/protocol"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// domain ends the hosts that must not reach a client; no other string in the tests has it.
const domain = ".kafka.internal.invalid"

// directory is a Directory for tests: a function from a broker to its local address. An empty host
// means that there is none.
type directory func(Broker) (string, int32)

func (d directory) Learn(string, []Broker) error { return nil }

func (d directory) Local(b Broker) (string, int32, bool) {
	host, port := d(b)
	return host, port, host != ""
}

var (
	identity directory = func(b Broker) (string, int32) { return b.Host, b.Port }
	nowhere  directory = func(Broker) (string, int32) { return "", 0 }
	loopback directory = func(b Broker) (string, int32) { return "127.0.0.1", 19000 + b.NodeID&0xff }
	// longer than all that the tests advertise
	longNames directory = func(b Broker) (string, int32) {
		return strings.Repeat("long.", 50) + "example", 19000 + b.NodeID&0xff
	}
	// oneShorter leaves a gap that no tagged field fills
	oneShorter directory = func(b Broker) (string, int32) {
		return strings.Repeat("x", max(1, len(b.Host)-1)), 19000
	}
	oddMissing directory = func(b Broker) (string, int32) {
		if b.NodeID&1 == 1 {
			return "", 0
		}
		return loopback(b)
	}
	directories = map[string]directory{
		"loopback": loopback, "nowhere": nowhere, "longNames": longNames, "oneShorter": oneShorter, "oddMissing": oddMissing,
	}
)

// touched are the API keys whose responses are rewritten.
var touched = func() (keys []protocol.APIKey) {
	for key := range protocol.MaxKey + 1 {
		if key == protocol.APIVersions || rowOf(key).how != nil {
			keys = append(keys, key)
		}
	}
	return keys
}()

// isStreamed reports whether responses keep their length.
func isStreamed(key protocol.APIKey) bool {
	_, ok := rowOf(key).how.(streamed)
	return ok
}

// eachVersion runs f for each version of each touched key.
func eachVersion(t *testing.T, f func(t *testing.T, key protocol.APIKey, version int16)) {
	for _, key := range touched {
		for version := int16(0); version <= key.MaxVersion(); version++ {
			t.Run(fmt.Sprintf("%s/v%d", key, version), func(t *testing.T) { f(t, key, version) })
		}
	}
}

// frameOf returns a response as a frame, with correlation id 7.
func frameOf(resp kmsg.Response) []byte {
	b := []byte{0, 0, 0, 0, 0, 0, 0, 7}
	if protocol.APIKey(resp.Key()).FlexibleResponseHeader(resp.GetVersion()) {
		b = append(b, 0)
	}
	b = resp.AppendTo(b)
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return b
}

// parse decodes a frame.
func parse(t *testing.T, key protocol.APIKey, version int16, frame []byte) kmsg.Response {
	t.Helper()
	if got := binary.BigEndian.Uint32(frame); int(got) != len(frame)-4 {
		t.Fatalf("frame says %d bytes, has %d", got, len(frame)-4)
	}
	body := frame[8:]
	if key.FlexibleResponseHeader(version) {
		body = body[1:]
	}
	resp := kmsg.ResponseForKey(int16(key))
	resp.SetVersion(version)
	if err := resp.ReadFrom(body); err != nil {
		t.Fatalf("decode %s v%d: %v\n%x", key, version, err, frame)
	}
	return resp
}

// relay runs one frame through a Rewriter.
func relay(w *Rewriter, key protocol.APIKey, version int16, frame []byte) ([]byte, Result, error) {
	return relayFrom(w, key, version, bytes.NewReader(frame), int64(len(frame)))
}

func relayFrom(w *Rewriter, key protocol.APIKey, version int16, src io.Reader, size int64) ([]byte, Result, error) {
	var out bytes.Buffer
	f := protocol.NewFlow(src, &out)
	res, err := w.Relay(f, key, version, size)
	if ferr := f.Flush(); err == nil {
		err = ferr
	}
	if err == nil && f.Buffered() > 0 {
		err = fmt.Errorf("%d bytes have not been passed", f.Buffered())
	}
	return out.Bytes(), res, err
}

// filler fills responses with random values.
type filler struct{ *rand.Rand }

func newFiller(seed uint64) filler { return filler{rand.New(rand.NewPCG(seed, 1))} }

// response returns a random response.
func (f filler) response(key protocol.APIKey, version int16) kmsg.Response {
	resp := kmsg.ResponseForKey(int16(key))
	resp.SetVersion(version)
	f.fill(reflect.ValueOf(resp).Elem())
	resp.SetVersion(version)
	if r, ok := resp.(*kmsg.ApiVersionsResponse); ok && r.ErrorCode == unsupportedVersion {
		r.ErrorCode = 0
	}
	if !Touches(key, version) && endpoints(resp).IsValid() {
		endpoints(resp).SetZero() // kmsg would encode it in each flexible version
	}
	return resp
}

var tagsType = reflect.TypeFor[kmsg.Tags]()

func (f filler) fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(f.IntN(2) == 1)
	case reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(int64(f.Uint64()))
	case reflect.Uint16, reflect.Uint32:
		v.SetUint(f.Uint64() & 0xffff)
	case reflect.Float64:
		v.SetFloat(f.Float64())
	case reflect.String:
		v.SetString(strings.Repeat("s", f.length(200)))
	case reflect.Array:
		for i := range v.Len() {
			f.fill(v.Index(i))
		}
	case reflect.Pointer:
		v.SetZero()
		if f.IntN(3) > 0 {
			v.Set(reflect.New(v.Type().Elem()))
			f.fill(v.Elem())
		}
	case reflect.Slice:
		f.slice(v)
	case reflect.Struct:
		f.structure(v)
	}
}

// length is mostly small, and sometimes needs a varint of two bytes.
func (f filler) length(large int) int {
	if f.IntN(10) == 0 {
		return f.IntN(large)
	}
	return f.IntN(5)
}

func (f filler) slice(v reflect.Value) {
	n := f.IntN(4)
	if v.Type().Elem().Kind() == reflect.Uint8 {
		n = f.length(100_000)
	}
	if n == 0 && f.IntN(2) == 0 {
		v.SetZero()
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), n, n))
	if v.Type().Elem().Kind() == reflect.Uint8 {
		return // zeros do
	}
	for i := range n {
		f.fill(v.Index(i))
	}
}

func (f filler) structure(v reflect.Value) {
	if v.Type() == tagsType {
		for range f.IntN(3) {
			v.Addr().Interface().(*kmsg.Tags).Set(uint32(10+f.IntN(300)), make([]byte, f.length(300)))
		}
		return
	}
	for i := range v.NumField() {
		if field := v.Type().Field(i); field.IsExported() {
			f.fill(v.Field(i))
		}
	}
	f.address(v)
}

// address makes a struct with a host name a broker, or no broker.
func (f filler) address(v reflect.Value) {
	host, port := v.FieldByName("Host"), v.FieldByName("Port")
	if !host.IsValid() || !port.IsValid() {
		return
	}
	node := v.FieldByName("NodeID")
	if !node.IsValid() { // a listener of a controller
		node = reflect.ValueOf(new(int32)).Elem()
	}
	if node.SetInt(int64(f.Int32N(50_000))); f.IntN(8) == 0 && port.CanInt() {
		node.SetInt(-1)
		host.SetString("")
		port.SetInt(-1)
		return
	}
	host.SetString("b" + strings.Repeat("b", f.length(150)) + domain)
	if port.CanInt() {
		port.SetInt(9092)
	}
}

// eachAddress calls f for each struct with a host and a port in v, with the id of its node.
func eachAddress(v reflect.Value, node int32, f func(node int32, host, port reflect.Value)) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			eachAddress(v.Elem(), node, f)
		}
	case reflect.Slice:
		for i := range v.Len() {
			eachAddress(v.Index(i), node, f)
		}
	case reflect.Struct:
		if id := v.FieldByName("NodeID"); id.IsValid() {
			node = int32(id.Int())
		}
		if host, port := v.FieldByName("Host"), v.FieldByName("Port"); host.IsValid() && port.IsValid() {
			f(node, host, port)
		}
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() && v.Field(i).CanSet() {
				eachAddress(v.Field(i), node, f)
			}
		}
	}
}

// endpoints returns the leader hint of a response, invalid if it cannot have one.
func endpoints(resp kmsg.Response) reflect.Value {
	v := reflect.ValueOf(resp).Elem()
	if rowOf(protocol.APIKey(resp.Key())).names != Leaders {
		return reflect.Value{}
	}
	if hint := v.FieldByName("NodeEndpoints"); hint.IsValid() {
		return hint
	}
	return v.FieldByName("Brokers")
}

// expected returns what a response is to be when d has replaced its addresses.
func expected(resp kmsg.Response, d directory, blanked bool) kmsg.Response {
	if hint := endpoints(resp); blanked {
		hint.SetZero()
	}
	eachAddress(reflect.ValueOf(resp), -1, func(node int32, host, port reflect.Value) {
		switch {
		case host.String() == "":
		case port.CanInt():
			h, p := d(Broker{node, host.String(), int32(port.Int())})
			host.SetString(h)
			port.SetInt(int64(p))
		default:
			host.SetString(fmt.Sprintf("controller-%d.invalid", node))
			port.SetUint(0)
		}
	})
	return resp
}

// withoutPadding takes out the tagged fields of zeros that got in the place of addresses.
func withoutPadding(resp, original kmsg.Response) kmsg.Response {
	tags := reflect.ValueOf(resp).Elem().FieldByName("UnknownTags").Addr().Interface().(*kmsg.Tags)
	old := reflect.ValueOf(original).Elem().FieldByName("UnknownTags").Addr().Interface().(*kmsg.Tags)
	var kept kmsg.Tags
	known := map[uint32]bool{}
	old.Each(func(k uint32, _ []byte) { known[k] = true })
	tags.Each(func(k uint32, b []byte) {
		if known[k] || strings.Trim(string(b), "\x00") != "" {
			kept.Set(k, b)
		}
	})
	*tags = kept
	return resp
}

func encoded(resp kmsg.Response) []byte { return resp.AppendTo(nil) }

func wantUndecodable(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, ErrUndecodable) {
		t.Errorf("error is %v, want one that wraps %v", err, ErrUndecodable)
	}
}

func wantNoHost(t *testing.T, passed []byte) {
	t.Helper()
	if bytes.Contains(passed, []byte(domain)) {
		t.Fatalf("an advertised host has been passed: %x", passed)
	}
}
