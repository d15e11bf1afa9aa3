package exchange

import (
	"bytes"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/quic-go/qpack"
)

// encodeFields returns the block of a HEADERS frame with these names and values.
func encodeFields(fields ...string) []byte {
	var b bytes.Buffer
	enc := qpack.NewEncoder(&b)
	for i := 0; i < len(fields); i += 2 {
		enc.WriteField(qpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return b.Bytes()
}

var (
	connectFields = []string{":method", "CONNECT", ":protocol", "culvert", ":scheme", "https", ":authority", "gw:443", ":path", "/p/culvert"}
	postFields    = []string{":method", "POST", ":scheme", "https", ":authority", "gw", ":path", "/culvert"}
)

func with(fields []string, more ...string) []string {
	return append(slices.Clip(fields), more...)
}

func TestARequestIsWhatItSays(t *testing.T) {
	r, err := decodeRequest(encodeFields(with(connectFields, "culvert-authorization", "Bearer x", "sf_user", "eve", "cookie", "a", "cookie", "b")...))
	if err != nil {
		t.Fatal(err)
	}
	if r.Method != "CONNECT" || r.Proto != "culvert" || r.ProtoMajor != 3 || r.URL.Path != "/p/culvert" || r.Host != "gw:443" || r.ContentLength != -1 ||
		r.Header.Get("Culvert-Authorization") != "Bearer x" || r.Header["Sf_user"] == nil || len(r.Header["Cookie"]) != 2 {
		t.Errorf("%+v", r)
	}
	r, err = decodeRequest(encodeFields(with(postFields, "host", "gw", "content-length", "7", "te", "trailers")...))
	if err != nil || r.Proto != "HTTP/3.0" || r.ContentLength != 7 || r.Host != "gw" {
		t.Errorf("%+v, %v", r, err)
	}
	r, err = decodeRequest(encodeFields(":method", "GET", ":scheme", "https", ":path", "/", "host", "gw"))
	if err != nil || r.Host != "gw" {
		t.Errorf("%+v, %v", r, err)
	}
}

// A request that could be read in two ways is refused.
func TestAMalformedRequestIsRefused(t *testing.T) {
	for name, fields := range map[string][]string{
		"nothing":                          {},
		"no method":                        postFields[2:],
		"no scheme":                        {":method", "POST", ":authority", "gw", ":path", "/"},
		"no authority":                     {":method", "POST", ":scheme", "https", ":path", "/"},
		"no path":                          postFields[:6],
		"an absolute path":                 with(postFields[:6], ":path", "https://other/culvert"),
		"a method of two words":            with(postFields[2:], ":method", "GET /"),
		"a method twice":                   with(postFields, ":method", "GET"),
		"a path twice":                     with(postFields, ":path", "/culvert"),
		"a path behind a field":            with(postFields[:6], "a", "b", ":path", "/culvert"),
		"a status":                         with(postFields, ":status", "200"),
		"an unknown pseudo-header":         with(postFields, ":user", "eve"),
		"upper case":                       with(postFields, "Culvert-Authorization", "x"),
		"a space in a name":                with(postFields, "culvert authorization", "x"),
		"an empty name":                    with(postFields, "", "x"),
		"a colon alone":                    with(postFields, ":", "x"),
		"a new line in a value":            with(postFields, "a", "b\r\nc: d"),
		"a NUL in a value":                 with(postFields, "a", "b\x00"),
		"Connection":                       with(postFields, "connection", "close"),
		"Upgrade":                          with(postFields, "upgrade", "h2c"),
		"Transfer-Encoding":                with(postFields, "transfer-encoding", "chunked"),
		"TE":                               with(postFields, "te", "gzip"),
		"another Host":                     with(postFields, "host", "other"),
		"two Hosts":                        with(postFields, "host", "gw", "host", "gw"),
		"userinfo":                         {":method", "POST", ":scheme", "https", ":authority", "eve@gw", ":path", "/"},
		"two lengths":                      with(postFields, "content-length", "1", "content-length", "2"),
		"a negative length":                with(postFields, "content-length", "-1"),
		"a length beyond all":              with(postFields, "content-length", "18446744073709551615"),
		"a protocol without CONNECT":       with(postFields, ":protocol", "culvert"),
		"an empty protocol":                with([]string{":protocol", "", ":method", "CONNECT"}, connectFields[4:]...),
		"a plain CONNECT with a path":      {":method", "CONNECT", ":authority", "gw", ":path", "/culvert"},
		"an extended CONNECT with no path": connectFields[:8],
	} {
		if r, err := decodeRequest(encodeFields(fields...)); err == nil {
			t.Errorf("%s: %+v", name, r)
		}
	}
	for name, block := range map[string][]byte{
		"no block":                  nil,
		"half a prefix":             {0},
		"a dynamic table":           {0, 0, 0x80},
		"an index beyond the table": {0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f},
		"a string that is cut":      {0, 0, 0x51, 0x05, 'a'},
	} {
		if r, err := decodeRequest(block); err == nil {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

// One byte of a block can stand for a field of a hundred bytes: the decoded size counts.
func TestAHeaderIsCountedAsItIsDecoded(t *testing.T) {
	block := append(encodeFields(postFields...), bytes.Repeat([]byte{0xc0 | 44}, MaxHeader/50)...)
	if _, err := decodeRequest(block); !errors.Is(err, errHeaderTooLarge) {
		t.Errorf("a block of %d bytes: %v", len(block), err)
	}
	if _, err := decodeRequest(encodeFields(with(postFields, "a", strings.Repeat("b", MaxHeader-500))...)); err != nil {
		t.Errorf("a header just within the limit: %v", err)
	}
}

// Any block is refused, or makes a request that cannot be mistaken for another one.
func FuzzDecodeRequest(f *testing.F) {
	f.Add(encodeFields(connectFields...))
	f.Add(encodeFields(with(postFields, "host", "gw", "content-length", "7")...))
	f.Add([]byte{0, 0, 0x80})
	f.Fuzz(func(t *testing.T, block []byte) {
		r, err := decodeRequest(block)
		if err != nil {
			return
		}
		size := 0
		for name, values := range r.Header {
			for _, v := range values {
				size += len(name) + len(v) + 32
			}
			if strings.ContainsAny(name, ":\r\n\x00 ") || http.CanonicalHeaderKey(name) != name {
				t.Errorf("field %q", name)
			}
		}
		if r.URL == nil || r.Host == "" || r.Method == "" || size > MaxHeader || len(r.Header["Content-Length"]) > 1 {
			t.Errorf("%+v", r)
		}
	})
}
