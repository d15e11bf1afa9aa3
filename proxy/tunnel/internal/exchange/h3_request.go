package exchange

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/quic-go/qpack"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"golang.org/x/net/http/httpguts"
)

// H3Request returns the HEADERS frame of an extended CONNECT to u, or of a POST. For a POST it sets
// the Content-Type in header.
func H3Request(u *url.URL, header http.Header, post bool) []byte {
	var fields fieldBlock
	if post {
		header.Set("Content-Type", PostType)
		fields.add(":method", http.MethodPost)
	} else {
		fields.add(":method", http.MethodConnect)
		fields.add(":protocol", H3Protocol)
	}
	fields.add(":scheme", u.Scheme)
	fields.add(":authority", u.Host)
	fields.add(":path", u.EscapedPath())
	for _, name := range slices.Sorted(maps.Keys(header)) {
		fields.add(strings.ToLower(name), header.Get(name))
	}
	return fields.frame()
}

// ReadH3Request reads the request that opens stream, for at most timeout, and returns it with the
// writer of its response. After an error the stream has been answered or reset. read counts the
// bytes read from all streams of conn.
//
// The writer sends each part of the response at once. Until [H3Writer.Exchange] is called its
// writes have the same timeout, so that a peer that grants no flow-control credit cannot keep the
// request for longer.
func ReadH3Request(conn *quic.Conn, stream *quic.Stream, read *atomic.Uint64, timeout time.Duration) (r *http.Request, w *H3Writer, err error) {
	x := &H3{stream: stream, conn: conn, read: read, free: func() {}}
	x.in.onHeader = func(block []byte) (err error) {
		r, err = decodeRequest(block)
		x.in.answered = err == nil
		return err
	}
	w = &H3Writer{x: x, header: make(http.Header)}
	stream.SetReadDeadline(time.Now().Add(timeout))
	for !x.in.answered {
		switch err := x.step(); {
		case errors.Is(err, errHeaderTooLarge):
			w.WriteHeader(http.StatusRequestHeaderFieldsTooLarge)
			w.Finish()
			return nil, nil, err
		case err != nil:
			ResetH3(stream, http3.ErrCodeMessageError)
			return nil, nil, err
		}
	}
	stream.SetReadDeadline(time.Time{})
	state := conn.ConnectionState().TLS
	r.TLS, r.RemoteAddr = &state, conn.RemoteAddr().String()
	x.lastByte.Store(Clock())
	stream.SetWriteDeadline(time.Now().Add(timeout))
	w.noBody = r.Method == http.MethodHead
	return r.WithContext(stream.Context()), w, nil
}

// ResetH3 ends both directions of a request stream.
func ResetH3(stream *quic.Stream, code http3.ErrCode) {
	stream.CancelRead(quic.StreamErrorCode(code))
	stream.CancelWrite(quic.StreamErrorCode(code))
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
