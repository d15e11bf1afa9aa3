package tunnel

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/quic-go/qpack"
	"github.com/quic-go/quic-go/http3"
)

// fieldBlock is the block of a HEADERS frame, of names and values.
func fieldBlock(fields ...string) []byte {
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
	return append(fields[:len(fields):len(fields)], more...)
}

func TestARequestIsWhatItSays(t *testing.T) {
	r, err := decodeRequest(fieldBlock(with(connectFields, "culvert-authorization", "Bearer x", "sf_user", "eve", "cookie", "a", "cookie", "b")...))
	if err != nil {
		t.Fatal(err)
	}
	if r.Method != "CONNECT" || r.Proto != "culvert" || r.ProtoMajor != 3 || r.URL.Path != "/p/culvert" || r.Host != "gw:443" || r.ContentLength != -1 ||
		r.Header.Get(headerAuthorization) != "Bearer x" || r.Header["Sf_user"] == nil || len(r.Header["Cookie"]) != 2 {
		t.Errorf("%+v", r)
	}
	r, err = decodeRequest(fieldBlock(with(postFields, "host", "gw", "content-length", "7", "te", "trailers")...))
	if err != nil || r.Proto != "HTTP/3.0" || r.ContentLength != 7 || r.Host != "gw" {
		t.Errorf("%+v, %v", r, err)
	}
	r, err = decodeRequest(fieldBlock(":method", "GET", ":scheme", "https", ":path", "/", "host", "gw"))
	if err != nil || r.Host != "gw" {
		t.Errorf("%+v, %v", r, err)
	}
}

// What could be read in two ways is read in none.
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
		if r, err := decodeRequest(fieldBlock(fields...)); err == nil {
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

// A byte of a block can stand for a hundred of a field: what counts is what it becomes.
func TestAHeaderIsCountedAsItIsDecoded(t *testing.T) {
	block := append(fieldBlock(postFields...), bytes.Repeat([]byte{0xc0 | 44}, maxHeader/50)...)
	if _, err := decodeRequest(block); !errors.Is(err, errHeaderTooLarge) {
		t.Errorf("a block of %d bytes: %v", len(block), err)
	}
	if _, err := decodeRequest(fieldBlock(with(postFields, "a", strings.Repeat("b", maxHeader-500))...)); err != nil {
		t.Errorf("a header just within the limit: %v", err)
	}
}

// Another client than ours gets answers that it can read.
func TestAnyHTTP3ClientIsAnswered(t *testing.T) {
	r := newRig(t, "h3")
	_, client := testTLS()
	for _, tt := range []struct {
		method, path, header string
		status               int
		says                 string
	}{
		{"GET", "/", "", 404, "its tunnel is at /culvert"},
		{"HEAD", "/", "", 404, ""},
		{"GET", "/culvert", "", 405, "point culvert agent"},
		{"POST", "/culvert", "", 415, "application/octet-stream"},
		{"GET", "/", strings.Repeat("x", maxHeader), 431, ""},
		{"GET", "/", strings.Repeat("x", maxHeader-500), 404, "its tunnel"},
	} {
		req, err := http.NewRequest(tt.method, "https://"+r.addr+tt.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X", tt.header)
		tr := &http3.Transport{TLSClientConfig: client} // for what strangers may send is little
		defer tr.Close()
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Errorf("%s %s: %v", tt.method, tt.path, err)
			continue
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != tt.status || !strings.Contains(string(body), tt.says) {
			t.Errorf("%s %s: %s, %q, %v", tt.method, tt.path, resp.Status, body, err)
		}
		if tt.status != 431 && resp.Header.Get(headerGateway) != "test" || resp.Header.Get("Date") == "" {
			t.Errorf("%s %s: header %v", tt.method, tt.path, resp.Header)
		}
	}
}

// Whatever a block says, it is refused or makes a request that cannot be mistaken for another.
func FuzzDecodeRequest(f *testing.F) {
	f.Add(fieldBlock(connectFields...))
	f.Add(fieldBlock(with(postFields, "host", "gw", "content-length", "7")...))
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
		if r.URL == nil || r.Host == "" || r.Method == "" || size > maxHeader || len(r.Header["Content-Length"]) > 1 {
			t.Errorf("%+v", r)
		}
	})
}
