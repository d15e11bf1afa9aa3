package exchange

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/quic-go/qpack"
	"golang.org/x/net/http/httpguts"
)

// errHeaderTooLarge is the error for HEADERS larger than MaxHeader, counted as in RFC 9114 §4.2.2.
// It is shared; nobody may change it.
var errHeaderTooLarge = ProtocolError("HTTP/3 header of more than %d bytes", MaxHeader)

// decodeFields decodes the block of a HEADERS frame. It counts the decoded size, because one byte
// of a block can stand for a field of a hundred bytes.
func decodeFields(block []byte) (fields []qpack.HeaderField, err error) {
	size := 0
	for next := qpack.NewDecoder().Decode(block); ; {
		f, err := next()
		if err == io.EOF {
			return fields, nil
		}
		if err != nil {
			return nil, err
		}
		if size += len(f.Name) + len(f.Value) + 32; size > MaxHeader {
			return nil, errHeaderTooLarge
		}
		fields = append(fields, f)
	}
}

// notInHTTP3 lists the connection-specific fields of HTTP/1.1, which are malformed in HTTP/3 (RFC
// 9114 §4.2).
var notInHTTP3 = []string{"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"}

// decodeRequest decodes a request from the block of a HEADERS frame. Any error but
// errHeaderTooLarge means that the request is malformed. It is then refused and not repaired (RFC
// 9114 §4.1.2), because an intermediary that forwarded it may have read it differently.
func decodeRequest(block []byte) (*http.Request, error) {
	fields, err := decodeFields(block)
	if err != nil {
		return nil, err
	}
	pseudo, header, err := sortFields(fields)
	if err != nil {
		return nil, err
	}
	r := &http.Request{
		Method:     pseudo[":method"],
		Proto:      "HTTP/3.0",
		ProtoMajor: 3,
		Header:     header,
		Host:       pseudo[":authority"],
		RequestURI: pseudo[":path"],
		Body:       http.NoBody,
	}
	if r.ContentLength, err = contentLength(header["Content-Length"]); err != nil {
		return nil, err
	}
	return r, setTarget(r, pseudo)
}

// sortFields separates the pseudo-header fields of a request from the others.
func sortFields(fields []qpack.HeaderField) (pseudo map[string]string, header http.Header, err error) {
	pseudo, header = make(map[string]string), make(http.Header)
	for _, f := range fields {
		name := strings.TrimPrefix(f.Name, ":")
		switch _, twice := pseudo[f.Name]; {
		case !httpguts.ValidHeaderFieldName(name) || strings.ToLower(name) != name || !httpguts.ValidHeaderFieldValue(f.Value):
			return nil, nil, fmt.Errorf("invalid field %.100q", f.Name)
		case !f.IsPseudo() && (slices.Contains(notInHTTP3, name) || name == "te" && f.Value != "trailers"):
			return nil, nil, fmt.Errorf("field %q is not allowed in HTTP/3", name)
		case !f.IsPseudo():
			header.Add(f.Name, f.Value)
		case twice || len(header) > 0 || !slices.Contains([]string{":method", ":protocol", ":scheme", ":authority", ":path"}, f.Name):
			return nil, nil, fmt.Errorf("pseudo-header field %.100q is repeated, misplaced or unknown", f.Name)
		default:
			pseudo[f.Name] = f.Value
		}
	}
	return pseudo, header, nil
}

// contentLength returns the value of Content-Length, or −1 if there is none.
func contentLength(values []string) (int64, error) {
	if len(values) == 0 {
		return -1, nil
	}
	n, err := strconv.ParseUint(values[0], 10, 63)
	if err != nil || len(values) > 1 {
		return 0, errors.New("invalid Content-Length")
	}
	return int64(n), nil
}

// setTarget sets the target of a request, RFC 9114 §4.3.1 and §4.4, RFC 9220 §3.
func setTarget(r *http.Request, pseudo map[string]string) (err error) {
	protocol, extended := pseudo[":protocol"]
	hosts := r.Header["Host"]
	delete(r.Header, "Host")
	if r.Host == "" && len(hosts) == 1 && r.Method != http.MethodConnect {
		r.Host = hosts[0]
	}
	switch {
	case !httpguts.ValidHeaderFieldName(r.Method): // a method is a token, too
		return errors.New("invalid :method")
	case r.Host == "" || strings.Contains(r.Host, "@") || len(hosts) > 1 || len(hosts) == 1 && hosts[0] != r.Host:
		return errors.New("invalid :authority or Host")
	case extended && (r.Method != http.MethodConnect || !httpguts.ValidHeaderFieldName(protocol)):
		return errors.New("invalid :protocol, or :protocol without CONNECT")
	case r.Method == http.MethodConnect && !extended:
		if pseudo[":path"] != "" || pseudo[":scheme"] != "" {
			return errors.New(":path or :scheme in a CONNECT")
		}
		r.URL = &url.URL{Host: r.Host}
		return nil
	case pseudo[":scheme"] == "" || !strings.HasPrefix(pseudo[":path"], "/") && pseudo[":path"] != "*":
		return errors.New("no :scheme, or an invalid :path")
	}
	if extended {
		r.Proto = protocol
	}
	r.URL, err = url.ParseRequestURI(pseudo[":path"])
	return err
}
