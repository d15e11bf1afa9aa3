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

// errHeaderTooLarge is what is said of HEADERS beyond MaxHeader, counted as RFC 9114 §4.2.2 does. It must not be changed.
var errHeaderTooLarge = ProtocolError("HTTP/3 header of more than %d bytes", MaxHeader)

// decodeFields decodes the block of a HEADERS frame. A byte of it can stand for a field of a hundred, so that the size of the block is no bound.
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

// notInHTTP3 are fields that belong to one connection of HTTP/1.1, RFC 9114 §4.2.
var notInHTTP3 = []string{"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"}

// decodeRequest makes a request of the block of a HEADERS frame. An error other than errHeaderTooLarge says that it is malformed: nothing may be
// guessed of such a request (RFC 9114 §4.1.2), for whatever has passed it on may have read it in another way.
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

// sortFields takes the pseudo-header fields of a request apart from the others.
func sortFields(fields []qpack.HeaderField) (pseudo map[string]string, header http.Header, err error) {
	pseudo, header = make(map[string]string), make(http.Header)
	for _, f := range fields {
		name := strings.TrimPrefix(f.Name, ":")
		switch _, twice := pseudo[f.Name]; {
		case !httpguts.ValidHeaderFieldName(name) || strings.ToLower(name) != name || !httpguts.ValidHeaderFieldValue(f.Value):
			return nil, nil, fmt.Errorf("invalid field %.100q", f.Name)
		case !f.IsPseudo() && (slices.Contains(notInHTTP3, name) || name == "te" && f.Value != "trailers"):
			return nil, nil, fmt.Errorf("field %q in HTTP/3", name)
		case !f.IsPseudo():
			header.Add(f.Name, f.Value)
		case twice || len(header) > 0 || !slices.Contains([]string{":method", ":protocol", ":scheme", ":authority", ":path"}, f.Name):
			return nil, nil, fmt.Errorf("field %.100q twice, behind others, or in a request", f.Name)
		default:
			pseudo[f.Name] = f.Value
		}
	}
	return pseudo, header, nil
}

// contentLength is −1 if there is none.
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

// setTarget sets where a request goes, RFC 9114 §4.3.1 and §4.4, RFC 9220 §3.
func setTarget(r *http.Request, pseudo map[string]string) (err error) {
	protocol, extended := pseudo[":protocol"]
	hosts := r.Header["Host"]
	delete(r.Header, "Host")
	if r.Host == "" && len(hosts) == 1 && r.Method != http.MethodConnect {
		r.Host = hosts[0]
	}
	switch {
	case !httpguts.ValidHeaderFieldName(r.Method): // which is a token, too
		return errors.New("invalid :method")
	case r.Host == "" || strings.Contains(r.Host, "@") || len(hosts) > 1 || len(hosts) == 1 && hosts[0] != r.Host:
		return errors.New("invalid :authority or Host")
	case extended && (r.Method != http.MethodConnect || !httpguts.ValidHeaderFieldName(protocol)):
		return errors.New("invalid :protocol, or without CONNECT")
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
